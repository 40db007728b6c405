"""Schemathesis over the whole OpenAPI document of a studio that has been worked in, as each role, with state.

The web runs in a process of its own, behind a real server; a 500's trace is in its log.
"""

from __future__ import annotations

import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

import httpx
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import Interaction, ScenarioRecorder
from schemathesis.transport import SerializationContext
from schemathesis.transport.serialization import Binary

from backend.core import people
from backend.core.models import Role
from tests.fuzz.findings import Figures, Finding
from tests.fuzz.reach import End, Reach
from tests.fuzz.standing import HUB_MODEL, PASSWORD, Badge, Standing, recipe_of
from tests.support import gallery
from tests.support.hub import Shelf, hub_of
from tests.support.webs import Web, running_web

OWNER = "ada"
ANYBODY = "anonymous"
"""Whoever is not signed in: refused at the door."""
STREAM_EVENTS, TIMEOUT_SECONDS = 3, 60

SAID_BY_MORE_THAN_THE_SCHEMA = {
    "runs_create": "whether a recipe fits depends on the models and data that are there",
    "runs_preflight": "as for a launch",
    "runs_clone": "changes are checked against the whole recipe",
    "runs_amend": "the value is checked against the setting that it is for",
    "recipes_save": "a recipe is checked by its own class, which names each unknown key",
    "recipes_launch": "as for a launch",
    "data_sets_put": "what a file must hold cannot be said of bytes",
    "data_sets_look": "what a file must hold cannot be said of bytes",
    "data_sets_preview": "a model path that exists cannot be said",
    "data_sets_cut_lengths": "a model path that exists cannot be said",
    "data_sets_post_mend": "a cleaner must find something to mend",
    "uploads_create": "Upload-Metadata is a small language of its own",
    "uploads_append": "the offset must be that of the upload",
    "runs_events_of_several": "one of two parameters is needed, which OpenAPI cannot say",
    "runs_compare": "runs that exist are named",
    "people_set_my_password": "the old password must be the right one",
    "people_create": "names and passwords have rules in words",
    "people_change": "the last administrator stays",
    "tokens_create": "a token is never more than its owner",
    "models_inspect": "a model path that exists cannot be said",
    "models_fit": "a model path that exists cannot be said",
    "models_download": "an id has a grammar of its own",
}
"""Operations whose valid requests by the schema may still be refused with 422, and why. Everything else that the schema
allows must be taken; all other checks hold for these too."""

ANSWERED_BY_MORE = {
    "/api/v1/datasets/probe": "a data set may be called so, and then answers to the methods of data sets",
}
"""Paths that another path of the description covers too: `Allow` rightly names the methods of both."""


class Phase(StrEnum):
    """What Schemathesis calls its ways of trying."""

    COVERAGE = "coverage"
    """Every boundary of every field, and the examples, which are few."""
    FUZZING = "fuzzing"
    STATEFUL = "stateful"
    """Sequences in which what one answer holds is asked for in the next."""


@dataclass(frozen=True)
class Plan:
    """One round: as whom, how many requests at most, from which seed, how many of each operation, and which phases."""

    role: Role | None
    cases: int
    seed: int
    examples: int = 5
    phases: tuple[Phase, ...] = tuple(Phase)
    seconds: float = 600

    @property
    def takes_nul(self) -> bool:
        return self.seed % 4 == 3

    @property
    def person(self) -> str:
        return self.role or ANYBODY


@contextmanager
def worked_in() -> Iterator[Web]:
    """A studio with data, runs in every state, recipes, workers and people, and a hub of its own."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf({})
        with hub_of(shelf) as hub, running_web(HF_ENDPOINT=hub, HF_HOME=f"{folder}/hub") as web:
            gallery.fill(web, web.sign_in(OWNER), Path(folder))
            shelf.models[HUB_MODEL] = web.settings.folder("models") / gallery.MODEL
            yield web


UNFORESEEN = re.compile(rb'"code": ?"limited\.failed"')
"""A reader met what it did not expect: told in words with a status of a refusal, it is a fault all the same, in an answer's error
or in what one tells of an operation or a model. A file that kills its reader (`limited.crash`) is told so by design."""
REFUSALS = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]
"""Of what the schema forbids. A text that is too long may make the whole body too long, which 413 tells before it is read."""


# ---- the document ---------------------------------------------------------------------------------------------------


def grounded(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with recipes that this studio can launch, so that more than refusals is reached."""
    made = deepcopy(dict(document))
    recipe = recipe_of("fuzzed")
    for path in made["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            if content.get("application/json", {}).get("schema", {}).get("title") == "Recipe":
                content["application/json"]["example"] = recipe
    made["components"]["schemas"]["SaveRecipe"]["properties"]["recipe"]["examples"] = [recipe]
    return _untupled(narrowed(made))  # type: ignore[no-any-return]


WRITES = r"(post|put|patch|delete) .*"
ANSWERED_BY = {
    "404": r".*\{.*|post .*|get /api/v1/(compare|events|models/.*)",  # what names something
    "409": rf"{WRITES}|get /api/v1/artifacts/.*/.*",  # a file may lie on another host
    "413": WRITES,
    "423": r"(patch|delete) /api/v1/uploads/.*",
    "429": r"(post|put|patch) .*|get /api/v1/(datasets|models).*",  # what rows, models and the hub are read for, and passwords
    "500": "",
}
"""Which operations have a way to answer with an error. The description, which people read, names each of them everywhere."""


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with those errors alone that each operation has a way to answer with: any other is a finding."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, may in ANSWERED_BY.items():
                if not re.fullmatch(may, f"{method} {path}"):
                    operation["responses"].pop(status, None)
    return document


def _untupled(node: Any) -> Any:
    """`prefixItems` as `items`: Schemathesis turns it into a form that its own validator of 3.1 refuses."""
    if isinstance(node, list):
        return [_untupled(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _untupled(value) for key, value in node.items() if key != "prefixItems"}
    return kept | ({"items": {"anyOf": _untupled(node["prefixItems"])}} if "prefixItems" in node else {})


def configuration(plan: Plan, address: str) -> SchemathesisConfig:
    takes_more = {"positive_data_acceptance": {"enabled": False}}
    everywhere = takes_more if plan.takes_nul else {}  # a NUL is refused everywhere, which a schema cannot say briefly
    return SchemathesisConfig.from_dict(
        {
            "seed": plan.seed,
            "base-url": address,
            "max-stream-events": STREAM_EVENTS,
            "request-timeout": TIMEOUT_SECONDS,
            "continue-on-failure": True,
            "suppress-health-check": ["all"],
            "output": {"sanitization": {"enabled": False}},
            "generation": {
                "max-examples": plan.examples,
                "no-shrink": True,
                "with-security-parameters": False,
                "allow-x00": plan.takes_nul,
            },
            "checks": everywhere | {"negative_data_rejection": {"expected-statuses": REFUSALS}},
            "workers": 1,
            "phases": {
                "examples": {"enabled": Phase.COVERAGE in plan.phases},
                **{phase: {"enabled": phase in plan.phases} for phase in Phase},
            },
            "operations": [
                {"include-operation-id": list(SAID_BY_MORE_THAN_THE_SCHEMA), "checks": takes_more},
                {"include-path": list(ANSWERED_BY_MORE), "checks": {"allow_header_conformance": {"enabled": False}}},
            ],
        }
    )


@schemathesis.serializer("application/offset+octet-stream")
def piece(_context: SerializationContext, value: Any) -> bytes:
    """A piece of an upload, which is bytes as they are."""
    return as_bytes(value)


def as_bytes(value: Any) -> bytes:
    if isinstance(value, Binary):
        return value.data  # as a text it is empty
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


# ---- a round --------------------------------------------------------------------------------------------------------


@dataclass
class Round:
    """What one round has seen."""

    figures: Figures = field(default_factory=Figures)
    described: frozenset[str] = frozenset()
    """All operations that there are."""
    asked: set[str] = field(default_factory=set)
    succeeded: set[str] = field(default_factory=set)
    end: End = End.ITSELF
    phases: Counter[str] = field(default_factory=Counter)
    """Requests in each phase."""
    log: Path | None = None
    """The web's."""

    @property
    def reach(self) -> Reach:
        return Reach(self.described, self.described & self.asked, self.described & self.succeeded)

    def take(self, phase: str, label: str, recorder: ScenarioRecorder) -> None:
        self.phases[phase] += len(recorder.interactions)
        self.figures.steps += any(each.transition for each in recorder.cases.values())
        for case_id, interaction in recorder.interactions.items():
            status = str(interaction.response.status_code) if interaction.response else "no answer"
            self.figures.cases += 1
            self.figures.kinds[status] += 1
            case = recorder.cases.get(case_id)
            if case:
                asked = f"{case.value.method.upper()} {case.value.operation.path}"  # coverage tries methods that are not there
                self.asked.add(asked)
                self.succeeded.update([asked] if status.startswith("2") else [])
            if interaction.response and UNFORESEEN.search(interaction.response.content):
                self.figures.found(self._unforeseen(case.value.operation.label if case else label, interaction))
        for case_id, nodes in recorder.checks.items():
            for node in nodes:
                if node.failure_info:
                    self.figures.found(_finding(label, recorder, case_id, node.name, node.failure_info))

    def _unforeseen(self, operation: str, interaction: Interaction) -> Finding:
        asked, answer = interaction.request, interaction.response
        assert answer is not None
        trace = (traces(self.log) or ["no trace in the log"])[-1] if self.log else "there is no log"
        how = f"{asked.method} {asked.uri}\n{asked.body!r}\n\n{answer.status_code}\n{answer.content!r}\n\n{trace}"
        return Finding(operation, f"a reader met what it did not expect: {trace.splitlines()[-1][:200]}", how)


def _finding(label: str, recorder: ScenarioRecorder, case_id: str, check: str, info: Any) -> Finding:
    case = recorder.cases.get(case_id)
    operation = case.value.operation.label if case else label
    interaction = recorder.interactions.get(case_id)
    answer = interaction.response if interaction else None
    told = f"{answer.status_code} {answer.headers}\n{answer.content!r}" if answer else "no answer"
    return Finding(
        f"{operation} ({check})", info.failure.title, f"{info.failure.message}\n\n{info.code_sample}\n\n{told}"
    )


def fuzz(web: Web, plan: Plan) -> Round:
    """Try `plan.cases` requests at most, or as many as fit into its time, as somebody with the plan's role. `steps` are
    the sequences in which one answer led to the next request."""
    begun = time.monotonic()
    cookie = {"Cookie": f"studio={web.sign_in(OWNER).cookie}"}
    document = httpx.get(f"{web.address}/api/v1/openapi.json", headers=cookie, trust_env=False, timeout=60).json()
    schema = schemathesis.openapi.from_dict(grounded(document), config=configuration(plan, web.address))
    described = {f"{method.upper()} {path}" for path, each in document["paths"].items() for method in each}
    seen = Round(described=frozenset(described), log=_log_of(web))
    if plan.role:
        badge = Badge(web, plan.role, people.hash_password(PASSWORD))
        schema.auth(refresh_interval=None)(_bearer(badge, Standing(badge, Random(plan.seed), seen.figures)))
    stream = from_schema(schema).execute()
    for event in stream:
        match event:
            case events.ScenarioFinished():
                seen.take(event.phase, event.label or "", event.recorder)
            case events.NonFatalError():
                how = "".join(traceback.format_exception(event.value))
                seen.figures.found(Finding(event.label, type(event.value).__name__, how))
            case events.FatalError():
                raise event.exception
        seen.figures.seconds = time.monotonic() - begun
        if seen.end is End.ITSELF and not event.is_terminal:
            seen.end = _end(plan, seen.figures)
        if seen.end is not End.ITSELF:
            stream.stop()
    look_behind(web, seen.figures)
    return seen


def _end(plan: Plan, figures: Figures) -> End:
    """What ends a round here, unless it is to go on until it ends by itself."""
    if figures.cases >= plan.cases:
        return End.BOUND
    return End.CLOCK if figures.seconds > plan.seconds else End.ITSELF


def _bearer(badge: Badge, standing: Standing) -> type:
    class Bearer:
        def get(self, _case: Any, _context: Any) -> str:
            return badge.secret()

        def set(self, case: Any, secret: str, _context: Any) -> None:
            case.headers["Authorization"] = f"Bearer {secret}"
            standing.provide(case)

    return Bearer


def look_behind(web: Web, figures: Figures) -> None:
    """The web lives, and its log tells of nothing that went wrong out of sight."""
    if web.process.poll() is not None:
        figures.found(Finding("the web", "it ended", f"status {web.process.returncode}"))
    for trace in traces(_log_of(web)):
        figures.found(Finding("the web's log", trace.splitlines()[-1][:200], trace))


def _log_of(web: Web) -> Path:
    return web.home / "logs" / "web.log"


def traces(log: Path) -> list[str]:
    """Whatever went wrong by then, the newest last."""
    told = log.read_text(errors="replace")
    return re.findall(r"^Traceback .*?^(?=\S)(?!Traceback)[^\n]*", told, re.MULTILINE | re.DOTALL)
