"""`backend.web → backend.core ← worker`, nothing else; and no heavy library where it is not needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl")
WEB_FRAMEWORK = ("fastapi", "starlette", "uvicorn", "jinja2")
BLOCKED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import importlib
for name in {wanted!r}:
    importlib.import_module(name)
loaded = sorted(name for name in {blocked!r} if sys.modules.get(name))
assert not loaded, loaded
"""


def modules(folder: str) -> list[str]:
    """Every importable module under a package."""
    files = sorted(path for path in (ROOT / folder).rglob("*.py") if path.name != "__main__.py")
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_with_blocked(wanted: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    program = BLOCKED.format(blocked=blocked, wanted=wanted)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("backend/core", ("backend.web", "backend.embedded", "backend.commands", "backend.cli", "worker")),
        ("backend/web", ("worker", "backend.commands", "backend.cli")),
        ("worker", ("backend.web", "backend.embedded", "backend.commands", "backend.cli")),
    ],
)
def test_the_layers_import_in_one_direction_only(folder: str, forbidden: tuple[str, ...]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imports(path)
        if any(name == each or name.startswith(each + ".") for each in forbidden)
    ]
    assert wrong == []


def test_the_core_imports_with_every_heavy_library_and_the_web_framework_blocked() -> None:
    answer = import_with_blocked(modules("backend/core"), HEAVY + WEB_FRAMEWORK)
    assert answer.returncode == 0, answer.stderr


def test_what_renders_rows_in_a_process_of_its_own_imports_with_every_database_blocked() -> None:
    answer = import_with_blocked(modules("backend/core/rendering"), (*HEAVY, "sqlalchemy", "psycopg", "redis"))
    assert answer.returncode == 0, answer.stderr


def test_the_web_application_imports_with_torch_blocked() -> None:
    answer = import_with_blocked(modules("backend/web"), HEAVY)
    assert answer.returncode == 0, answer.stderr


def test_the_worker_imports_with_the_web_framework_blocked() -> None:
    light = [name for name in modules("worker") if name.count(".") == 1]
    answer = import_with_blocked([*light, "worker.trainer.train", "worker.exports.publish"], WEB_FRAMEWORK)
    assert answer.returncode == 0, answer.stderr


def test_the_supervisor_and_the_celery_worker_import_with_torch_blocked() -> None:
    answer = import_with_blocked(["worker.supervisor", "worker.main"], HEAVY)
    assert answer.returncode == 0, answer.stderr


def test_a_planted_import_across_the_layers_would_be_found(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from backend.web import app\n")
    assert "backend.web.app" in set(imports(planted))
