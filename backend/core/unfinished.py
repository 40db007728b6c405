"""A restore that broke off left its draft in the home: nobody serves such a studio before that was put in order."""

from __future__ import annotations

from pathlib import Path

from backend.core.errors import Conflict

DRAFT = ".restore-"
"""How folders of the home begin that a restore works in."""


def refuse_unfinished(home: Path) -> None:
    """Raises `Conflict` where a restore is at work or broke off: what lies there may be half of one studio, half of another."""
    if any(home.glob(f"{DRAFT}*")):
        hint = "Run `studio migrate`, then start again."
        raise Conflict(f"A restore is at work in {home}, or broke off.", hint=hint, code="restore.unfinished")
