"""Find and start a Chromium, or with `python -m tests.support.browsers` install one: Playwright's own, else the
distribution's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def running_chromium(path: Path | None = None) -> Iterator[Browser]:
    """A browser of its own, gone with the context: the one at `path`, else the first that starts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path or find_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


def find_chromium() -> Path | None:
    """The first Chromium that starts: `STUDIO_CHROMIUM`, one on the PATH, then Playwright's own."""
    return next((path for path in _candidates() if _starts(path)), None)


def _candidates() -> Iterator[Path]:
    if chosen := os.environ.get("STUDIO_CHROMIUM"):
        yield Path(chosen)
    yield from (Path(path) for name in NAMES if (path := shutil.which(name)))
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or "~/.cache/ms-playwright").expanduser()
    yield from sorted(cache.glob("chromium-*/chrome-linux*/chrome"), reverse=True)
    yield from sorted(cache.glob("chromium-*/chrome-mac*/Chromium.app/Contents/MacOS/Chromium"), reverse=True)


def _starts(path: Path) -> bool:
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_chromium() -> Path | None:
    """Try each source in turn until a Chromium starts."""
    for command in _installers():
        print("$", *command, flush=True)
        done = subprocess.run(command, timeout=900)
        found = find_chromium() if done.returncode == 0 else None
        if found:
            return found
    return None


def _installers() -> Iterator[list[str]]:
    yield [sys.executable, "-m", "playwright", "install", "chromium"]
    if shutil.which("apt-get"):
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        yield [*as_root, "sh", "-c", "apt-get update -q && apt-get install -qy --no-install-recommends chromium"]


def main() -> int:
    found = find_chromium() or install_chromium()
    if found is None:
        print("No Chromium could be installed. Install one and set STUDIO_CHROMIUM to its path.", file=sys.stderr)
        return 1
    print(f"Chromium: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
