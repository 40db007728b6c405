"""Lists of what is proved name their tests as `file::test`, the file below `tests`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def missing(names: Iterable[str]) -> list[str]:
    """Those that name no test."""
    split = [name.partition("::") for name in names]
    return [f"{file}::{test}" for file, _, test in split if test not in _tests_of(file)]


@cache
def _tests_of(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))
