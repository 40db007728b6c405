"""Several runs beside each other, as the page and the API show them. Reads only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.core import comparison, journal, runs
from backend.core.comparison import LEAST, MOST, Subject
from backend.core.errors import Invalid
from backend.core.models import Point, Run, Sample
from backend.core.outlook import Outlook, outlook
from backend.web import reading
from backend.web.contexts.compare import SideBySide, Told
from backend.web.shapes.common import Json
from backend.web.shapes.compare import ComparedOut, ComparedSettingOut, ComparisonOut, VerdictOut
from backend.web.shapes.runs import ArtifactOut, RunOut, SampleOut

OFFERED = 30


def find_all(session: Session, names: Sequence[str]) -> list[Run]:
    """The runs that are asked for, each once. Raises `NotFound`, and `Invalid` for more than are compared."""
    found = {run.id: run for run in (runs.find(session, name) for name in names[: MOST + 1])}
    if len(found) > MOST:
        raise Invalid(f"At most {MOST} runs are compared at once.", where="run", hint="Leave some out.")
    return list(found.values())


def compare(session: Session, chosen: Sequence[Run]) -> ComparisonOut:
    """Raises `Invalid` for fewer than two."""
    if len(chosen) < LEAST:
        raise Invalid("A comparison needs two runs.", where="run", hint="Name another: run=A&run=B.")
    recipes = [runs.amended_recipe(session, run) for run in chosen]
    short = comparison.short_names([run.name for run in chosen])
    outs = reading.run_outs(session, chosen)
    compared = [_compared(session, *each) for each in zip(chosen, outs, recipes, short, strict=True)]
    subjects = [
        Subject(out.run.name, recipe, [(each["name"], each["version"]) for each in run.data], out.eval_loss)
        for run, recipe, out in zip(chosen, recipes, compared, strict=True)
    ]
    return ComparisonOut(
        runs=compared,
        verdict=VerdictOut.model_validate(comparison.verdict(subjects)),
        settings=[ComparedSettingOut.model_validate(vars(row)) for row in comparison.setting_rows(recipes)],
    )


def _compared(session: Session, run: Run, out: RunOut, recipe: Json, short: str) -> ComparedOut:
    seen: Outlook = outlook(session, run)
    artifacts = {each.kind: each for each in reading.artifacts(session, run)}
    report: dict[str, Any] = run.facts.get("data") or {}
    return ComparedOut(
        run=out,
        short=short,
        recipe=recipe,
        eval_loss=seen.best.eval_loss if seen.best else None,
        eval_loss_step=seen.best.step if seen.best else None,
        steps_a_pass=seen.steps_a_pass,
        busy_seconds=seen.busy_seconds,
        step_seconds=seen.step_seconds,
        tokens_per_second=_mean(session, run.id, "tokens_per_second"),
        peak_memory_gib=seen.peak_memory_gib,
        device=seen.device,
        adapter_bytes=_adapter_bytes(artifacts),
        held_back_rows=report.get("eval_rows"),
        merged=artifacts["merged"].download if "merged" in artifacts else None,
    )


def _adapter_bytes(artifacts: dict[str, ArtifactOut]) -> int | None:
    return artifacts["adapter"].bytes if "adapter" in artifacts else None


def _mean(session: Session, run_id: UUID, name: str) -> float | None:
    finite = (Point.run_id == run_id, Point.name == name, Point.value < math.inf)
    return session.scalar(select(func.avg(Point.value)).where(*finite))


def candidates(session: Session, chosen: Sequence[Run], words: str) -> list[Run]:
    """Runs to compare with: those with these words in their names, else the newest, of the same data first."""
    query = select(Run).where(Run.id.not_in([run.id for run in chosen]), Run.discarded_at.is_(None))
    if words:
        query = query.where(Run.name.icontains(words, autoescape=True))
    found = list(session.scalars(query.order_by(Run.id.desc()).limit(OFFERED)))
    wanted = {each["name"] for run in chosen for each in run.data}
    found.sort(key=lambda run: not wanted & {each["name"] for each in run.data})  # stable: the newest stay first
    return found


def side_by_side(session: Session, compared: Sequence[ComparedOut], prompt: int, at: str) -> SideBySide | None:
    """What each run answered to one prompt, at its newest or best step or at a given one. None where nobody answered."""
    prompts: dict[bytes, tuple[UUID, int, int]] = {}
    for run_id in (out.run.id for out in compared):
        for digest, (step, index) in journal.prompts(session, run_id).items():
            prompts.setdefault(digest, (run_id, step, index))
    if not prompts:
        return None
    number = min(max(prompt, 0), len(prompts) - 1)
    digest, place = list(prompts.items())[number]
    first = session.get(Sample, place)
    if first is None:  # a run went back meanwhile
        return None
    answered = [journal.answered(session, out.run.id, digest) for out in compared]
    steps = sorted({step for each in answered for step in each})
    at = at if at == "best" or (at.isdecimal() and int(at) in steps) else "newest"
    return SideBySide(
        prompt=first.prompt,
        number=number,
        of=len(prompts),
        at=at,
        steps=steps,
        told=[_told(session, out, each, at) for out, each in zip(compared, answered, strict=True)],
    )


def _told(session: Session, out: ComparedOut, answered: Mapping[int, int], at: str) -> Told:
    """The answer nearest before the step that is wanted: answers and measurements need not come at the same steps."""
    if at == "best" and out.eval_loss_step is not None:
        step = max((step for step in answered if step <= out.eval_loss_step), default=None)
    elif at.isdecimal():
        step = int(at) if int(at) in answered else None
    else:
        step = max(answered, default=None)
    found = session.get(Sample, (out.run.id, step, answered[step])) if step is not None else None
    return Told(step, SampleOut.model_validate(found) if found else None)
