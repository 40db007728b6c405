"""What is installed: bounds that resolve, locks without hosts, a wheel with everything in it, containers that fit it."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hatch_build

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {"requirements-web.lock": (), "requirements.lock": ("worker",), "requirements-dev.lock": ("worker", "dev")}


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for with these extras, on this machine."""
    optional = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in optional[extra])]
    wanted = [Requirement(line) for line in lines]
    return [one for one in wanted if one.name != "finetune-studio" and (not one.marker or one.marker.evaluate())]


def pins(lock: str) -> dict[str, str]:
    """Name → version for this machine, as a lock states them."""
    found: dict[str, str] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9][^=\s]*)==(\S+)(?: ; (.+?))? \\$", line):
            name, version, marker = match.groups()
            if not marker or Marker(marker).evaluate():
                found[canonicalize_name(re.sub(r"\[.*\]", "", name))] = version
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_hashes_all_but_torch(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "index-url" not in text
    assert not re.search(r"^(torch|nvidia\S*)==", text, re.MULTILINE)
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.IGNORECASE | re.MULTILINE)[1:]
    assert len(blocks) > 40
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items())
def test_a_lock_satisfies_the_bounds(lock: str, extras: tuple[str, ...]) -> None:
    pinned = pins(lock)
    wanted = [one for one in requirements(*extras) if one.name != "torch"]
    wrong = [f"{one}: {pinned.get(canonicalize_name(one.name))}" for one in wanted if not _satisfied(one, pinned)]
    assert not wrong, "run `make lock`"


def _satisfied(wanted: Requirement, pinned: dict[str, str]) -> bool:
    version = pinned.get(canonicalize_name(wanted.name))
    return version is not None and wanted.specifier.contains(version)


def test_the_locks_agree_with_each_other() -> None:
    everything = pins("requirements-dev.lock")
    for lock in ("requirements-web.lock", "requirements.lock"):
        assert pins(lock).items() <= everything.items()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_bounds_resolve_afresh(python: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--quiet",
        "--extra=worker",
        "--extra=dev",
    ]
    fresh = [f"--python-version={python}", "--python-platform=linux", f"--output-file={tmp_path / 'lock'}"]
    done = subprocess.run([*command, *fresh], cwd=ROOT, capture_output=True, text=True, timeout=120)
    if done.returncode and re.search(r"error sending request|Failed to fetch|dns error", done.stderr):
        pytest.skip(f"the package registry cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def test_the_web_needs_no_torch() -> None:
    assert "torch" not in {one.name for one in requirements()}
    assert not {"torch", "peft", "accelerate", "bitsandbytes"} & pins("requirements-web.lock").keys()


def imported_distributions(*packages: str) -> dict[str, str]:
    """Each distribution that the source imports, and one file that does so."""
    owners = importlib.metadata.packages_distributions()
    found: dict[str, str] = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            for module in _imports(ast.parse(path.read_text())):
                for distribution in owners.get(module, []):
                    found.setdefault(canonicalize_name(distribution), str(path.relative_to(ROOT)))
    return found


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_everything_imported_is_declared() -> None:
    declared = {canonicalize_name(one.name) for one in requirements("worker")}
    imported = imported_distributions("backend", "worker", "migrations")
    ours = {"finetune-studio"}
    # Parts of a declared package that are versioned with it.
    within = {"starlette": "fastapi", "pydantic-core": "pydantic", "psycopg-pool": "psycopg", "click": "typer",
              "kombu": "celery", "markupsafe": "jinja2", "mako": "alembic", "httpcore2": "httpx2", "h11": "uvicorn"}  # fmt: skip
    missing = {name: file for name, file in imported.items() if within.get(name, name) not in declared | ours}
    assert not missing


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of all files in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return zipfile.ZipFile(next(folder.glob("*.whl"))).namelist()


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        ("backend/web/static/manifest.json", "backend/web/static/manifest.json"),
        ("backend/web/static/main-*.js", "backend/web/static/main-*.js"),
        ("backend/migrations/versions/*.py", "migrations/versions/*.py"),
        ("backend/frontend/pages/*.html", "frontend/pages/*.html"),
        ("backend/frontend/parts/*.html", "frontend/parts/*.html"),
        ("backend/frontend/locales/*.json", "frontend/locales/*.json"),
        ("worker/__init__.py", "worker/__init__.py"),
    ],
)
def test_an_installed_studio_has_what_a_checkout_has(wheel: list[str], pattern: str, source: str) -> None:
    here = sorted(path.name for path in ROOT.glob(source))
    assert here
    assert sorted(Path(name).name for name in fnmatch.filter(wheel, pattern)) == here


def test_no_test_and_no_library_is_in_the_wheel(wheel: list[str]) -> None:
    assert not [name for name in wheel if name.startswith("tests/") or "node_modules" in name or name.endswith(".map")]


def test_a_front_end_is_current_until_a_source_changes(tmp_path: Path) -> None:
    source, manifest = tmp_path / "frontend" / "src" / "main.ts", tmp_path / "manifest.json"
    source.parent.mkdir(parents=True)
    source.write_text("")
    assert not hatch_build.is_current(tmp_path / "frontend", manifest)
    manifest.write_text("{}")
    assert hatch_build.is_current(tmp_path / "frontend", manifest)
    os.utime(source, (manifest.stat().st_mtime + 10,) * 2)
    assert not hatch_build.is_current(tmp_path / "frontend", manifest)


def test_the_images_copy_only_what_exists_and_reaches_the_engine() -> None:
    copied = [
        name
        for line in (ROOT / "Dockerfile.gpu").read_text().splitlines()
        if line.startswith("COPY ")
        for name in line.split()[1:-1]
    ]
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert len(copied) > 5
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    assert set(copied) <= sent


def test_compose_builds_targets_that_exist_and_has_no_password_of_its_own() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile.gpu").read_text(), re.MULTILINE))
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    assert {"postgres", "valkey", "web", "worker"} <= services.keys()
    assert targets == {"web", "worker"} <= stages
    secrets = re.findall(r"\$\{(\w*PASSWORD)([^}]*)\}", text)
    assert len(secrets) >= 4
    assert all(rest.startswith(":?") for _, rest in secrets), "a missing password must stop the start"


def test_compose_publishes_nothing_but_the_web_and_that_on_loopback() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"web": ["${STUDIO_BIND:-127.0.0.1}:${STUDIO_PORT:-8321}:8321"]}


def test_compose_waits_for_what_it_needs() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            is_healthy = how["condition"] == "service_healthy"
            assert is_healthy == ("healthcheck" in services[needed] and needed != "migrate")
