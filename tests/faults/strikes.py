"""What can befall a studio: one entry of `CATALOGUE` for each kind of fault.

A strike hits one part at one moment and leaves a wound, which heals after a while that the strike chooses. Whatever it
draws, it draws from the dice that it is given, so that a number and a seed repeat it.
"""

from __future__ import annotations

import json
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil
import redis

from backend.core.queue import POKE, celery_app
from tests.faults.parts import DISK_MIB, SETTINGS, Studio
from tests.faults.phases import AIMS, HELD, SPAWNED, Phase, Stand
from tests.support.disks import MIB, fill, resize
from tests.support.links import Link

LEASE_SECONDS = float(SETTINGS["STUDIO_LEASE_SECONDS"])
PREEMPTED_SECONDS = 120.0
"""How long a machine that is taken away waits for what is saved on it."""
DUPLICATES = 50
MOSTLY = (Phase.TRAINING,) * 6
"""Kills are aimed at the middle of a run more often than at anything else: there most is to lose."""


def nothing() -> None:
    """What heals by itself."""


def no() -> bool:
    return False


@dataclass(frozen=True)
class Wound:
    """What a strike left behind. No other strike hits `parts` until `heal` was called, `seconds` later or once `is_over`."""

    target: str
    seconds: float = 0.0
    heal: Callable[[], None] = nothing
    parts: frozenset[str] = frozenset()
    is_over: Callable[[], bool] = no
    tick: Callable[[], None] = nothing
    """Called again and again until it is healed."""
    is_frozen: bool = False
    """Whether its parts stand still, so that they change nothing and answer nobody."""


@dataclass(frozen=True)
class Strike(ABC):
    """`phases` are the moments that it is aimed at; the run in that phase tells which host, or which trainer, is hit."""

    kind: str
    phases: tuple[Phase, ...] = AIMS
    weight: int = 1

    def parts(self, stand: Stand) -> frozenset[str]:  # noqa: ARG002 -- most hit the same part always
        """The parts that it would hit; one at a time hits a part."""
        return frozenset()

    def is_possible(self, studio: Studio) -> bool:  # noqa: ARG002 -- most are wherever a studio is
        """Whether this machine lets it strike such a studio."""
        return True

    @abstractmethod
    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:
        """Strike. None where there was nothing to hit any more."""


def trainer_of(studio: Studio, stand: Stand) -> psutil.Process | None:
    """The attempt's trainer, if it lives."""
    with suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(json.loads((stand.folder(studio.home) / "trainer.json").read_text())["pid"])
        if "worker.trainer" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def children_of(studio: Studio, part: str) -> list[psutil.Process]:
    """What a part started: of a supervisor trainers at work and spares, of Postgres all that serves."""
    process = studio.parts[part].process
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children() if process else []
    return []


def send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


# ---- the trainer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KillTrainer(Strike):
    phases: tuple[Phase, ...] = (*SPAWNED, *MOSTLY)

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:  # noqa: ARG002
        trainer = trainer_of(studio, stand)
        if trainer is None:
            return None
        send(trainer, signal.SIGKILL)
        return Wound(f"trainer {trainer.pid} of {stand.run}/{stand.attempt}")


@dataclass(frozen=True)
class FreezeTrainer(Strike):
    """It stands still, its supervisor renews: nothing is to happen but a pause."""

    phases: tuple[Phase, ...] = SPAWNED

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:
        trainer = trainer_of(studio, stand)
        if trainer is None:
            return None
        send(trainer, signal.SIGSTOP)
        return Wound(
            f"trainer {trainer.pid} of {stand.run}/{stand.attempt}",
            dice.uniform(0.5, 1.5 * LEASE_SECONDS),
            lambda: send(trainer, signal.SIGCONT),
        )


@dataclass(frozen=True)
class StarveTrainer(Strike):
    """It gets a tenth of its time."""

    phases: tuple[Phase, ...] = SPAWNED

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:
        trainer = trainer_of(studio, stand)
        if trainer is None:
            return None

        def tick() -> None:
            send(trainer, signal.SIGCONT if int(time.monotonic() * 20) % 10 == 0 else signal.SIGSTOP)

        return Wound(
            f"trainer {trainer.pid} of {stand.run}/{stand.attempt}",
            dice.uniform(1.0, 3.0),
            lambda: send(trainer, signal.SIGCONT),
            tick=tick,
        )


@dataclass(frozen=True)
class KillAllTrainers(Strike):
    """Every trainer of a host at once, the spare too, as the kernel does when memory runs out."""

    phases: tuple[Phase, ...] = SPAWNED

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:  # noqa: ARG002
        found = children_of(studio, f"supervisor-{stand.host}")
        for process in found:
            send(process, signal.SIGKILL)
        return Wound(f"trainers of {stand.host}") if found else None


@dataclass(frozen=True)
class TearCheckpoint(Strike):
    """A file of the newest checkpoint is cut, as a disk does that lies about a sync; then the trainer dies."""

    phases: tuple[Phase, ...] = (Phase.TRAINING, Phase.EXPORTING)

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:
        trainer, victim = trainer_of(studio, stand), self._victim(studio.home / "runs" / stand.run, dice)
        if trainer is None or victim is None:
            return None
        send(trainer, signal.SIGSTOP)  # it is to die before it can use or replace what is torn
        with suppress(OSError), open(victim, "r+b") as file:
            file.truncate(dice.randrange(victim.stat().st_size))
        send(trainer, signal.SIGKILL)
        return Wound(victim.parent.relative_to(studio.home).as_posix())

    @staticmethod
    def _victim(run: Path, dice: Random) -> Path | None:
        """A file of the newest checkpoint."""
        found = sorted(run.glob("attempt-*/checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        with suppress(OSError):  # the supervisor may be deleting it
            files = [path for path in sorted(found[-1].iterdir()) if path.stat().st_size > 1] if found else []
            return dice.choice(files) if files else None
        return None


# ---- processes of the studio -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnPart(Strike):
    """Hits one process. `{host}` in its name is the host that holds the run."""

    part: str = ""

    def parts(self, stand: Stand) -> frozenset[str]:
        return frozenset({self.part.format(host=stand.host)})


@dataclass(frozen=True)
class Kill(OnPart):
    """SIGKILL; it is started again a moment later."""

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:
        (name,) = self.parts(stand)
        studio.parts[name].kill()
        return Wound(name, dice.choice((0.0, dice.uniform(0.1, 2.0))), studio.parts[name].start, frozenset({name}))


@dataclass(frozen=True)
class Freeze(OnPart):
    """SIGSTOP, past the lease, and SIGCONT. `with_children`: what it started, too, as where a whole host stands still."""

    with_children: bool = False

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:
        (name,) = self.parts(stand)
        part = studio.parts[name]
        part.send(signal.SIGSTOP)
        others = children_of(studio, name) if self.with_children else []
        for each in others:
            send(each, signal.SIGSTOP)

        def wake() -> None:
            for each in dice.sample(others, len(others)):  # whoever wakes first
                send(each, signal.SIGCONT)
            part.send(signal.SIGCONT)

        return Wound(name, dice.uniform(1.3, 2.2) * LEASE_SECONDS, wake, frozenset({name}), is_frozen=True)


@dataclass(frozen=True)
class Preempt(OnPart):
    """SIGTERM, as a machine that is taken away gets it: trainers save, the run is given back, another start follows."""

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:  # noqa: ARG002
        (name,) = self.parts(stand)
        part = studio.parts[name]
        part.is_wanted = False
        part.send(signal.SIGTERM)

        def start() -> None:
            assert not part.is_alive, f"{name} was still there {PREEMPTED_SECONDS:g} s after SIGTERM"
            part.start()

        return Wound(name, PREEMPTED_SECONDS, start, frozenset({name}), is_over=lambda: not part.is_alive)


@dataclass(frozen=True)
class KillBackend(Strike):
    """One process of Postgres that serves a connection: all of Postgres recovers as after a crash."""

    def parts(self, stand: Stand) -> frozenset[str]:  # noqa: ARG002
        return frozenset({"postgres"})

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:  # noqa: ARG002
        postgres = studio.parts["postgres"].process
        assert postgres is not None
        with suppress(psutil.NoSuchProcess):
            serving = [each for each in psutil.Process(postgres.pid).children() if "idle" in " ".join(each.cmdline())]
            if serving:
                victim = dice.choice(serving)
                send(victim, signal.SIGKILL)
                return Wound(f"backend {victim.pid}", 1.0, parts=frozenset({"postgres"}))
        return None


# ---- the disk --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FillDisk(Strike):
    """What the runs lie on takes not one byte more, for less than a lease or for longer."""

    phases: tuple[Phase, ...] = HELD

    def parts(self, stand: Stand) -> frozenset[str]:  # noqa: ARG002
        return frozenset({"disk"})

    def is_possible(self, studio: Studio) -> bool:
        return studio.disk is not None

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:  # noqa: ARG002
        disk = studio.disk
        if disk is None or not fill(disk):
            return None

        def make_room() -> None:
            assert resize(disk, DISK_MIB * MIB), f"{disk} takes no room back"

        return Wound(disk.name, dice.uniform(0.2, 1.8) * LEASE_SECONDS, make_room, frozenset({"disk"}))


# ---- hints -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flush(Strike):
    """Valkey forgets everything: hints that were sent are gone."""

    def parts(self, stand: Stand) -> frozenset[str]:  # noqa: ARG002
        return frozenset({"valkey"})

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:  # noqa: ARG002
        with suppress(redis.RedisError), redis.Redis.from_url(studio.valkey.url, socket_timeout=2) as client:
            client.flushall()
            return Wound("valkey")
        return None


@dataclass(frozen=True)
class RepeatHint(Strike):
    """The hint of one run, fifty times at once."""

    phases: tuple[Phase, ...] = (Phase.QUEUED, *HELD)

    def parts(self, stand: Stand) -> frozenset[str]:  # noqa: ARG002
        return frozenset({"valkey"})

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:  # noqa: ARG002
        from kombu.exceptions import OperationalError

        app = celery_app(studio.valkey.url)
        with suppress(OperationalError), ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda _: app.send_task(POKE, args=[stand.run], retry=False), range(DUPLICATES)))
            return Wound(f"hint of {stand.run}")
        return None


# ---- the network -----------------------------------------------------------------------------------------------------

TROUBLES: dict[str, Callable[[Link], None]] = {
    "cut": Link.cut,
    "reset": Link.reset,
    "silent": Link.fall_silent,
    "slow": lambda link: link.slow_down(0.2),
    "half_open": Link.half_open,
}
NETWORKS = ("{host}-postgres", "web-postgres", "{host}-valkey", "web-valkey", "client-web")
"""Both processes of a host, the supervisor and Celery's, reach Valkey over the same link."""


@dataclass(frozen=True)
class Network(Strike):
    """One link in one kind of trouble, for less than a lease or for more."""

    link: str = ""
    trouble: str = ""

    def parts(self, stand: Stand) -> frozenset[str]:
        return frozenset({self.link.format(host=stand.host)})

    def hit(self, studio: Studio, stand: Stand, dice: Random) -> Wound | None:
        (name,) = self.parts(stand)
        link = studio.links[name]
        TROUBLES[self.trouble](link)
        return Wound(name, dice.uniform(0.2, 1.8) * LEASE_SECONDS, link.restore, frozenset({name}))


CATALOGUE: tuple[Strike, ...] = (
    KillTrainer("trainer.kill", weight=9),
    FreezeTrainer("trainer.freeze"),
    StarveTrainer("trainer.starve"),
    KillAllTrainers("trainers.kill"),
    TearCheckpoint("checkpoint.tear"),
    Kill("supervisor.kill", (*AIMS, *MOSTLY), 6, part="supervisor-{host}"),
    Kill("supervisor.kill_before_spawn", (Phase.CLAIMED,), part="supervisor-{host}"),
    Freeze("supervisor.freeze", HELD, part="supervisor-{host}"),
    Freeze("host.freeze", HELD, part="supervisor-{host}", with_children=True),
    Preempt("supervisor.preempt", HELD, part="supervisor-{host}"),
    Kill("celery.kill", part="celery-{host}"),
    Freeze("celery.freeze", part="celery-{host}"),
    Kill("web.kill", part="web", weight=2),
    Freeze("web.freeze", part="web"),
    Kill("postgres.kill", part="postgres", weight=2),
    Freeze("postgres.freeze", part="postgres", with_children=True),
    KillBackend("postgres.kill_backend"),
    Kill("valkey.kill", part="valkey", weight=2),
    Freeze("valkey.freeze", part="valkey"),
    FillDisk("disk.fill", weight=2),
    Flush("valkey.flush", weight=2),
    RepeatHint("hint.repeat", weight=3),
    *(
        Network(f"network.{link.format(host='host')}.{trouble}", link=link, trouble=trouble)
        for link in NETWORKS
        for trouble in TROUBLES
    ),
)
