"""Base models and the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backend.core.fits import Load
from backend.core.forecast import Accelerator
from backend.web.contexts.page import Page
from backend.web.shapes.common import ProblemOut
from backend.web.shapes.datasets import OperationOut
from backend.web.shapes.models import BaseOut, FitOut, HubModelOut


@dataclass(frozen=True)
class HubSearch:
    """What was asked of the hub, and what it answered."""

    words: str = ""
    kind: str = ""
    """`base` or `instruct`; empty for both."""
    method: str = ""
    """Only what fits with this method on the chosen accelerator; `any` for one that fits at all; empty for everything."""
    results: list[HubModelOut] = field(default_factory=list)
    hidden: int = 0
    """How many more the hub named that are narrowed away."""
    error: ProblemOut | None = None


@dataclass(frozen=True)
class Download:
    """A model that is on its way from the hub, or did not arrive."""

    model: str
    operation: OperationOut


@dataclass(frozen=True)
class Place:
    """Somewhere to train: an accelerator of this studio's workers, or a usual size that one might have."""

    key: str
    title: str
    accelerator: Accelerator


@dataclass(frozen=True)
class ChosenModel:
    """The model in the side panel: its fits everywhere, and the parts of one of them explained."""

    base: BaseOut
    fits: list[tuple[Place, list[FitOut]]]
    fit: FitOut | None
    used_by: int
    """How many runs have started from it."""


@dataclass(frozen=True)
class ModelsPage(Page):
    """GET /models?on=&model=&method=&rows=&length=, and the hub's answer with &q=&kind=&fits=. Everything has an address.

    POST /models/download (`id`), POST /models/downloads/{operation}/cancel. The list fetches itself anew while one goes on.
    """

    template = "models.html"
    models: list[BaseOut]
    """With their fits on the chosen accelerator."""
    roots: list[str]
    """The folders that were looked into."""
    places: list[Place]
    on: Place
    methods: dict[str, str]
    """By kind, the title."""
    method: str
    load: Load
    loads: tuple[tuple[int, ...], tuple[int, ...]]
    """The rows and the lengths that can be chosen."""
    chosen: ChosenModel | None
    explained: Mapping[str, str]
    """One sentence for each part of the memory."""
    downloads: list[Download]
    hub: HubSearch
    link: Callable[..., str]
    """The address of this page with some of its choices exchanged."""
