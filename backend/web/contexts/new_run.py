"""The form of a new run, and its preflight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.core.difference import SettingDifference
from backend.core.memory import EXPLAINED
from backend.core.methods.base import Method
from backend.core.prospects import Prospect
from backend.web.contexts.page import Page
from backend.web.forms import Control
from backend.web.shapes.common import Json, ProblemOut
from backend.web.shapes.datasets import DatasetOut
from backend.web.shapes.launch import RecipeOut
from backend.web.shapes.models import BaseOut
from backend.web.shapes.runs import RunOut


@dataclass(frozen=True)
class Preflight:
    """What a launch would do, told beside the form while it is filled in."""

    prospect: Prospect | None = None
    """Null while model or data are to be chosen, or the recipe cannot be understood."""
    error: ProblemOut | None = None
    problems: list[ProblemOut] = field(default_factory=list)
    """What stops the run."""
    lines: dict[str, int] = field(default_factory=dict)
    """In the YAML view: the line of each place that a problem or a finding names."""

    explained: Mapping[str, str] = field(default_factory=lambda: EXPLAINED)
    """What each part of the memory is held for."""

    @property
    def stops(self) -> bool:
        return bool(self.error or self.problems)

    @property
    def places(self) -> list[str]:
        """Every setting that something is said of."""
        own = [each.where or "" for each in self.problems]
        if self.prospect is None:
            return own
        findings = (each.problem for each in self.prospect.advice)
        return own + [each.where for each in (*self.prospect.notes, *findings)]


@dataclass(frozen=True)
class Form:
    """What the form of a new run says at this moment, and how it is shown."""

    view: str
    """`simple`, `advanced` or `yaml`; the address says it as `?view=`."""
    controls: list[Control]
    pencilled: dict[str, str]
    """What each setting sends that stands as recommended: what comes back so was set by nobody."""
    set_by_hand: int
    yaml: str
    """The recipe as it was typed, or as it would be."""
    parent: str = ""
    """The run that this one clones."""
    recipe: str = ""
    """The saved recipe that it started from."""
    once: str = ""
    """A word of this form alone: however often it is sent, it starts one run."""
    is_restored: bool = False
    """The browser had kept it from an earlier visit."""

    @property
    def settings(self) -> int:
        return len(self.pencilled)


@dataclass(frozen=True)
class NewRunPage(Page):
    """GET /runs/new?view=&clone=&recipe=&dataset=&model=&max_length=&truncation=; POST /runs launches.

    POST /runs/new?view= answers with this page again in that view, POST /runs/preflight?part=quick|deep with the parts of it
    that follow from what was typed (`PreflightPart`), and POST /runs/recipe saves the recipe as `save_as`.
    Settings have names such as `method.r`; in the YAML view the textarea `yaml` holds them all.
    """

    template = "new-run.html"
    form: Form
    preflight: Preflight
    datasets: list[DatasetOut]
    models: list[BaseOut]
    recipes: list[RecipeOut]
    lately: list[RunOut]
    """Runs to start from."""
    differences: list[SettingDifference]
    """From the run or the recipe that it started from."""
    methods: Sequence[type[Method]]
    saved: RecipeOut | None = None
    """The recipe that was saved just now."""


@dataclass(frozen=True)
class PreflightPart(Page):
    """The preflight, and with it whatever the form says that follows from it: counts, what each method takes."""

    template = "parts/new-run-live.html"
    form: Form
    preflight: Preflight


@dataclass(frozen=True)
class FirstRowPart(Page):
    """GET /runs/new/row?dataset=&version=&model=&chat_template=: the first row as the model will see it."""

    template = "parts/first-row.html"
    row: Json | None
    error: ProblemOut | None = None
