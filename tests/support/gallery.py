"""A studio that has been worked in: made-up data sets, people, and runs in every state, for whoever looks at its pages.

No trainer ran here. A run's journal is shipped as a supervisor would ship it, and then moved back in time.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from backend.commands.client import Client
from backend.core import people, runs
from backend.core.assignment import LineKind, Outcome
from backend.core.errors import Problem
from backend.core.models import Device, Role, Run, Worker
from backend.web.shapes.launch import RecipeOut
from tests.support.models import save_base
from tests.support.showcase import PROOF, WORKER, Shipper, rich_run
from tests.support.webs import SignedIn, Web

BOX = "trainbox"
MODEL = "tiny-qwen3"
GIB = 1 << 30
STEP_SECONDS = 7.6
PARTS = {
    "chain": ("It skips under load.", "Measure it: past 0.75 % of wear it has to go, and the cassette often with it."),
    "brake": ("It squeals in the rain.", "Clean the rim with alcohol, toe the pads in by a millimetre, and try again."),
    "tyre": (
        "It is flat every week.",
        "Run a cloth along the inside: a thorn stays in the tread and pricks each tube.",
    ),
    "gear": ("It jumps between two sprockets.", "Turn the barrel adjuster a quarter turn outwards until it is quiet."),
    "wheel": ("It rubs at one place.", "Loosen the spoke on that side by half a turn and tighten its neighbour."),
    "headset": ("It knocks when I brake.", "Loosen the stem, take the play out with the top cap, tighten the stem."),
    "saddle": ("It creaks on climbs.", "Grease the rails and the clamp; tighten to the torque that is printed on it."),
}
MEANWHILE = ("Before a ride: ", "In short: ", "That is common. ", "")
CHINESE = {
    "链条": ("踩踏时链条打滑怎么办？", "先量一下磨损，超过 0.75% 就该换了，飞轮往往也要一起换。"),
    "刹车": ("下雨天刹车尖叫怎么办？", "用酒精擦净轮圈，把刹车块前端向内收一毫米，再试一次。"),
    "轮胎": ("每周都漏气是怎么回事？", "用布沿外胎内侧擦一圈，常有一根刺留在里面，每条内胎都会被它扎破。"),
    "变速": ("变速在两个齿片之间乱跳。", "把微调螺丝往外拧四分之一圈，直到没有杂音。"),
}
PROMPTS = ("My chain skips under load. What is wrong?", "What should I carry on a day's ride?")
ANSWERS = (
    ("the the , a and the , of the a", "A pump, a pump and a pump. A pump is a pump of the"),
    ("It is the chain. The chain is a chain that is", "A tube, a pump and a tool."),
    ("The chain is worn. Measure it and put a new one on.", "A tube, a pump, two levers and water."),
    (
        "It is worn. Measure it: past 0.75 % of wear it has to go, and the cassette often with it.",
        "A tube, two levers, a pump, a multitool and more water than you think.",
    ),
)


# ---- data -----------------------------------------------------------------------------------------------------------


def rows(count: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Questions of riders and a mechanic's answers, of different lengths."""
    draw = random.Random(seed)
    names = list(PARTS)
    for number in range(count):
        part = names[number % len(names)]
        trouble, remedy = PARTS[part]
        model = f"{draw.choice(('city', 'road', 'cargo', 'touring'))} bike of {draw.randint(2009, 2025)}"
        extra = [PARTS[draw.choice(names)][1] for _ in range(draw.choice((0, 0, 0, 1, 1, 2, 4)))]
        answer = " ".join([draw.choice(MEANWHILE) + remedy, *extra])
        yield {"instruction": f"The {part} of my {model}: {trouble}", "input": "", "output": answer}


def chats(count: int) -> Iterator[dict[str, Any]]:
    """Conversations of several turns."""
    found = list(rows(count * 2, seed=11))
    for first, second in zip(found[::2], found[1::2], strict=True):
        turns = [("user", first["instruction"]), ("assistant", first["output"])]
        turns += [("user", second["instruction"]), ("assistant", second["output"])]
        spoken = [{"role": role, "content": content} for role, content in turns]
        yield {"messages": [{"role": "system", "content": "You are a patient mechanic."}, *spoken]}


def chinese(count: int) -> Iterator[dict[str, Any]]:
    parts = list(CHINESE.values())
    for number in range(count):
        question, answer = parts[number % len(parts)]
        yield {"instruction": f"{question}（第 {number + 1} 位车主）", "output": answer}


def write_rows(path: Path, written: Iterator[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written), encoding="utf-8")
    return path


def upload_all(client: Client, folder: Path) -> None:
    """Four data sets, one of them in two versions."""
    sets = {
        "bike-repair": [rows(420), rows(640)],
        "workshop-chats": [chats(180)],
        "自行车维修": [chinese(240)],
    }
    for name, versions in sets.items():
        for written in versions:
            client.put_dataset(name, write_rows(folder / f"{name}.jsonl", written), on_bytes=lambda _count: None)
    story = folder / "ride-diary.txt"
    story.write_text("\n".join(f"Day {day}. {PARTS['tyre'][1]}" for day in range(1, 90)))
    client.put_dataset("ride-diary", story, on_bytes=lambda _count: None)


# ---- runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """A run as it went: how far, how it ended, and when it began."""

    name: str
    ago_minutes: float
    steps: int
    total: int
    method: str = "qlora"
    end: Outcome | None = None
    cause: Problem | None = None
    dataset: str = "bike-repair"
    rate: float = 2e-4
    seed: int = 1
    parent: str | None = None
    phase: str = "training"
    device: str = "cuda:0"


STORIES = (
    Story("repair-first", 3000, 480, 480, end=Outcome.DONE),
    Story("repair-1e-4", 1500, 480, 480, end=Outcome.DONE, seed=2, rate=1e-4, parent="repair-first"),
    Story("chats-full", 1380, 131, 300, method="full", dataset="workshop-chats", rate=1e-5, seed=3, end=Outcome.FAILED,
          cause=Problem("memory", "Out of memory at step 131: 2 rows of up to 1,024 tokens.",
                        hint="Halve the batch and double the accumulation, or turn gradient checkpointing on.")),
    Story("维修-lora", 700, 300, 300, method="lora", dataset="自行车维修", seed=4, end=Outcome.DONE),
    Story("chats-lora", 320, 210, 400, method="lora", dataset="workshop-chats", seed=5, end=Outcome.PAUSED),
    Story("repair-3e-4", 42, 318, 640, seed=6, rate=3e-4, parent="repair-1e-4"),
    Story("repair-lora", 3, 0, 480, method="lora", seed=7, phase="loading", device="cuda:1"),
)  # fmt: skip
QUEUED = "repair-all-linear"
RICH = "support-r16"
FIRST, LIVE, ENDED, FAILED, PAUSED = "repair-first", "repair-3e-4", "repair-1e-4", "chats-full", "chats-lora"


def recipe(story: Story) -> dict[str, Any]:
    method = {"kind": story.method} | ({} if story.method == "full" else {"r": 16})
    return {
        "name": story.name,
        "model": MODEL,
        "data": {"sets": [story.dataset], "max_length": 256, "truncation": "drop"},
        "method": method,
        "training": {
            "max_steps": story.total, "learning_rate": story.rate, "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
        },
        "evaluation": {"prompts": list(PROMPTS), "eval_steps": 40, "sample_steps": 80},
        "saving": {"save_steps": 80},
    }  # fmt: skip


def curve(story: Story) -> Iterator[tuple[int, dict[str, float]]]:
    """Falling, noisy and a little different for each run; one spike, as there always is."""
    draw = random.Random(story.seed)
    floor, speed = 0.55 + 0.12 * draw.random(), 38 + 30 * draw.random()
    for step in range(1, story.steps + 1):
        base = floor + 2.6 * math.exp(-step / speed) + 0.35 * math.exp(-step / (speed * 6))
        spike = 0.9 if step == round(story.steps * 0.6) else 0.0
        share = step / story.total
        warm = min(1.0, share / 0.03)
        yield (
            step,
            {
                "loss": round(base * (1 + draw.gauss(0, 0.045)) + spike, 4),
                "grad_norm": round(0.6 + 1.8 * math.exp(-step / speed) + abs(draw.gauss(0, 0.09)) + spike * 3, 4),
                "learning_rate": story.rate * warm * 0.5 * (1 + math.cos(math.pi * share)),
                "tokens_per_second": round(draw.gauss(5210, 60), 1),
                "memory_gib": round(min(9.4, 7.8 + step / 20) + draw.gauss(0, 0.03), 3),
            },
        )


def evaluations(story: Story) -> Iterator[tuple[int, dict[str, float]]]:
    draw = random.Random(story.seed + 100)
    for step in range(40, story.steps + 1, 40):
        overfit = 0.12 * (step / story.total) ** 2 if story.seed == 1 else 0.0
        yield step, {"eval_loss": round(0.74 + 2.3 * math.exp(-step / 60) + overfit + draw.gauss(0, 0.008), 4)}


def samples(story: Story) -> Iterator[tuple[int, dict[str, Any]]]:
    for at, step in enumerate(range(0, story.steps + 1, 80)):
        for index, prompt in enumerate(PROMPTS):
            answer = ANSWERS[min(at, len(ANSWERS) - 1)][index]
            finish = "length" if at == 0 else "stop"
            yield step, {"index": index, "prompt": prompt, "text": answer, "tokens": len(answer) // 4, "finish": finish}


def facts_of(story: Story) -> dict[str, Any]:
    trainable = 1_720_320_000 if story.method == "full" else 17_432_576
    quantised = {"quantised_layers": 196, "skipped_layers": ["lm_head"]} if story.method == "qlora" else {}
    return {
        "architecture": "Qwen3ForCausalLM", "trainable_parameters": trainable, "total_parameters": 1_720_320_000,
        "layers": 28, "device": "NVIDIA RTX 4090", "precision": "bfloat16", "total_steps": story.total, **quantised,
    }  # fmt: skip


def artifact(kind: str, story: Story) -> dict[str, Any]:
    weights = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
    size = 69_800_000 if kind == "adapter" else 3_440_640_000
    names = {weights: size, "tokenizer.json": 11_421_896, "README.md": 2_411}
    digest = random.Random(f"{kind} {story.seed}").randbytes(32).hex()
    return {
        "kind": kind,
        "folder": f"artifacts/{kind}",
        "files": [{"name": name, "bytes": count, "sha256": digest, "crc32": 1} for name, count in names.items()],
        "bytes": sum(names.values()),
        "sha256": digest,
        "facts": PROOF if kind == "merged" else {},
    }


def play(session: Session, run_id: UUID, story: Story) -> None:
    """The whole story of a run."""
    place = str(session.get_one(Run, run_id).place)
    shipper = Shipper(session, worker=BOX, device=story.device, place=place, run_id=run_id)
    shipper.ship(LineKind.PHASE, [0], lambda _: {"phase": "loading", "text": ""})
    if story.phase == "training":
        _train(shipper, story)
    if story.end == Outcome.PAUSED:
        runs.pause(session, run_id)
    if story.end is not None:
        shipper.end(story.end, story.cause)
    session.flush()
    _move_back(session, run_id, story)
    session.commit()


def _train(shipper: Shipper, story: Story) -> None:
    began = datetime.now(UTC).timestamp() - story.ago_minutes * 60

    def ship(kind: LineKind, told: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Several lines may be of one step, so each finds its own by its turn."""
        turns = iter([data for _, data in told])
        shipper.ship(kind, [step for step, _ in told], lambda _: next(turns), lambda step: began + step * STEP_SECONDS)

    def metrics(points: Iterator[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, Any]]]:
        return [(step, {"values": values, "epoch": 3 * step / story.total}) for step, values in points]

    ship(LineKind.FACTS, [(0, facts_of(story))])
    ship(LineKind.PHASE, [(0, {"phase": "training", "text": ""})])
    ship(LineKind.LOG, [(0, {"level": "info", "text": f"Attention kernel: sdpa. Seed {story.seed}."})])
    ship(LineKind.METRICS, metrics(curve(story)))
    ship(LineKind.METRICS, metrics(evaluations(story)))
    ship(LineKind.SAMPLE, list(samples(story)))
    saved = {"manifest_sha256": "0" * 64, "bytes": 139_000_000}
    steps = range(80, story.steps + 1, 80)
    ship(LineKind.CHECKPOINT, [(step, saved | {"folder": f"checkpoints/checkpoint-{step}"}) for step in steps])
    if story.end == Outcome.DONE:
        ship(LineKind.PHASE, [(story.steps, {"phase": "exporting", "text": ""})])
        ship(LineKind.ARTIFACT, [(story.steps, artifact(kind, story)) for kind in ("adapter", "merged")])


def _move_back(session: Session, run_id: UUID, story: Story) -> None:
    """Times are the database's own; a story happened when it says."""
    back = timedelta(minutes=story.ago_minutes)
    took = timedelta(seconds=max(story.steps, 1) * STEP_SECONDS)
    moved = {
        "runs": "created_at = created_at - :back, queued_at = queued_at - :back, started_at = started_at - :back, "
        "ended_at = ended_at - :back + :took",
        "run_events": f"at = at - :back + step * interval '{STEP_SECONDS} seconds'",
        "attempts": "started_at = started_at - :back, ended_at = ended_at - :back + :took",
        "checkpoints": f"created_at = created_at - :back + step * interval '{STEP_SECONDS} seconds'",
    }
    for table, change in moved.items():
        key = "id" if table == "runs" else "run_id"
        binds = {"back": back, "run": run_id} | ({"took": took} if ":took" in change else {})
        session.execute(text(f"UPDATE {table} SET {change} WHERE {key} = :run"), binds)


# ---- the whole ------------------------------------------------------------------------------------------------------


def add_workers(session: Session, place: str) -> None:
    facts = {"version": "0.1.0"}
    session.add(Worker(name=BOX, place=place, facts=facts))
    session.add(Worker(name="attic", place=place, facts=facts, seen_at=datetime.now(UTC) - timedelta(hours=9)))
    session.flush()
    for card in ("cuda:0", "cuda:1"):
        session.add(Device(worker=BOX, name=card, title="NVIDIA RTX 4090", memory_bytes=24 * GIB))
    session.add(Device(worker="attic", name="cpu", title="CPU, 8 cores (x86_64)", memory_bytes=32 * GIB))


@contextmanager
def beating(web: Web) -> Iterator[None]:
    """The workers are heard of, as long as somebody looks."""
    over = Event()

    def beat() -> None:
        while not over.wait(5):
            with web.session() as session:
                heard = update(Worker).where(Worker.name.in_((BOX, WORKER))).values(seen_at=datetime.now(UTC))
                session.execute(heard)
                session.commit()

    thread = Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fill(web: Web, owner: SignedIn, folder: Path) -> str:
    """Everything, so that every page has something to show. Returns the address of an invitation."""
    save_base(web.settings.folder("models") / MODEL)
    with web.client(owner.identity) as client:
        upload_all(client, folder)
        ids = {story.name: client.launch(recipe(story)).id for story in STORIES}
        waiting = Story(QUEUED, 0, 0, 480, seed=8)
        client.launch(recipe(waiting))
        client.ask(RecipeOut, "POST", "/recipes", json={"name": "mechanic", "recipe": recipe(waiting)})
    for name, role in (("grace", Role.MEMBER), ("linus", Role.VIEWER)):
        web.sign_in(name, role)
    with web.session() as session:
        add_workers(session, web.settings.place())
        for story in STORIES:
            play(session, ids[story.name], story)
        for story in (each for each in STORIES if each.parent):
            parent = {"parent_id": ids[str(story.parent)]}
            session.execute(update(Run).where(Run.id == ids[story.name]).values(**parent))
        rich_run(session, RICH, owner_id=owner.identity.id)
        guest = people.create(session, "barbara", people.NO_PASSWORD, Role.MEMBER, by=owner.identity)
        secret = people.invite(session, guest, by=owner.identity)
        session.commit()
    return f"/invitation?token={secret}"
