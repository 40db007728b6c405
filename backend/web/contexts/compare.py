"""Runs beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from backend.web.contexts.page import Page
from backend.web.glances import Glance
from backend.web.shapes.compare import ComparisonOut
from backend.web.shapes.runs import RunOut, SampleOut


@dataclass(frozen=True)
class Told:
    """What one of the compared runs answered to a prompt; None where it did not at that step."""

    step: int | None
    sample: SampleOut | None


@dataclass(frozen=True)
class SideBySide:
    """Answers to one prompt by all compared runs."""

    prompt: str
    number: int
    """Which prompt, from 0."""
    of: int
    at: str
    """`newest`, `best` or a step."""
    steps: list[int]
    """The steps at which somebody answered."""
    told: list[Told]


@dataclass(frozen=True)
class ComparePage(Page):
    """GET /compare?run=&run=…&prompt=&at=&settings=all. With fewer than two runs it offers some.

    Live by `/api/v1/events?run=…`; curves by `/api/v1/runs/{id}/metrics`. `q` searches the runs that can be added.
    """

    template = "compare.html"
    comparison: ComparisonOut | None
    chosen: list[RunOut]
    """What was asked for, in that order."""
    candidates: list[RunOut]
    """Runs that can be added, those of the same data first."""
    glances: dict[UUID, Glance]
    q: str
    samples: SideBySide | None
    all_settings: bool
    address: str
    """This page with its runs alone: `/compare?run=a&run=b`."""
