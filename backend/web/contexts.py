"""What each page is given to draw: one dataclass a page, each naming its template.

A template sees the fields of its dataclass and, beside them, what `render.py` adds to every page:
`here` (`Here`, below), `_` and `ngettext` (the reader's language), `asset("main.js")` (a hashed address), and the filters
`bytes`, `number`, `rate`, `when`, `duration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from backend.core.datasets.examples import Example
from backend.core.datasets.store import Narrowed
from backend.core.difference import SettingDifference
from backend.core.fits import Load
from backend.core.forecast import Accelerator
from backend.core.memory import EXPLAINED, Footprint
from backend.core.methods.base import Method
from backend.core.models import Dataset
from backend.core.outlook import Outlook
from backend.core.run_list import Wanted
from backend.web.addresses import Address
from backend.web.forms import Control
from backend.web.glances import Glance
from backend.web.prospects import Prospect
from backend.web.shapes import (
    AmendmentOut,
    ArtifactOut,
    AttemptOut,
    AuditOut,
    BaseOut,
    CheckpointOut,
    Choices,
    ComparisonOut,
    DatasetDetailOut,
    DatasetOut,
    FitOut,
    HitOut,
    HubModelOut,
    InvitationOut,
    Json,
    MemberOut,
    NewTokenOut,
    OperationOut,
    PersonOut,
    ProblemOut,
    RecipeOut,
    RecipeVersionOut,
    RunDetailOut,
    RunOut,
    SampleOut,
    SessionOut,
    StorageOut,
    TokenOut,
    UploadOut,
    WaitOut,
    WasteOut,
    WorkerOut,
)

if TYPE_CHECKING:
    from backend.core.datasets.differing import Difference
    from backend.web.inspecting import Found, Measured, Panel
    from backend.web.lineages import VersionLine
    from backend.web.looking import Look


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

    def may_change(self, owner: str | None) -> bool:
        """Members change what is their own or nobody's, administrators everything. What else is refused is not offered."""
        return self.is_admin or (self.person is not None and self.may_write and owner in (None, self.person.name))


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
class Did:
    """What was done to runs just now: told, with a way back, on the page that the act led back to."""

    act: str
    """`pause`, `resume`, `stop`, `discard` or `restore`."""
    runs: list[str]
    refused: int = 0
    """How many could not be."""


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
    datasets: list[DatasetOut]
    workers: list[WorkerOut]
    newest: UUID | None
    """The newest run of all."""
    did: Did | None = None


@dataclass(frozen=True)
class DatasetsPage(Page):
    """GET /datasets?q=&shape=&sort=&offset=, and ?removed=1 for those that were deleted.

    Uploads go by script: PUT /api/v1/datasets/{name}, or tus at /api/v1/uploads with metadata `dataset`, `filename`.
    POST /datasets/example (`example`), /datasets/{name}/delete and /datasets/{name}/restore (undo).
    """

    template = "datasets.html"
    datasets: list[DatasetOut]
    total: int
    """How many the list would hold without an end."""
    wanted: Narrowed
    formats: list[str]
    """The shapes that there are, to narrow the list by."""
    next_offset: int | None
    operations: list[OperationOut]
    """Uploads that are being read, and one's own that failed lately."""
    uploads: list[UploadOut]
    """One's own uploads that have not come whole."""
    removed: list[Dataset]
    shows_removed: bool
    is_empty: bool
    """There is no data set at all: the page teaches."""
    examples: Mapping[str, Example]
    deleted: str = ""
    """A data set that was just deleted and can be brought back."""


@dataclass(frozen=True)
class DatasetPage(Page):
    """All that is looked at stands in the address (`look`). What is not known yet is asked for by parts of the page:
    `/datasets/{name}/preview`, `/measured` and `/quality`, with the same query.

    POST /datasets/{name}/mend (`version`, `cleaner`) makes a new version; POST /datasets/{name}/delete.
    """

    template = "dataset.html"
    dataset: DatasetDetailOut
    look: Look
    version: VersionLine
    """The version that is shown."""
    history: list[VersionLine]
    models: list[BaseOut]
    """Whose tokenizer the preview can use."""
    panel: Panel
    measured: Measured
    found: Found
    skipped: list[Json]
    """The first rows that were left out when the file was read, each with the reason."""
    made: bool = False
    """The version was just made by mending."""


@dataclass(frozen=True)
class PreviewPart(Page):
    """GET /datasets/{name}/preview: the rows in ink."""

    template = "parts/preview.html"
    look: Look
    panel: Panel
    measured: Measured
    found: Found


@dataclass(frozen=True)
class MeasuredPart(Page):
    """GET /datasets/{name}/measured: verdict and lengths, or how far the measuring is; then it asks again by itself."""

    template = "parts/measured.html"
    look: Look
    measured: Measured


@dataclass(frozen=True)
class VerdictPart(Page):
    """GET /datasets/{name}/verdict: what changes while the cut is moved by hand."""

    template = "parts/verdict.html"
    look: Look
    measured: Measured


@dataclass(frozen=True)
class QualityPart(Page):
    """GET /datasets/{name}/quality: the findings, or how far the search for them is."""

    template = "parts/quality.html"
    look: Look
    found: Found
    skipped: list[Json]
    skipped_rows: int


@dataclass(frozen=True)
class VersionsPage(Page):
    """GET /datasets/{name}/compare?before=&after=: what two versions differ in."""

    template = "dataset-versions.html"
    dataset: DatasetDetailOut
    before: VersionLine
    after: VersionLine
    history: list[VersionLine]
    difference: Difference


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
    source_version: int = 0
    """The newest version of the recipe that it started from."""


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


@dataclass(frozen=True)
class Remedy:
    """A way out of what ails a run: a clone with other settings."""

    kind: str
    """`batch`, `recompute`, `qlora`, `rate` or `passes`."""
    value: Any
    """The new value that names it."""
    address: str
    """The form of that clone."""


@dataclass(frozen=True)
class Setting:
    """One setting of a run, beside its parent's where that differs."""

    name: str
    value: Any
    before: Any
    differs: bool


@dataclass(frozen=True)
class RunPage(Page):
    """Live by `/api/v1/runs/{id}/events?after={run.seq}` or `/api/v1/events?run={id}`; curves by `/api/v1/runs/{id}/metrics`.

    Acts: POST /runs/{name}/act with `act` = pause | resume | stop | discard | restore | start_over, answered by a redirect
    (or, for htmx, by the part `parts/run-status.html`). What changes is fetched again by parts, each of which says where.
    """

    template = "run.html"
    run: RunDetailOut
    outlook: Outlook
    remedies: list[Remedy]
    footprint: Footprint | None
    """What the memory was worked out to go to; null where the model does not tell enough."""
    curves: dict[str, list[Any]]
    """Beside the metrics `learning_rate_ahead`: the schedule as it is to go on."""
    samples: list[SampleOut]
    artifacts: list[ArtifactOut]
    amendments: list[AmendmentOut]
    controls: list[Control]
    checkpoints: list[CheckpointOut]
    values: dict[int, dict[str, float]]
    """The metrics of the checkpoints' steps."""
    attempts: list[AttemptOut]
    log: list[Json]
    """The newest events worth a line, oldest first: {seq, at, kind, step, text, data}."""
    log_q: str
    log_level: str
    settings: list[Setting]
    recipe_yaml: str


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


@dataclass(frozen=True)
class RunStatusPart(Page):
    """GET /runs/{name}/status."""

    template = "parts/run-status.html"
    run: RunDetailOut
    outlook: Outlook
    checkpoints: list[CheckpointOut]
    remedies: list[Remedy]


@dataclass(frozen=True)
class RunNotePart(Page):
    """POST /runs/{name}/note with `note`; GET draws it again where somebody else wrote it."""

    template = "parts/run-note.html"
    run: RunDetailOut


@dataclass(frozen=True)
class RunLogPart(Page):
    """GET /runs/{name}/log?q=&level=: the newest lines that hold the words, or only warnings and errors."""

    template = "parts/run-log.html"
    run: RunDetailOut
    log: list[Json]
    log_q: str
    log_level: str


@dataclass(frozen=True)
class ArtifactsPart(Page):
    """GET /runs/{name}/artifacts."""

    template = "parts/artifacts.html"
    run: RunDetailOut
    artifacts: list[ArtifactOut]


@dataclass(frozen=True)
class RunHistoryPart(Page):
    """GET /runs/{name}/history: changes in mid-run, checkpoints, attempts."""

    template = "parts/run-history.html"
    run: RunDetailOut
    amendments: list[AmendmentOut]
    controls: list[Control]
    """The settings that may change in mid-run, as they stand."""
    outlook: Outlook
    checkpoints: list[CheckpointOut]
    values: dict[int, dict[str, float]]
    attempts: list[AttemptOut]


@dataclass(frozen=True)
class AmendPart(Page):
    """The form of the dialog. POST /runs/{name}/amend with the controls' names; answered by a redirect, or this for htmx."""

    template = "parts/run-amend.html"
    run: RunDetailOut
    controls: list[Control]


@dataclass(frozen=True)
class RecipesPage(Page):
    """A recipe is saved from the new-run form and launched by /runs/new?recipe=NAME."""

    template = "recipes.html"
    recipes: list[RecipeOut]


@dataclass(frozen=True)
class RecipePage(Page):
    """GET /recipes/{name}?version=N: one version in YAML, and how it came about. POST /recipes/{name}/delete."""

    template = "recipe.html"
    recipe: RecipeOut
    number: int
    """The version that is shown."""
    history: list[RecipeVersionOut]
    """Every version, the newest first."""
    yaml: str
    changes: list[SettingDifference]
    """What this version says otherwise than the one before it."""


@dataclass(frozen=True)
class InvitationPage(Page):
    """POST /invitation with `token`, `password`, `again`: sets the password and signs in."""

    template = "invitation.html"
    token: str
    name: str
    """Whom the link is for."""
    error: ProblemOut | None = None


@dataclass(frozen=True, kw_only=True)
class SettingsPage(Page):
    """A section of the settings; `parts/settings.html` draws what they share."""

    section: ClassVar[str]
    version: str
    started_at: datetime
    """Since when this web process runs."""
    done: str = ""
    """What was just done, for a word beside the title."""
    error: ProblemOut | None = None


@dataclass(frozen=True, kw_only=True)
class YouPage(SettingsPage):
    """POST /settings/password (`old`, `new`, `again`, `revoke`), /settings/language (`language`), /signout."""

    template, section = "settings-you.html", "you"
    tokens: int
    """How many of one's API tokens hold."""


@dataclass(frozen=True, kw_only=True)
class PeoplePage(SettingsPage):
    """For administrators. POST /settings/people (`name`, `role`, `password`: without one the person is invited);
    POST /settings/people/{name} (`role`, `password`, or `act` = disable | enable | remove | invite | end_sessions)."""

    template, section = "settings-people.html", "people"
    people: list[MemberOut]
    invitation: InvitationOut | None = None
    """A link just made: shown this once."""
    invited: str = ""
    """Whom it is for."""


@dataclass(frozen=True, kw_only=True)
class TokensPage(SettingsPage):
    """POST /settings/tokens (`name`, `role`, `days`), /settings/tokens/{id}/revoke."""

    template, section = "settings-tokens.html", "tokens"
    tokens: list[TokenOut]
    """One's own; everybody's for an administrator."""
    roles: list[str]
    """The roles that one's own may be given."""
    new_token: NewTokenOut | None = None
    """A token just made: its secret is shown this once."""


@dataclass(frozen=True, kw_only=True)
class SessionsPage(SettingsPage):
    """POST /settings/sessions/{id}/end, /settings/sessions/end (all but this one)."""

    template, section = "settings-sessions.html", "sessions"
    sessions: list[SessionOut]


@dataclass(frozen=True, kw_only=True)
class WorkersPage(SettingsPage):
    """POST /settings/workers/{name} (`act` = drain | release), for administrators."""

    template, section = "settings-workers.html", "workers"
    workers: list[WorkerOut]


@dataclass(frozen=True, kw_only=True)
class StoragePage(SettingsPage):
    """POST /settings/storage/clean-up, for administrators. While it is first measured, the page asks again by itself."""

    template, section = "settings-storage.html", "storage"
    storage: StorageOut
    home: str
    """The folder, for administrators."""
    freed: WasteOut | None = None
    """What a clean-up just freed."""


@dataclass(frozen=True, kw_only=True)
class AuditPage(SettingsPage):
    """GET /settings/audit?person=&action=&before=, for administrators."""

    template, section = "settings-audit.html", "audit"
    entries: list[AuditOut]
    people: list[str]
    actions: list[str]
    person: str
    action: str
    next: str | None


@dataclass(frozen=True)
class HelpPage(Page):
    template = "help.html"


@dataclass(frozen=True)
class DocsPage(Page):
    """The interactive reference of the API: `docs.js` draws `/api/v1/openapi.json` with nothing from outside."""

    template = "docs.html"
