"""A run with a life behind it: what its page has to show, shipped as a supervisor would ship it. No trainer ran."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.core import journal, runs
from backend.core.assignment import Line, LineKind, Outcome
from backend.core.errors import Problem
from backend.core.models import Attempt, Device, Intent, Run, RunEvent, Worker
from backend.core.recipe import read_recipe

GIB = 1 << 30
WORKER, DEVICE, PLACE = "gpu-box", "cuda:0", "shared"
MODEL = {
    "parameters": 7_615_616_512,
    "layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "heads": 28,
    "kv_heads": 4,
    "vocabulary": 152_064,
    "context_length": 32_768,
    "chat_template": True,
}
STEP_SECONDS = 2.9
LEASE_SECONDS = 3600.0
"""Nobody renews it."""
BEST_STEP = 420
CHANGED_AT, CHANGED_RATE = 301, 1.5e-4
PROMPTS = (
    "How do I change the delivery address of an order?",
    "My parcel has said ‘label created’ for four days. Where is it?",
    "The left speaker crackles. What now?",
)
ANSWERS = (
    (
        "There are several ways to change an address. You may contact the shop, or the carrier, or look into the",
        "You can change the address under Orders, as long as the parcel has not left us.",
        "You can change the address under Orders until the parcel leaves us. Shall I do it for you?",
        "You can change the address under Orders until the parcel leaves us. Shall I do it for you now?",
    ),
    (
        "I’m sorry to hear about the delay. There could be several reasons why your tracking hasn’t updated. "
        "I recommend contacting the carrier directly, checking the tracking number, and waiting a few more",
        "“Label created” means the carrier has not scanned it yet. After three working days we treat that as lost in "
        "the depot. I can send a replacement.",
        "“Label created” means the carrier has not scanned it yet. After four days we treat that as lost in the depot. "
        "Shall I send a replacement today, or refund you?",
        "“Label created” means the carrier has not scanned it yet. I have sent a replacement. I have sent a replacement "
        "to the address on file.",
    ),
    (
        "Crackling is the sound of a speaker that crackles. A speaker may crackle for many reasons, such as",
        "Swap the two cables. If the crackle moves, the cable is worn; if it stays, send us the speaker.",
        "Swap the two cables first. If the crackle moves with the cable, I send you a new one today.",
        "Swap the two cables first. If the crackle moves with the cable, I will send you a new one today.",
    ),
)
SAMPLE_STEPS = (0, 240, 420, 600)


class Shipper:
    """Stands where a supervisor stands: claims a run, this one or the oldest, and ships what its trainer would have written."""

    def __init__(
        self,
        session: Session,
        *,
        worker: str = "box",
        device: str = "cpu",
        place: str = "here",
        run_id: UUID | None = None,
    ) -> None:
        self.session, self.lines, self.bytes = session, 0, 0
        self.place = place
        claimed = runs.claim(
            session,
            worker=worker,
            device=device,
            place=place,
            lease_seconds=LEASE_SECONDS,
            limits=runs.Limits(),
            run_id=run_id,
        )
        assert claimed
        self.token = claimed
        session.commit()

    def ship(
        self,
        kind: LineKind,
        steps: Sequence[int],
        data: Callable[[int], dict[str, Any]],
        at: Callable[[int], float] = lambda _step: 1e9,
    ) -> None:
        lines = [
            Line(n=self.lines + number, t=at(step), kind=kind, step=step, data=data(step))
            for number, step in enumerate(steps)
        ]
        batch = journal.Batch(self.token.attempt, self.bytes, self.bytes + len(lines), lines)
        origin = journal.Origin(self.place, f"runs/x/attempt-{self.token.attempt}")
        journal.ship(self.session, self.token, batch, origin, LEASE_SECONDS)
        self.session.commit()
        self.lines += len(lines)
        self.bytes += len(lines)

    def train(self, steps: Sequence[int], offset: float = 0.0) -> None:
        self.ship(LineKind.METRICS, steps, lambda step: {"values": {"loss": offset + 1 / step, "grad_norm": 0.5}})

    def rewind(self, step: int) -> None:
        journal.rewind(self.session, runs.lock(self.session, self.token.run_id), step)
        self.session.commit()

    def end(self, outcome: Outcome, cause: Problem | None = None) -> None:
        runs.reap(self.session, self.token, runs.Ending(outcome, cause), runs.Limits())
        self.session.commit()


@dataclass(frozen=True)
class Course:
    """How far the run has come, and what it was set to."""

    steps: int = 612
    total: int = 966
    steps_a_pass: int = 322
    rate: float = 2e-4
    batch: int = 1

    def learning_rate(self, step: int) -> float:
        rising = min(1.0, step / 29)
        peak = self.rate if step < CHANGED_AT else CHANGED_RATE
        return peak * rising * 0.5 * (1 + math.cos(math.pi * max(0, step - 29) / (self.total - 29)))

    def values(self, step: int) -> dict[str, float]:
        draw = random.Random(step)
        return {
            "loss": round(0.72 + 1.2 * math.exp(-step / 130) + draw.gauss(0, 0.03), 4),
            "grad_norm": 1.81 if step == 279 else round(0.56 + 1.4 * math.exp(-step / 20) + draw.gauss(0, 0.05), 4),
            "learning_rate": self.learning_rate(step),
            "tokens_per_second": round(2940 + draw.gauss(0, 40) - (900 if step % 60 == 1 else 0), 1),
            "memory_gib": round(min(18.2, 14.4 + step / 12) + draw.gauss(0, 0.05), 3),
        }

    def told(self, step: int) -> dict[str, Any]:
        return {"values": self.values(step), "epoch": step / self.steps_a_pass}

    def eval_loss(self, step: int) -> float:
        return round(1.083 + 0.8 * math.exp(-step / 70) - 0.8 * math.exp(-6) + 2e-6 * (step - BEST_STEP) ** 2, 4)


def rich_run(
    session: Session,
    name: str = "support-r16",
    *,
    parent: Run | None = None,
    device: str = DEVICE,
    course: Course | None = None,
    owner_id: UUID | None = None,
    ends: Outcome | None = None,
    cause: Problem | None = None,
) -> tuple[Run, Shipper]:
    """A run that trains (or has ended), with curves, measurements, samples, checkpoints, a change in mid-run, a log."""
    course = course or Course()
    _accelerator(session)
    run = runs.create(
        session,
        recipe=read_recipe(_recipe(name, course)).recipe,
        model={"path": "Qwen2.5-7B-Instruct", "revision": None, "facts": MODEL},
        data=[{"name": "support-chat", "version": 3, "rows": 10_304}],
        owner_id=owner_id,
        parent_id=parent.id if parent else None,
        place=PLACE,
    )
    session.commit()
    shipper = Shipper(session, worker=WORKER, device=device, place=PLACE)
    begun = time.time() - course.steps * STEP_SECONDS
    _live(session, run, shipper, course, lambda step: begun + step * STEP_SECONDS)
    if ends is not None:
        _finish(shipper, course, ends, cause)
    _move_back(session, run, begun)
    session.refresh(run)
    session.commit()
    return run, shipper


def _recipe(name: str, course: Course) -> dict[str, Any]:
    return {
        "name": name,
        "model": "Qwen2.5-7B-Instruct",
        "data": {"sets": ["support-chat"], "max_length": 2048},
        "method": {"kind": "lora", "r": 16, "target_modules": "all-linear"},
        "training": {
            "learning_rate": course.rate,
            "num_train_epochs": 3,
            "warmup_steps": 29,
            "per_device_train_batch_size": course.batch,
        },
        "evaluation": {"prompts": list(PROMPTS), "eval_steps": 60},
        "saving": {"save_steps": 60, "save_total_limit": 3},
    }


def _accelerator(session: Session) -> None:
    """The worker and its card, heard of just now."""
    seen = {"place": PLACE, "facts": {}, "seen_at": datetime.now(UTC)}
    session.execute(
        insert(Worker).values(name=WORKER, **seen).on_conflict_do_update(index_elements=["name"], set_=seen)
    )
    card = {"title": "NVIDIA RTX 4090", "memory_bytes": 24 * GIB}
    row = insert(Device).values(worker=WORKER, name=DEVICE, **card)
    session.execute(row.on_conflict_do_nothing())
    session.commit()


def _live(session: Session, run: Run, shipper: Shipper, course: Course, at: Callable[[int], float]) -> None:
    def ship(kind: LineKind, steps: Sequence[int], data: Callable[[int], dict[str, Any]]) -> None:
        shipper.ship(kind, steps, data, at)

    ship(LineKind.PHASE, [0], lambda _: {"phase": "preparing", "text": ""})
    facts = {"total_steps": course.total, "device": "NVIDIA RTX 4090", "trainable_parameters": 40_370_176}
    ship(LineKind.FACTS, [0], lambda _: facts)
    ship(LineKind.PHASE, [0], lambda _: {"phase": "training", "text": ""})
    _answer(ship, 0)
    for first in range(1, course.steps + 1, 60):
        last = min(first + 59, course.steps)
        steps = range(first, last + 1)
        ship(LineKind.METRICS, steps, course.told)
        if last % 60 == 0:
            ship(LineKind.METRICS, [last], lambda step: {"values": {"eval_loss": course.eval_loss(step)}})
            _answer(ship, last)
            ship(LineKind.CHECKPOINT, [last], _checkpoint)
        if first == 241:
            runs.amend(session, run.id, "training.learning_rate", CHANGED_RATE, run.owner_id)
            session.commit()
            ship(LineKind.AMENDED, [CHANGED_AT], lambda _: {"sequence": 1})
        if first == 301:
            ship(LineKind.LOG, [333], lambda _: {"level": "warning", "text": "Row 4,112 has an empty answer."})


def _answer(ship: Callable[..., None], step: int) -> None:
    if step not in SAMPLE_STEPS:
        return
    for index, prompt in enumerate(PROMPTS):
        text = ANSWERS[index][SAMPLE_STEPS.index(step)]
        answer = {"index": index, "prompt": prompt, "text": text, "tokens": len(text.split()) * 4 // 3}
        finish = "length" if step == 0 else "stop"
        ship(LineKind.SAMPLE, [step], lambda _, told=answer | {"finish": finish}: told)


def _checkpoint(step: int) -> dict[str, Any]:
    return {"folder": f"checkpoints/{step}", "manifest_sha256": f"{step:064x}", "bytes": 483_000_000}


def _finish(shipper: Shipper, course: Course, ends: Outcome, cause: Problem | None) -> None:
    if ends is Outcome.DONE:
        shipper.ship(LineKind.PHASE, [course.steps], lambda _: {"phase": "exporting", "text": ""})
        shipper.ship(LineKind.ARTIFACT, [course.steps], lambda _: _artifact("adapter", 161_000_000, {}))
        shipper.ship(LineKind.ARTIFACT, [course.steps], lambda _: _artifact("merged", 15_231_000_000, PROOF))
    shipper.end(ends, cause)


PROOF = {
    "max_logit_diff": 0.031,
    "threshold": 0.125,
    "max_logit_diff_without_autocast": 0.034,
    "agrees": True,
    "greedy_agreement": 1.0,
    "prompts": 16,
    "tokens": 512,
    "dtype": "bfloat16",
}


def _artifact(kind: str, size: int, facts: dict[str, Any]) -> dict[str, Any]:
    names = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json"]
    files = [{"name": n, "bytes": size // 4, "sha256": f"{len(n):02x}" * 32, "crc32": 7} for n in names]
    sha256 = "c6bd29b949ec7826a0f1" + "5e" * 22
    return {
        "kind": kind,
        "folder": f"artifacts/{kind}",
        "bytes": size,
        "sha256": sha256,
        "files": files,
        "facts": facts,
    }


def _move_back(session: Session, run: Run, begun: float) -> None:
    """Times as they would have been: the journal was shipped in a moment."""
    start = datetime.fromtimestamp(begun, UTC)
    per_step = timedelta(seconds=STEP_SECONDS)
    session.execute(update(RunEvent).where(RunEvent.run_id == run.id).values(at=start + RunEvent.step * per_step))
    own = Attempt.run_id == run.id
    session.execute(update(Attempt).where(own).values(started_at=start - timedelta(seconds=40)))
    early = {
        "created_at": start - timedelta(seconds=50),
        "queued_at": start - timedelta(seconds=45),
        "started_at": start,
    }
    session.execute(update(Run).where(Run.id == run.id).values(**early))
    session.commit()


def told_to(session: Session, run: Run, intent: Intent) -> None:
    """As if a person had just asked for it."""
    runs.pause(session, run.id) if intent is Intent.PAUSE else runs.stop(session, run.id, keep=intent is Intent.KEEP)
    session.commit()
