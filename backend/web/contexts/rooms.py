"""Home, the lists of runs and recipes, the search, help and the API's description."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backend.core.difference import SettingDifference
from backend.core.run_list import Wanted
from backend.web.addresses import Address
from backend.web.contexts.page import Did, Page
from backend.web.glances import Glance
from backend.web.shapes.common import Json
from backend.web.shapes.datasets import VersionOut
from backend.web.shapes.launch import RecipeOut
from backend.web.shapes.runs import ArtifactOut, Choices, RunOut, WaitOut
from backend.web.shapes.studio import HitOut, WorkerOut


@dataclass(frozen=True)
class RecentDataset:
    """A data set with its newest version."""

    name: str
    version: VersionOut


@dataclass(frozen=True)
class HomePage(Page):
    """Live by `/api/v1/events?latest=1&beyond=…`: numbers move at once, and whatever else changes is drawn anew."""

    template = "home.html"
    running: list[RunOut]
    waiting: list[RunOut]
    """In the order in which they will be taken."""
    waits: dict[UUID, WaitOut]
    """The silent hosts that runs depend on, by run."""
    lately: list[RunOut]
    downloads: dict[UUID, ArtifactOut]
    """The merged models of those that ended lately, by run."""
    glances: dict[UUID, Glance]
    counts: dict[str, int]
    """Runs by state."""
    datasets: list[RecentDataset]
    workers: list[WorkerOut]
    newest: UUID | None
    """The newest run of all."""
    did: Did | None = None


@dataclass(frozen=True)
class RunsPage(Page):
    """GET /runs?state=&owner=&model=&data=&q=&sort=&before=. POST /runs/several?act=&back= with several `run`.

    Live by `/api/v1/events?latest=1&run=…&beyond=…`.
    """

    template = "runs.html"
    runs: list[RunOut]
    glances: dict[UUID, Glance]
    wanted: Wanted
    address: Address
    """This list, for links that narrow or sort it otherwise."""
    counts: dict[str, int]
    """Runs by state, narrowed by everything but the state."""
    choices: Choices
    newest: UUID | None
    """The newest run of all."""
    next: str | None = None
    """The cursor of the next page: `before`."""
    did: Did | None = None


@dataclass(frozen=True)
class SearchPage(Page):
    """GET /search?q=. The search of the top bar asks `/api/v1/search` while one types."""

    template = "search.html"
    q: str
    hits: list[HitOut]


@dataclass(frozen=True)
class RecipesPage(Page):
    """A recipe is saved from the new-run form and launched by /runs/new?recipe=NAME."""

    template = "recipes.html"
    recipes: list[RecipeOut]
    next_offset: int | None


@dataclass(frozen=True)
class RecipePage(Page):
    """GET /recipes/{name}?version=N: one version in YAML, and how it came about. POST /recipes/{name}/delete."""

    template = "recipe.html"
    recipe: RecipeOut
    number: int
    """The version that is shown."""
    body: Json
    history: list[tuple[int, datetime]]
    """The number of every version, the newest first, and when it was saved."""
    yaml: str
    changes: list[SettingDifference]
    """What this version says otherwise than the one before it."""


@dataclass(frozen=True)
class HelpPage(Page):
    template = "help.html"


@dataclass(frozen=True)
class DocsPage(Page):
    """The interactive reference of the API: `docs.js` draws `/api/v1/openapi.json` with nothing from outside."""

    template = "docs.html"
