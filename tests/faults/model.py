"""An executable model of how a run stays owned, recorded and resumable while processes and hosts fail.

`Protocol` holds the rules: each of its methods is one transaction on what Postgres holds of a run, and refuses what may not
be. Two use it. `explore` puts hosts, trainers, files and faults around it and visits every order of events in small
instances, breadth first, so that a first violation comes with a shortest trace; `trace.py` replays what was recorded of real
runs. Each rule can be switched off, and each that is off must be missed: `MUTATIONS` names an instance that tells.

One line of a journal is one step. A history is the attempt that made each step: (1, 1, 2) is two steps of attempt 1 and a
third of attempt 2, which went on from the checkpoint of step 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

T = TypeVar("T")
ACTIVE = ("preparing", "training", "finishing")
RESTS = ("paused", "stopped", "failed", "succeeded")
RULES = frozenset(
    {
        "every write is fenced",
        "leaving ends the right to write",
        "only who is gone is robbed",
        "the offset is compared",
        "the owner's journal is shipped up to the checkpoint",
        "begin rewinds",
        "one lineage",
        "resume verifies",
        "all is shipped before the end",
        "free only what is dead",
        "a lock on each accelerator",
        "trainers die with their supervisor",
        "only deaths of trainers count",
        "deaths are counted",
        "attempts are capped",
        "the entry reads the intent",
        "ending needs no holder",
        "a claim that was not heard is given up",
    }
)


class Refused(Exception):
    """The protocol does not allow it; the words say why."""


class Run(NamedTuple):
    """What Postgres holds. `shown` is the history as clients see it; `stored` counts the lines of each attempt's journal."""

    state: str = "queued"
    intent: str = "run"
    attempt: int = 0
    is_held: bool = False
    begun: int = 0
    base: int = 0
    shown: tuple[int, ...] = ()
    stored: tuple[int, ...] = (0,)
    published: tuple[tuple[int, int], ...] = ()
    """Checkpoints of the history, attempt and step, the newest last."""
    tries: int = 0
    crashes: int = 0

    @property
    def saved(self) -> tuple[int, int]:
        return self.published[-1] if self.published else (0, 0)


class Protocol:
    """One transaction a method: the run as it was, and what is asked; the run as it is then, or `Refused`."""

    def __init__(self, off: frozenset[str] = frozenset(), crash_limit: int = 3, attempt_limit: int = 10) -> None:
        assert off <= RULES, off - RULES
        self.off, self.crash_limit, self.attempt_limit = off, crash_limit, attempt_limit

    def holds(self, rule: str) -> bool:
        return rule not in self.off

    def claim(self, run: Run, *, is_lapsed: bool) -> Run:
        """Take a run that is queued, or one whose lease was watched to lapse."""
        lapsed = is_lapsed or not self.holds("only who is gone is robbed")
        must(run.state == "queued" or (run.is_held and lapsed), f"a run that is {run.state} is claimed")
        must(run.intent in ("run", "keep"), f"a run that was told to {run.intent} is claimed")
        capped = self.holds("attempts are capped") and run.tries >= self.attempt_limit
        must(not capped, f"it is claimed after {run.tries} attempts without progress")
        stored = (*run.stored, 0)
        return run._replace(
            state="preparing", attempt=run.attempt + 1, is_held=True, tries=run.tries + 1, stored=stored
        )

    def fence(self, run: Run, attempt: int) -> None:
        """Only the current attempt writes, and only as long as it was not left."""
        if self.holds("every write is fenced"):
            must(attempt == run.attempt, f"attempt {attempt} writes, {run.attempt} is current")
        if self.holds("leaving ends the right to write"):
            must(run.is_held, f"attempt {attempt} writes, and was left")

    def begin(self, run: Run, attempt: int, saved: tuple[int, int]) -> Run:
        """Own the history from a checkpoint on, and take back what lies behind it."""
        self.fence(run, attempt)
        must(run.begun < attempt, f"attempt {attempt} begins, {run.begun} owns the history")
        step = saved[1]
        must(step <= len(run.shown), f"it goes on from step {step}, and {len(run.shown)} steps are stored")
        if self.holds("one lineage"):
            ours = saved in ((0, 0), *run.published) or saved[0] == run.begun
            must(ours, f"it goes on from a checkpoint of attempt {saved[0]}, {run.begun} owns the history")
        shown = run.shown[:step] if self.holds("begin rewinds") else run.shown
        kept = tuple(each for each in run.published if each[1] < step)
        published = (*kept, saved) if step else ()
        return run._replace(begun=attempt, base=step, shown=shown, published=published)

    def ship(self, run: Run, attempt: int, writer: int, start: int, lines: tuple[int, ...]) -> Run:
        """Store lines [start, …) of `writer`'s journal: one's own, or before `begin` those of who owned the history."""
        self.fence(run, attempt)
        if self.holds("every write is fenced"):
            must(writer == run.begun, f"a line of attempt {writer} is stored, {run.begun} owns the history")
        if self.holds("the offset is compared"):
            must(start == run.stored[writer], f"line {start} is stored, {run.stored[writer]} lines were")
        stored = (*run.stored[:writer], start + len(lines), *run.stored[writer + 1 :])
        return run._replace(shown=run.shown + lines, stored=stored, state=self._trains(run, attempt))

    def _trains(self, run: Run, attempt: int) -> str:
        return "training" if attempt == run.begun and run.state == "preparing" else run.state

    def publish(self, run: Run, attempt: int, step: int) -> Run:
        """Record a checkpoint of one's own whose steps are stored: that is progress, and patience starts anew."""
        self.fence(run, attempt)
        must(attempt == run.begun, f"attempt {attempt} publishes, {run.begun} owns the history")
        must(
            run.base < step <= len(run.shown),
            f"the checkpoint of step {step} is published, {len(run.shown)} are stored",
        )
        return run._replace(published=(*run.published, (attempt, step)), tries=0, crashes=0)

    def finish(self, run: Run, attempt: int) -> Run:
        """Training is over: what was learned is exported."""
        self.fence(run, attempt)
        must(attempt == run.begun, f"attempt {attempt} exports, {run.begun} owns the history")
        return run._replace(state="finishing")

    def leave(self, run: Run, attempt: int, how: str, intent: str = "") -> Run:
        """Give an attempt up: `freed`, `died`, `paused`, `failed` or `done`. The person's last word decides what follows.

        `intent` is what the leaver believes to be wanted; it is read again under the row's lock.
        """
        self.fence(run, attempt)
        intent = run.intent if self.holds("the entry reads the intent") or not intent else intent
        left = run._replace(is_held=False)
        if how == "done":
            kept = intent in ("keep", "stop")
            return left._replace(state="stopped" if kept else "succeeded", intent=intent if kept else "run")
        counts = how == "died" or (how == "freed" and not self.holds("only deaths of trainers count"))
        left = left._replace(crashes=run.crashes + (counts and self.holds("deaths are counted")))
        is_worn = counts and left.crashes >= self.crash_limit
        if intent in ("run", "keep") and (how == "failed" or is_worn):
            return left._replace(state="failed")
        return self.settle(left, intent)

    def settle(self, run: Run, intent: str = "") -> Run:
        """Where a run goes that nobody holds."""
        intent = intent or run.intent
        if intent in ("pause", "stop"):
            return run._replace(state="paused" if intent == "pause" else "stopped", is_held=False)
        if run.tries >= self.attempt_limit and self.holds("attempts are capped"):
            return run._replace(state="paused", intent="pause", is_held=False)
        return run._replace(state="queued", is_held=False)

    def end_unheld(self, run: Run, *, is_lapsed: bool) -> Run:
        """Anybody ends what nobody holds as the person's word says."""
        must(run.state == "queued" or (run.is_held and is_lapsed), f"a run that is {run.state} is ended by others")
        must(run.intent in ("pause", "stop") or run.tries >= self.attempt_limit, f"nobody said to end it: {run.intent}")
        return self.settle(run)

    def say(self, run: Run, word: str) -> Run:
        """What a person says. What nobody holds is ended at once."""
        going = run.state in ("queued", *ACTIVE)
        at_once = run.state in ("queued", "paused") and self.holds("ending needs no holder")
        match word:
            case "pause":
                must(going and run.intent == "run", f"a {run.state} run is paused")
                return self.settle(run._replace(intent="pause")) if at_once else run._replace(intent="pause")
            case "resume":
                rests = run.state in ("paused", "failed", "stopped")
                must(rests or (going and run.intent == "pause"), f"a {run.state} run is resumed")
                state = "queued" if rests else run.state
                return run._replace(intent="run", state=state, tries=0, crashes=0)
            case "stop":
                must(going or run.state == "paused", f"a {run.state} run is stopped")
                return self.settle(run._replace(intent="stop")) if at_once else run._replace(intent="stop")
            case "keep":
                must(
                    (going or run.state == "paused") and run.intent != "stop", f"a {run.state} run is stopped and kept"
                )
                state = "queued" if run.state == "paused" and run.saved[1] else run.state
                is_empty = at_once and not run.saved[1]
                return run._replace(intent="keep", state="stopped" if is_empty else state)
        raise Refused(f"{word} is no word")


def must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Refused(otherwise)


# ---- the world around it ---------------------------------------------------------------------------------------------

NAMES = "AB"
LIVE = ("train", "export")


class Host(NamedTuple):
    """A supervisor. `sent` is how many lines of its trainer it believes to be stored; `is_late`: it was frozen, and has not
    renewed its lease since."""

    is_up: bool = True
    is_frozen: bool = False
    is_late: bool = False
    token: int = 0
    doing: str = ""
    pick: tuple[int, int] = (0, 0)
    sent: int = 0


class Trainer(NamedTuple):
    """`mode`: wait (for the accelerator), train, export, or how it exited: done, paused, dead."""

    host: int
    token: int
    mode: str = "wait"
    word: str = ""
    is_orphan: bool = False


class World(NamedTuple):
    run: Run
    hosts: tuple[Host, ...]
    faults: tuple[str, ...]
    words: tuple[str, ...]
    trainers: tuple[Trainer, ...] = ()
    journals: tuple[tuple[int, ...], ...] = ((),)
    bases: tuple[int, ...] = (0,)
    holder: int = -1
    is_lapsed: bool = False
    files: frozenset[tuple[int, int, bool]] = frozenset()
    """Checkpoints on disk: attempt, step, whether it can be read."""
    deaths: int = 0
    unheard: int = 0
    """The attempt whose claimant never had the answer to its claim."""
    is_torn: bool = False
    wrong: str = ""


@dataclass(frozen=True)
class Instance:
    """What may befall a run, each as often as it is named. `poison` is what it kills itself each time: trainer or host.

    A run has so many `steps`, and saves a checkpoint after each `period` of them. `hosts` are there, each with one device.
    """

    faults: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    poison: str = ""
    steps: int = 3
    period: int = 2
    hosts: int = 2


Act = Callable[[], World]
Action = tuple[str, World]
"""What happens, in words, and the world then. Words that begin with `!` are faults, words of people and luck."""


class Model:
    """Every action that is possible in a world. Hosts follow the protocol; what it refuses they do not do."""

    def __init__(self, instance: Instance, off: frozenset[str] = frozenset()) -> None:
        self.instance = instance
        self.protocol = Protocol(off, crash_limit=2, attempt_limit=3)

    def start(self) -> World:
        return World(Run(), (Host(),) * self.instance.hosts, self.instance.faults, self.instance.words)

    def actions(self, world: World) -> Iterator[Action]:
        for h, host in enumerate(world.hosts):
            if not host.is_up:
                yield f"{NAMES[h]} is started again", put(world, h, Host())
            elif not host.is_frozen:
                for label, act in self._moves(world, h):
                    if (then := unless_refused(act)) is not None:
                        yield f"{NAMES[h]} {label}", then
        for place, trainer in enumerate(world.trainers):
            yield from self._trainer(world, place, trainer)
        yield from self._around(world)

    # ---- hosts ---------------------------------------------------------------------------------------------------

    def _moves(self, world: World, h: int) -> Iterator[tuple[str, Act]]:
        host = world.hosts[h]
        if host.token:
            if host.is_late or world.is_lapsed:
                yield "renews its lease", lambda: self._renew(world, h)
            yield "learns that its attempt is over", lambda: self._learn(world, h)
            yield from self._steps(world, h, host)
        else:
            yield "claims", lambda: self._claim(world, h)
            if "lose answer" in world.faults:
                yield "claims, and the answer is lost", lambda: self._claim_unheard(world, h)
            yield "frees what it held", lambda: self._free(world, h)
            yield "ends what nobody holds", lambda: self._end(world)

    def _claim(self, world: World, h: int) -> World:
        must(bool(world.run.attempt) or not h, "hosts are alike: who claims first is called A")
        must(
            not self._holds_unheard(world, h), "its device has a live attempt: it is given neither this run nor another"
        )
        run = self.protocol.claim(world.run, is_lapsed=world.is_lapsed)
        holder = world.hosts[world.holder]
        is_speaking = is_well(world, world.holder) and not holder.is_late and holder.token == world.run.attempt
        robbed = world.run.is_held and is_speaking
        taken = world._replace(
            run=run,
            holder=h,
            is_lapsed=False,
            journals=(*world.journals, ()),
            bases=(*world.bases, 0),
            wrong="a run is taken from a host that is well" if robbed else "",
        )
        return put(taken, h, Host(token=run.attempt, doing="claimed"))

    def _claim_unheard(self, world: World, h: int) -> World:
        claimed = self._claim(world, h)
        faults = less(world.faults, "lose answer")
        return claimed._replace(hosts=world.hosts, faults=faults, unheard=claimed.run.attempt)

    def _holds_unheard(self, world: World, h: int) -> bool:
        return world.run.is_held and world.holder == h and world.unheard == world.run.attempt

    def _free(self, world: World, h: int) -> World:
        """A supervisor that has nothing at work gives up what it holds: from before it was started again, or from a claim
        that it never heard of."""
        must(world.holder == h and world.run.is_held, "it holds nothing")
        knows = self.protocol.holds("a claim that was not heard is given up") or not self._holds_unheard(world, h)
        must(knows, "it does not know")
        lives = any(trainer.host == h and trainer.mode in (*LIVE, "wait") for trainer in world.trainers)
        must(not lives or not self.protocol.holds("free only what is dead"), "its trainer lives")
        run = self.protocol.leave(world.run, world.run.attempt, "freed")
        wrong = "an attempt is freed while its trainer works" if lives else ""
        return world._replace(run=run, holder=-1, is_lapsed=False, wrong=wrong)

    def _end(self, world: World) -> World:
        must(self.protocol.holds("ending needs no holder"), "it needs a holder")
        return world._replace(
            run=self.protocol.end_unheld(world.run, is_lapsed=world.is_lapsed), holder=-1, is_lapsed=False
        )

    def _renew(self, world: World, h: int) -> World:
        """It asks for the attempt, not for the time: a lease that lapsed unclaimed revives."""
        host = world.hosts[h]
        self.protocol.fence(world.run, host.token)
        return put(world._replace(is_lapsed=False), h, host._replace(is_late=False))

    def _learn(self, world: World, h: int) -> World:
        try:
            self.protocol.fence(world.run, world.hosts[h].token)
        except Refused:
            return over(world, h)
        raise Refused("it is not over")

    def _steps(self, world: World, h: int, host: Host) -> Iterator[tuple[str, Act]]:
        run = world.run
        if host.doing in ("claimed", "picked") and run.intent in ("pause", "stop"):
            yield "gives up before a trainer was started", lambda: self._leave(world, h, "freed")
        if host.doing == "claimed":
            yield "picks a checkpoint", lambda: self._pick(world, h)
        if host.doing == "picked":
            yield "ships the owner's journal", lambda: self._ship_owner(world, h)
            yield "begins", lambda: self._begin(world, h)
        if host.doing == "begun":
            yield "starts a trainer", lambda: self._spawn(world, h)
        mine = [t for t in world.trainers if t.host == h and t.token == host.token and not t.is_orphan]
        if host.doing == "watch" and mine:
            yield from self._watch(world, h, mine[0])

    def _pick(self, world: World, h: int) -> World:
        """The newest valid one: the published one, or a newer one of who owns the history."""
        run = world.run
        found = [
            (step, attempt)
            for attempt, step, readable in world.files
            if (readable or not self.protocol.holds("resume verifies"))
            and ((attempt, step) in run.published or attempt == run.begun or not self.protocol.holds("one lineage"))
        ]
        step, attempt = max(found, default=(0, 0))
        wrong = "a torn checkpoint is picked" if (attempt, step, False) in world.files else ""
        picked = world.hosts[h]._replace(doing="picked", pick=(attempt, step))
        return put(world._replace(wrong=wrong), h, picked)

    def _ship_owner(self, world: World, h: int) -> World:
        must(self.protocol.holds("the owner's journal is shipped up to the checkpoint"), "it is not shipped")
        run, owner = world.run, world.run.begun
        lines = world.journals[owner][world.bases[owner] + run.stored[owner] :]
        must(bool(lines), "nothing is left to ship")
        shipped = self.protocol.ship(run, world.hosts[h].token, owner, run.stored[owner], lines)
        return world._replace(run=shipped)

    def _begin(self, world: World, h: int) -> World:
        host = world.hosts[h]
        attempt, step = host.pick
        complete = len(world.run.shown) >= step or not self.protocol.holds(
            "the owner's journal is shipped up to the checkpoint"
        )
        must(complete, "the owner's journal is not shipped yet")
        run, wrong = world.run, ""
        if step > len(run.shown):
            wrong = f"clients never get step {len(run.shown) + 1}"
            run = run._replace(shown=world.journals[attempt][:step])
        run = self.protocol.begin(run, host.token, host.pick)
        if step < world.run.saved[1] and not world.is_torn:
            wrong = "published work is thrown away"
        journals = replace_at(world.journals, host.token, world.journals[attempt][:step])
        bases = replace_at(world.bases, host.token, step)
        return put(
            world._replace(run=run, journals=journals, bases=bases, wrong=wrong), h, host._replace(doing="begun")
        )

    def _spawn(self, world: World, h: int) -> World:
        host = world.hosts[h]
        self.protocol.fence(world.run, host.token)
        word = "keep" if world.run.intent == "keep" else ""
        trainers = (*world.trainers, Trainer(h, host.token, word=word))
        return put(world._replace(trainers=trainers), h, host._replace(doing="watch"))

    def _watch(self, world: World, h: int, trainer: Trainer) -> Iterator[tuple[str, Act]]:
        host, run = world.hosts[h], world.run
        yield "ships", lambda: self._ship(world, h)
        if "lose answer" in world.faults:
            yield (
                "ships, and the answer is lost",
                lambda: self._ship(world, h)._replace(hosts=world.hosts, faults=less(world.faults, "lose answer")),
            )
        yield "publishes a checkpoint", lambda: self._publish(world, h)
        if run.intent == "stop":
            yield "kills its trainer, as was said", lambda: self._leave(world, h, "freed")
        if run.intent in ("pause", "keep") and trainer.word != run.intent and trainer.mode in ("wait", "train"):
            told = set_trainer(world, world.trainers.index(trainer), word=run.intent)
            yield "passes the word on", lambda: told
        if trainer.mode in ("done", "paused", "dead"):
            all_stored = host.sent >= len(world.journals[host.token]) - world.bases[host.token]
            if all_stored or not self.protocol.holds("all is shipped before the end"):
                how = {"done": "done", "paused": "paused", "dead": "died"}[trainer.mode]
                believed = "pause" if trainer.mode == "paused" else ""
                yield f"reaps its trainer ({trainer.mode})", lambda: self._leave(world, h, how, believed)

    def _ship(self, world: World, h: int) -> World:
        """What is new since what this host believes to be stored; where more is, it learns that."""
        host, run = world.hosts[h], world.run
        lines = world.journals[host.token][world.bases[host.token] + host.sent :]
        must(bool(lines), "nothing is new")
        self.protocol.fence(run, host.token)
        learnt = run.stored[host.token] > host.sent and self.protocol.holds("the offset is compared")
        if learnt:
            return put(world, h, host._replace(sent=run.stored[host.token]))
        shipped = self.protocol.ship(run, host.token, host.token, host.sent, lines)
        wrong = "" if run.is_held else f"a run that is {run.state} is written"
        return put(world._replace(run=shipped, wrong=wrong), h, host._replace(sent=host.sent + len(lines)))

    def _publish(self, world: World, h: int) -> World:
        token = world.hosts[h].token
        newest = max((step for attempt, step, _ in world.files if attempt == token), default=0)
        must(newest > max(world.run.saved[1], world.run.base), "no checkpoint is new")
        return world._replace(run=self.protocol.publish(world.run, token, newest))

    def _leave(self, world: World, h: int, how: str, believed: str = "") -> World:
        run = self.protocol.leave(world.run, world.hosts[h].token, how, believed)
        return over(world._replace(run=run, holder=-1, is_lapsed=False), h)

    # ---- trainers ------------------------------------------------------------------------------------------------

    def _trainer(self, world: World, place: int, trainer: Trainer) -> Iterator[Action]:
        name = f"the trainer of attempt {trainer.token}"
        line = world.journals[trainer.token]
        step, base = len(line), world.bases[trainer.token]
        is_saved = step == base or any(file[:2] == (trainer.token, step) for file in world.files)
        if trainer.is_orphan and self.protocol.holds("trainers die with their supervisor"):
            yield f"{name} dies with its supervisor", without(world, place)
        elif trainer.mode == "wait":
            taken = any(other.host == trainer.host and other.mode in LIVE for other in world.trainers)
            if not taken or not self.protocol.holds("a lock on each accelerator"):
                yield f"{name} takes the accelerator", self._load(world, place)
        elif trainer.mode == "train":
            ends = step == self.instance.steps or bool(trainer.word)
            if not is_saved and (step % self.instance.period == 0 or ends):
                yield f"{name} saves step {step}", world._replace(files=world.files | {(trainer.token, step, True)})
            elif ends:
                mode = "paused" if trainer.word == "pause" and step < self.instance.steps else "export"
                yield f"{name} trains no further", set_trainer(world, place, mode=mode)
            elif self.instance.poison and step + 1 == self.instance.period:
                yield f"{name} dies of its step", self._poisoned(world, place)
            else:
                journals = replace_at(world.journals, trainer.token, (*line, trainer.token))
                yield f"{name} makes step {step + 1}", world._replace(journals=journals)
        elif trainer.mode == "export":
            yield f"{name} has exported", set_trainer(world, place, mode="done")

    def _load(self, world: World, place: int) -> World:
        """A checkpoint that was torn after it was picked ends the trainer."""
        trainer = world.trainers[place]
        if (*world.hosts[trainer.host].pick, False) in world.files:
            return set_trainer(world, place, mode="dead")._replace(deaths=world.deaths + 1)
        return set_trainer(world, place, mode="train")

    def _poisoned(self, world: World, place: int) -> World:
        if self.instance.poison == "host":
            return crash(world, world.trainers[place].host, leaves_orphans=False)
        return set_trainer(world, place, mode="dead")._replace(deaths=world.deaths + 1)

    # ---- faults, people, time ------------------------------------------------------------------------------------

    def _around(self, world: World) -> Iterator[Action]:
        is_known = world.holder >= 0 and world.unheard != world.run.attempt
        gone = world.run.is_held and not (is_known and is_well(world, world.holder))
        dying = any(trainer.is_orphan and trainer.host == world.holder for trainer in world.trainers)
        if gone and not world.is_lapsed and not (dying and self.protocol.holds("trainers die with their supervisor")):
            yield "the lease lapses", world._replace(is_lapsed=True)
        for h, host in enumerate(world.hosts):
            if host.is_frozen:
                yield f"!{NAMES[h]} wakes", put(world, h, host._replace(is_frozen=False))
        for word in dict.fromkeys(world.words):
            if (said := unless_refused(partial(self._say, world, word))) is not None:
                yield f"!a person says {word}", said._replace(words=less(world.words, word))
        for fault in dict.fromkeys(world.faults):
            yield from self._strike(world._replace(faults=less(world.faults, fault)), fault)

    def _say(self, world: World, word: str) -> World:
        return world._replace(run=self.protocol.say(world.run, word))

    def _strike(self, world: World, fault: str) -> Iterator[Action]:
        for h, host in enumerate(world.hosts):
            if not host.token:
                continue  # what befalls a host that has nothing to do changes nothing
            if fault == "kill supervisor":
                yield f"!{NAMES[h]}'s supervisor is killed", crash(world, h, leaves_orphans=True)
            if fault == "freeze" and not host.is_frozen:
                yield f"!{NAMES[h]} is frozen", put(world, h, host._replace(is_frozen=True, is_late=True))
        for place, trainer in enumerate(world.trainers):
            if fault == "kill trainer" and trainer.mode in LIVE and not trainer.is_orphan:
                killed = set_trainer(world, place, mode="dead")
                yield f"!the trainer of attempt {trainer.token} is killed", killed._replace(deaths=world.deaths + 1)
        readable = [file for file in world.files if file[2]]
        if fault == "tear" and readable:
            attempt, step, _ = newest = max(readable)
            files = world.files - {newest} | {(attempt, step, False)}
            yield f"!the checkpoint of step {step} is torn", world._replace(files=files, is_torn=True)

    # ---- what must hold ------------------------------------------------------------------------------------------

    def broken(self, world: World) -> str:
        """The first promise that this world breaks, in words."""
        run = world.run
        if world.wrong:
            return world.wrong
        if run.shown != world.journals[run.begun][: len(run.shown)]:
            return f"clients see {run.shown}, trained was {world.journals[run.begun]}"
        if run.saved[1] and not any(file[:2] == run.saved for file in world.files):
            return "the published checkpoint is not there"
        live = [trainer.host for trainer in world.trainers if trainer.mode in LIVE]
        if len(live) > len(set(live)):
            return "two trainers work on one accelerator"
        if run.crashes > world.deaths:
            return f"{run.crashes} deaths are counted, {world.deaths} happened"
        if self.instance.poison == "trainer" and world.deaths > self.protocol.crash_limit:
            return f"it died {world.deaths} times in a row, and was tried again"
        if run.state == "succeeded" and len(run.shown) != self.instance.steps:
            return f"it succeeded, and {len(run.shown)} of {self.instance.steps} steps are shown"
        if run.state == "paused" and run.intent != "pause":
            return f"it is paused, and the last word was {run.intent}"
        if run.attempt > 3 * self.protocol.attempt_limit:
            return "it is tried without end"
        return ""

    def rests(self, world: World) -> bool:
        """A rest state with the accelerators free, as far as hosts are well; or no host is."""
        well = [h for h in range(len(world.hosts)) if is_well(world, h)]
        busy = any(trainer.host in well for trainer in world.trainers)
        return not well or (world.run.state in RESTS and not busy)


def unless_refused(act: Act) -> World | None:
    try:
        return act()
    except Refused:
        return None


def less(items: tuple[str, ...], item: str) -> tuple[str, ...]:
    """The same without one of them."""
    place = items.index(item)
    return items[:place] + items[place + 1 :]


def is_well(world: World, h: int) -> bool:
    return world.hosts[h].is_up and not world.hosts[h].is_frozen


def replace_at(items: tuple[T, ...], place: int, item: T) -> tuple[T, ...]:
    return (*items[:place], item, *items[place + 1 :])


def put(world: World, h: int, host: Host) -> World:
    return world._replace(hosts=replace_at(world.hosts, h, host))


def set_trainer(world: World, place: int, *, mode: str = "", word: str = "") -> World:
    trainer = world.trainers[place]
    changed = trainer._replace(mode=mode or trainer.mode, word=word or trainer.word)
    return world._replace(trainers=replace_at(world.trainers, place, changed))


def without(world: World, place: int) -> World:
    return world._replace(trainers=world.trainers[:place] + world.trainers[place + 1 :])


def over(world: World, h: int) -> World:
    """Host `h` is done with its attempt, and its trainer is gone."""
    left = tuple(trainer for trainer in world.trainers if trainer.host != h or trainer.is_orphan)
    return put(world._replace(trainers=left), h, Host())


def crash(world: World, h: int, *, leaves_orphans: bool) -> World:
    """The supervisor dies; its trainer is left to the parent-death signal, or died with the host."""
    left = tuple(
        trainer._replace(is_orphan=True) if trainer.host == h else trainer
        for trainer in world.trainers
        if trainer.host != h or (leaves_orphans and trainer.mode in (*LIVE, "wait"))
    )
    return put(world._replace(trainers=left), h, Host(is_up=False))


# ---- exploration -----------------------------------------------------------------------------------------------------

INSTANCES = {
    "deaths": Instance(("kill trainer", "kill trainer", "kill supervisor")),
    "frozen": Instance(("freeze", "kill supervisor"), steps=2, period=1),
    "supervisor": Instance(("kill supervisor",)),
    "answers": Instance(("lose answer", "kill trainer")),
    "unheard": Instance(("lose answer",), hosts=1),
    "storage": Instance(("tear", "kill trainer")),
    "words": Instance(("kill supervisor",), ("pause", "resume", "stop")),
    "pause": Instance(("freeze",), ("pause",)),
    "keep": Instance(("kill trainer",), ("pause", "keep")),
    "poisoned step": Instance(poison="trainer"),
    "poisoned host": Instance(poison="host"),
}
MUTATIONS = {
    "every write is fenced": "frozen",
    "leaving ends the right to write": "pause",
    "only who is gone is robbed": "frozen",
    "the offset is compared": "answers",
    "the owner's journal is shipped up to the checkpoint": "deaths",
    "begin rewinds": "deaths",
    "one lineage": "frozen",
    "resume verifies": "storage",
    "all is shipped before the end": "deaths",
    "free only what is dead": "deaths",
    "a lock on each accelerator": "frozen",
    "trainers die with their supervisor": "supervisor",
    "only deaths of trainers count": "deaths",
    "deaths are counted": "poisoned step",
    "attempts are capped": "poisoned host",
    "the entry reads the intent": "words",
    "ending needs no holder": "words",
    "a claim that was not heard is given up": "unheard",
}
"""Each rule, and the instance that tells when it is off."""


@dataclass(frozen=True)
class Finding:
    """How many worlds were seen, the promise that one of them breaks, and the shortest way there."""

    worlds: int
    broken: str = ""
    trace: tuple[str, ...] = ()


def explore(instance: Instance, off: frozenset[str] = frozenset(), limit: int = 1_000_000) -> Finding:
    """Visit every world; then, backwards, look whether a rest can still be reached from each by ordinary actions alone."""
    model = Model(instance, off)
    first = model.start()
    worlds, number, came = [first], {first: 0}, [(-1, "")]
    before: list[list[int]] = [[]]
    here = 0
    while here < len(worlds):
        assert here < limit, "choose a smaller instance"
        for label, then in model.actions(worlds[here]):
            there = number.setdefault(then, len(worlds))
            if there == len(worlds):
                worlds.append(then)
                came.append((here, label))
                before.append([])
                if broken := model.broken(then):
                    return Finding(len(worlds), broken, way_to(there, came))
            if not label.startswith("!"):
                before[there].append(here)
        here += 1
    stuck = restless(model, worlds, before)
    if stuck is None:
        return Finding(len(worlds))
    run = worlds[stuck].run
    return Finding(len(worlds), f"it never rests: {run.state}, told to {run.intent}", way_to(stuck, came))


def restless(model: Model, worlds: list[World], before: list[list[int]]) -> int | None:
    """The first world from which no rest can be reached without faults, words or luck."""
    queue = deque(place for place, world in enumerate(worlds) if model.rests(world))
    good = set(queue)
    while queue:
        for place in before[queue.popleft()]:
            if place not in good:
                good.add(place)
                queue.append(place)
    return next((place for place in range(len(worlds)) if place not in good), None)


def way_to(place: int, came: list[tuple[int, str]]) -> tuple[str, ...]:
    labels = []
    while place > 0:
        place, label = came[place]
        labels.append(label.removeprefix("!"))
    return tuple(reversed(labels))
