"""The sentences that the server may say to a person, found in its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAKERS = re.compile(
    r"Problem|Failed|BadRow|BadYaml|Invalid|BadRequest|Unauthenticated|Forbidden|NotFound|NotAllowed|Conflict|TooLarge|TooMany|Unavailable|Unstorable|TemplateRefused"
)
SPOKEN = ("message", "hint", "words")
"""What such sentences are called where they are made."""


def phrases_of(folder: Path) -> set[str]:
    """`There is no run “{}”.`: each text, its values left out."""
    files = [ast.parse(path.read_text("utf-8")) for path in sorted(folder.rglob("*.py"))]
    return {
        phrase for tree in files for node in ast.walk(tree) for phrase in _phrases(node) if re.search("[a-z]", phrase)
    }


def _phrases(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Name(id=maker)) if MAKERS.fullmatch(maker):
            place = 1 if maker in ("Problem", "BadRow") else 0
            texts = [*node.args[place : place + 1], *node.args[place + 1 + (maker == "Problem") :]]
            named = [keyword.value for keyword in node.keywords if keyword.arg in SPOKEN]
            yield from _texts([*texts, *named])
        case ast.Call(func=ast.Attribute(attr="log" | "phase"), args=[_, text]):  # a line of a run's log
            yield from _texts([text])
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in SPOKEN:
            yield from _texts([value])


def _texts(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=values):
                yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in values)
            case ast.IfExp(body=one, orelse=other):
                yield from _texts([one, other])
