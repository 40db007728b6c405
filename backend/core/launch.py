"""From what a person wrote to a run in the queue: validate, pin, look at everything before any accelerator time, create."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from backend.core import bases, runs
from backend.core.catalog import STAGES
from backend.core.datasets import store
from backend.core.datasets.problems import printable
from backend.core.errors import Invalid, Problem
from backend.core.forecast import steps_of
from backend.core.limited import Report, run_limited
from backend.core.models import DatasetVersion, Json, Run
from backend.core.people import audit
from backend.core.recipe import Recipe, SetChoice, read_recipe, resolve
from backend.core.settings import Settings
from backend.core.storage import storage

PREFLIGHT = "backend.core.rendering.preview:preflight"
HELD_BACK = "backend.core.rendering.held_back:prompts"
PREFLIGHT_SECONDS = 300


@dataclass(frozen=True)
class Pinned:
    """A recipe with everything that it names found and fixed: the data versions, the model's commit, where both lie."""

    recipe: Recipe
    notes: tuple[Problem, ...]
    model: Json
    model_folder: Path
    data: tuple[Json, ...]
    """[{version_id, name, version, key, sha256, rows, weight}], as `Run.data` stores it."""


@dataclass(frozen=True)
class Plan:
    """What would happen if the run were launched now. With `problems` it cannot be."""

    pinned: Pinned
    recipe: Recipe
    """With every `auto` that depends on data and model written out."""
    problems: tuple[Problem, ...]
    report: Json | None
    steps: Json | None
    facts: Json


def pin(session: Session, raw: object) -> Pinned:
    """Validate the recipe and find its data versions. The model is found by `plan`.

    Raises `Invalid` with every problem at once, each at its setting.
    """
    read = read_recipe(raw)
    found = [(choice, store.newest(session, choice.name, choice.version)) for choice in read.recipe.data.sets]
    problems = [_missing(number, choice) for number, (choice, version) in enumerate(found) if version is None]
    versions = [(choice, version) for choice, version in found if version is not None]
    problems += _unfit(read.recipe, versions)
    if problems:
        raise Invalid("The recipe's data cannot be used.", code="recipe.data", problems=tuple(problems))
    sets = tuple(choice.model_copy(update={"version": version.number}) for choice, version in versions)
    data = tuple(_as_pinned(choice, version) for choice, version in versions)
    recipe = read.recipe.model_copy(update={"data": read.recipe.data.model_copy(update={"sets": sets})})
    return Pinned(recipe, read.notes, {"path": recipe.model.path, "revision": recipe.model.revision}, Path(), data)


def _missing(number: int, choice: SetChoice) -> Problem:
    name = printable(choice.name)
    which = f"“{name}”" if choice.version is None else f"version {choice.version} of “{name}”"
    return Problem("data.missing", f"There is no data set {which}.", f"data.sets.{number}", "Upload it first.")


def _unfit(recipe: Recipe, versions: list[tuple[SetChoice, DatasetVersion]]) -> list[Problem]:
    stage = next(each for each in STAGES if each.model_fields["kind"].default == recipe.stage.kind)
    return [
        Problem(
            "data.kind", f"“{choice.name}” holds {version.kind}, which this stage does not learn from.", "data.sets"
        )
        for choice, version in versions
        if version.kind not in stage.row_kinds
    ]


def _as_pinned(choice: SetChoice, version: DatasetVersion) -> Json:
    return {
        "version_id": str(version.id),
        "name": choice.name,
        "version": version.number,
        "key": version.key,
        "sha256": version.sha256,
        "rows": version.rows,
        "weight": choice.weight,
    }


def plan(pinned: Pinned, settings: Settings) -> Plan:
    """Find the model and read the data as the trainer would. Slow, since it renders every row: not on an event loop.

    What would stop the run stands in `problems`. Raises `StudioError` where the model is not to be had.
    """
    pinned = found(pinned, settings)
    return planned(pinned, examine(pinned, settings))


def is_elsewhere(pinned: Pinned, settings: Settings) -> bool:
    """Whether only the hub has the model, as far as can be told from here: it is fetched before it can be found."""
    choice = pinned.recipe.model
    is_of_hub = bases.HUB_ID.fullmatch(choice.path) and not bases.is_offline()
    return bool(is_of_hub) and bases.here(choice.path, choice.revision, settings) is None


def at_commit(pinned: Pinned, revision: str) -> Pinned:
    """With the commit that the hub named for the model."""
    choice = pinned.recipe.model.model_copy(update={"revision": revision})
    return replace(pinned, recipe=pinned.recipe.model_copy(update={"model": choice}))


def found(pinned: Pinned, settings: Settings) -> Pinned:
    """With the model's folder, commit and facts. What only the hub has was fetched before: it is not asked. Raises `StudioError`
    where the model is not to be had, and where what was fetched cannot be used."""
    return _with_model(pinned, bases.find(pinned.recipe.model, settings))


def found_here(pinned: Pinned, settings: Settings) -> Pinned:
    """The same of a model that lies here: a preflight downloads nothing. Raises `NotFound` where only the hub has it."""
    return _with_model(pinned, bases.find_here(pinned.recipe.model.path, pinned.recipe.model.revision, settings))


def examination(pinned: Pinned) -> str:
    """What the answer of `examine` depends on, as one word: the same word, the same answer."""
    recipe, facts = pinned.recipe, pinned.model["facts"]
    files = [[each["version_id"], each["weight"]] for each in pinned.data]
    model = [str(pinned.model_folder), pinned.model["revision"], facts, recipe.model.chat_template]
    data = recipe.data.model_dump(mode="json", exclude={"sets"})
    rest = [recipe.evaluation.eval_share, recipe.evaluation.prompts, recipe.training.seed]
    return hashlib.sha256(json.dumps([files, model, data, rest]).encode()).hexdigest()


def examine(
    pinned: Pinned,
    settings: Settings,
    *,
    on_progress: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Json:
    """Every row read as the trainer would read it: report, problems, facts. Slow. `on_progress` is told `{rows, of}`."""
    files = [_as_file(each, settings) for each in pinned.data]
    payload = {
        "model_folder": str(pinned.model_folder),
        "files": files,
        "recipe": pinned.recipe.model_dump(mode="json"),
    }
    try:
        answer: Json = run_limited(
            PREFLIGHT,
            payload,
            memory_mib=4096,
            timeout_seconds=PREFLIGHT_SECONDS,
            on_progress=on_progress,
            cancelled=cancelled,
        )
    except Invalid as refusal:
        if refusal.code.startswith("limited."):
            raise
        return {"problems": [refusal.own.as_json()], "report": None}  # it ended before it could answer
    return answer


def held_back_prompts(pinned: Pinned, settings: Settings, count: int) -> list[str]:
    """The questions of up to `count` rows that this run would hold back. Blocks."""
    payload = {
        "files": [_as_file(each, settings) for each in pinned.data],
        "seed": pinned.recipe.training.seed,
        "share": pinned.recipe.evaluation.eval_share,
        "count": count,
    }
    prompts: list[str] = run_limited(HELD_BACK, payload)
    return prompts


def planned(pinned: Pinned, answer: Json) -> Plan:
    """The plan that an examination leads to. Steps are counted anew: they depend on more than was examined."""
    report = answer["report"]
    rows = report["train_rows"] if report else sum(each["rows"] for each in pinned.data)
    recipe = resolve(pinned.recipe, train_rows=rows, context_length=answer.get("context_length"))
    problems = tuple(Problem(**problem) for problem in answer["problems"])
    facts: Json = {key: answer[key] for key in ("template_source", "added_tokens", "notes") if key in answer}
    return Plan(pinned, recipe, problems, report, _steps(pinned.recipe, report), facts)


def _steps(recipe: Recipe, report: Json | None) -> Json | None:
    if report is None:
        return None
    counted = {name: report[name] for name in ("train_rows", "examples", "max_length")}
    return asdict(steps_of(recipe, **counted))


def _with_model(pinned: Pinned, base: bases.Found) -> Pinned:
    choice = pinned.recipe.model.model_copy(update={"revision": base.revision})
    recipe = pinned.recipe.model_copy(update={"model": choice})
    model = {"path": choice.path, "revision": base.revision, "facts": base.facts.as_json()}
    return Pinned(recipe, pinned.notes, model, base.folder, pinned.data)


def _as_file(pinned: Json, settings: Settings) -> Json:
    path = storage(settings).fetch(pinned["key"])
    return {"name": pinned["name"], "version": pinned["version"], "path": str(path), "weight": pinned["weight"]}


def launch(
    session: Session, planned: Plan, settings: Settings, *, owner_id: UUID | None = None, parent_id: UUID | None = None
) -> Run:
    """Put the planned run into the queue. Raises `Invalid` where it would be refused."""
    if planned.problems:
        raise Invalid("The run was not started.", code="refused", problems=planned.problems)
    run = runs.create(
        session,
        recipe=planned.recipe,
        model=planned.pinned.model,
        data=list(planned.pinned.data),
        place=None if settings.storage_url else settings.place(),
        owner_id=owner_id,
        parent_id=parent_id,
        notes=planned.pinned.notes,
        facts={"report": planned.report, "steps": planned.steps, **planned.facts},
    )
    audit(session, owner_id, "run.launch", run.name)
    return run
