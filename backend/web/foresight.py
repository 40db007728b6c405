"""What is known of a run while its recipe is still being written: at once from figures, exactly once its rows were read.

The first answer is arithmetic over what is at hand: the model's shape, the lengths of the rows where they were measured,
the workers' accelerators, how fast earlier runs were. The second comes from `Checks`, which reads every row.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.core import bases, launch, lengths, pace
from backend.core.catalog import METHODS
from backend.core.errors import Problem, StudioError
from backend.core.forecast import Accelerator
from backend.core.launch import Pinned
from backend.core.lengths import Lengths
from backend.core.models import DatasetVersion, Run, State
from backend.core.prospects import AtHand, Prospect, Queue, prospect
from backend.core.recipe import Recipe
from backend.core.settings import Settings
from backend.web import base_models, reading
from backend.web.checks import Check
from backend.web.deps import Edge
from backend.web.shapes.studio import WorkerOut

SHORTLY = 0.25
"""How long the second answer is waited for before its progress is told instead."""


async def foresee(edge: Edge, raw: object, *, reads_rows: bool, patience: float = SHORTLY) -> Prospect:
    """The prospect of a recipe. With `reads_rows` its rows are read in the background, and for a moment waited for.

    Raises `StudioError` with everything that keeps the recipe from being understood.
    """
    at_hand, versions = await edge.read(lambda session: gather(session, raw, edge.settings))
    measured = await asyncio.to_thread(_measured, versions, at_hand.pinned, edge.settings)
    at_hand = replace(at_hand, measured=measured)
    pinned = await asyncio.to_thread(located, at_hand.pinned, edge.settings, is_needed=reads_rows)
    if pinned is None:
        return prospect(at_hand)
    at_hand = replace(at_hand, pinned=pinned)
    checks = edge.studio.checks
    check = checks.watch(pinned, edge.who.id) if reads_rows else checks.known(pinned)
    if check and reads_rows and not check.over.is_set():
        await _in_a_moment(check, patience)
    if check and check.failure and check.failure.code != "cancelled":
        raise check.failure
    return prospect(at_hand, check.answer, (check.rows, check.of)) if check else prospect(at_hand)


async def _in_a_moment(check: Check, patience: float) -> None:
    await asyncio.wait([asyncio.ensure_future(check.over.wait())], timeout=patience)


def located(pinned: Pinned, settings: Settings, *, is_needed: bool) -> Pinned | None:
    """With the model looked at, as it lies here. Where it does not: None, or `NotFound` where it `is_needed`."""
    choice = pinned.recipe.model
    if not is_needed and bases.here(choice.path, choice.revision, settings) is None:
        return None
    return launch.found_here(pinned, settings)


def gather(session: Session, raw: object, settings: Settings) -> tuple[AtHand, list[DatasetVersion]]:
    """What the database knows, and the versions whose lengths are still to be looked up. Raises `Invalid` as `launch.pin`
    does."""
    pinned = launch.pin(session, raw)
    workers = [worker for worker in reading.workers(session) if worker.is_alive]
    kinds = base_models.accelerators_of(workers)
    found = (session.get(DatasetVersion, UUID(each["version_id"])) for each in pinned.data)
    at_hand = AtHand(
        pinned=pinned,
        measured=(),
        kinds=kinds,
        rates=_rates(session, pinned.recipe, kinds),
        queue=_queue(session, workers),
        disk_free=shutil.disk_usage(settings.root).free,
    )
    return at_hand, [version for version in found if version is not None]


def _measured(versions: Sequence[DatasetVersion], pinned: Pinned, settings: Settings) -> tuple[Lengths, ...]:
    """The lengths of all rows, where they are known of every data set. Reads the disk, and may look into the model."""
    recipe = pinned.recipe
    lens = lengths.Lens(recipe.model.path, recipe.model.chat_template, recipe.data.assistant_only_loss)
    found = []
    for version in versions:
        known = lengths.known(settings, version, lens)
        if known is None or known.rows < known.rows_in_all or known.refused:
            return ()
        found.append(known)
    return tuple(found)


def _rates(session: Session, recipe: Recipe, kinds: Sequence[Accelerator]) -> dict[tuple[str, str], float]:
    found = {}
    for kind in kinds:
        for method in METHODS:
            word = method.model_fields["kind"].default
            rate = pace.measured_rate(session, model=recipe.model.path, method=word, device_title=kind.title)
            if rate:
                found[word, kind.title] = rate
    return found


def _queue(session: Session, workers: Sequence[WorkerOut]) -> Queue:
    waiting = session.scalar(select(func.count()).select_from(Run).where(Run.state == State.QUEUED)) or 0
    free = tuple(worker.name for worker in workers if len(worker.runs) < len(worker.devices))
    return Queue(waiting, free, len(workers))


def refusal(error: StudioError) -> tuple[Problem, ...]:
    """What an error says, as a list: its problems, or itself where it names its place."""
    own = (error.own,) if error.where else ()
    return error.problems or own
