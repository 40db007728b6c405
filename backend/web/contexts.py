"""What each page is given to draw: one dataclass a page, each naming its template.

A template sees the fields of its dataclass and, beside them, what `render.py` adds to every page:
`here` (`Here`, below), `_` and `ngettext` (the reader's language), `asset("main.js")` (a hashed address), and the filters
`bytes`, `number`, `rate`, `when`, `duration`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from backend.web.forms import Control
from backend.web.shapes import (
    AmendmentOut,
    ArtifactOut,
    AttemptOut,
    BaseOut,
    CheckpointOut,
    DatasetDetailOut,
    DatasetOut,
    Json,
    OperationOut,
    PersonOut,
    ProblemOut,
    RecipeOut,
    RunDetailOut,
    RunOut,
    SampleOut,
    TokenOut,
    WorkerOut,
)


@dataclass(frozen=True)
class Here:
    """What every page knows of the request."""

    path: str
    """The address, without the query: `/runs`."""
    nonce: str
    """For the one `<script nonce>` of the layout."""
    language: str
    """`en` or `zh`."""
    person: PersonOut | None
    """Null on the pages of people who are not signed in."""
    csrf_token: str
    """A hidden field `csrf_token` of each form, and the header `X-CSRF-Token` of scripts; empty when nobody is signed in."""
    on_plain_http: bool
    """Reached over a network without HTTPS: the layout shows what that means."""
    other_language: str
    """This page in the other language: a query alone, so that no path, `//elsewhere` say, makes it another site."""

    @property
    def may_write(self) -> bool:
        return self.person is not None and self.person.role != "viewer"

    @property
    def is_admin(self) -> bool:
        return self.person is not None and self.person.role == "admin"


@dataclass(frozen=True)
class Page:
    """The base of all pages."""

    template: ClassVar[str]
    status: ClassVar[int] = 200


@dataclass(frozen=True)
class SignInPage(Page):
    """POST /signin with `name`, `password`, `next`."""

    template = "signin.html"
    name: str = ""
    next: str = "/"
    error: ProblemOut | None = None


@dataclass(frozen=True)
class SetupPage(Page):
    """POST /setup with `token`, `name`, `password`, `again`: makes the first administrator and signs in."""

    template = "setup.html"
    token: str
    name: str = ""
    error: ProblemOut | None = None


@dataclass(frozen=True)
class ErrorPage(Page):
    template = "error.html"
    number: int
    """The HTTP status."""
    error: ProblemOut
    problems: list[ProblemOut] = field(default_factory=list)
    incident: str = ""


@dataclass(frozen=True)
class HomePage(Page):
    template = "home.html"
    runs: list[RunOut]
    """The newest runs, unfinished ones first."""
    datasets: list[DatasetOut]
    workers: list[WorkerOut]


@dataclass(frozen=True)
class DatasetsPage(Page):
    """Uploads go by script: PUT /api/v1/datasets/{name}, or tus at /api/v1/uploads with metadata `dataset`, `filename`.

    POST /datasets/{name}/delete and /datasets/{name}/restore (undo).
    """

    template = "datasets.html"
    datasets: list[DatasetOut]
    operations: list[OperationOut]
    """Uploads that are being read, and those that failed lately."""
    deleted: str = ""
    """A data set that was just deleted and can be brought back."""


@dataclass(frozen=True)
class DatasetPage(Page):
    """`preview` is filled by script or htmx from `/datasets/{name}/preview?model=&chat_template=&version=&offset=` (a part)."""

    template = "dataset.html"
    dataset: DatasetDetailOut
    number: int
    """The version that is shown."""
    models: list[BaseOut]
    """Whose tokenizer the preview can use."""
    model: str
    chat_template: str
    rows: list[Json]
    """The first rows as they were normalised: {number, messages | text}."""


@dataclass(frozen=True)
class PreviewPart(Page):
    """The preview in ink. `preview` is the answer of GET /api/v1/datasets/{name}/preview; null when `error` says why."""

    template = "parts/preview.html"
    dataset: str
    number: int
    model: str
    chat_template: str
    offset: int
    limit: int
    total: int
    preview: Json | None
    error: ProblemOut | None = None
    problems: list[ProblemOut] = field(default_factory=list)


@dataclass(frozen=True)
class ModelsPage(Page):
    template = "models.html"
    models: list[BaseOut]
    roots: list[str]
    """The folders that were looked into."""


@dataclass(frozen=True)
class RunsPage(Page):
    """Live by `/api/v1/events?latest=1&run=…`."""

    template = "runs.html"
    runs: list[RunOut]
    state: str = ""
    """The state that the list is narrowed to; empty for all."""
    next: str | None = None
    """The cursor of the next page: /runs?before=…"""
    q: str = ""
    """The text that was searched for."""


@dataclass(frozen=True)
class Preflight:
    """What a launch would do, told beside the form while it is filled in."""

    report: Json | None = None
    """The report of preflight: rows, tokens, trained tokens, steps, lengths; null while the recipe has problems."""
    error: ProblemOut | None = None
    problems: list[ProblemOut] = field(default_factory=list)
    notes: list[ProblemOut] = field(default_factory=list)


@dataclass(frozen=True)
class NewRunPage(Page):
    """GET /runs/new?clone=&recipe=&dataset=&model=; POST /runs launches; POST /runs/preflight answers with this page again.

    `controls` draw the whole recipe, with names such as `method.r`; scripts send the form by htmx and swap it by outerMorph.
    The same form in YAML: a textarea `yaml`, used where the field `view` is `yaml`. `save_as` saves the recipe by name too.
    """

    template = "new-run.html"
    controls: list[Control]
    view: str
    """`form` or `yaml`."""
    yaml: str
    preflight: Preflight
    datasets: list[DatasetOut]
    models: list[BaseOut]
    recipes: list[str]
    parent: str = ""
    """The run that this one clones."""
    save_as: str = ""


@dataclass(frozen=True)
class RunPage(Page):
    """Live by `/api/v1/runs/{id}/events?after={run.seq}` or `/api/v1/events?run={id}`; curves by `/api/v1/runs/{id}/metrics`.

    Acts: POST /runs/{name}/act with `act` = pause | resume | stop | discard | restore | start_over, answered by a redirect
    (or, for htmx, by the part `parts/run-status.html`). What changes is fetched again by parts, each of which says where.
    """

    template = "run.html"
    run: RunDetailOut
    curves: dict[str, list[Any]]
    samples: list[SampleOut]
    artifacts: list[ArtifactOut]
    amendments: list[AmendmentOut]
    controls: list[Control]
    checkpoints: list[CheckpointOut]
    attempts: list[AttemptOut]
    log: list[Json]
    """The newest events worth a line, oldest first: {seq, at, kind, step, text, data}."""
    recipe_yaml: str


@dataclass(frozen=True)
class RunStatusPart(Page):
    """GET /runs/{name}/status."""

    template = "parts/run-status.html"
    run: RunDetailOut


@dataclass(frozen=True)
class ArtifactsPart(Page):
    """GET /runs/{name}/artifacts."""

    template = "parts/artifacts.html"
    artifacts: list[ArtifactOut]


@dataclass(frozen=True)
class RunHistoryPart(Page):
    """GET /runs/{name}/history: changes in mid-run, checkpoints, attempts."""

    template = "parts/run-history.html"
    run: RunDetailOut
    amendments: list[AmendmentOut]
    controls: list[Control]
    """The settings that may change in mid-run, as they stand."""
    checkpoints: list[CheckpointOut]
    attempts: list[AttemptOut]


@dataclass(frozen=True)
class AmendPart(Page):
    """The form of the dialog. POST /runs/{name}/amend with the controls' names; answered by a redirect, or this for htmx."""

    template = "parts/run-amend.html"
    run: RunDetailOut
    controls: list[Control]


@dataclass(frozen=True)
class RecipesPage(Page):
    """POST /recipes/{name}/delete. A recipe is saved from the new-run form and launched by /runs/new?recipe=NAME."""

    template = "recipes.html"
    recipes: list[RecipeOut]


@dataclass(frozen=True)
class PeoplePage(Page):
    """For administrators. POST /people (`name`, `password`, `role`); POST /people/{name} (`role`, `password`, or
    `act` = disable | enable | remove)."""

    template = "people.html"
    people: list[PersonOut]
    error: ProblemOut | None = None


@dataclass(frozen=True)
class SettingsPage(Page):
    """POST /settings/tokens (`name`, `role`, `days`), /settings/tokens/{id}/revoke, /settings/password (`old`, `new`),
    /settings/language (`language`), /signout."""

    template = "settings.html"
    tokens: list[TokenOut]
    """One's own; everybody's for an administrator."""
    workers: list[WorkerOut]
    new_token: str = ""
    """The secret of a token just made: shown this once."""
    error: ProblemOut | None = None


@dataclass(frozen=True)
class HelpPage(Page):
    template = "help.html"


@dataclass(frozen=True)
class DocsPage(Page):
    """The interactive reference of the API: `docs.js` draws `/api/v1/openapi.json` with nothing from outside."""

    template = "docs.html"
