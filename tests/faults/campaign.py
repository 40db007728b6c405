"""The campaign: real runs in a studio of real processes, struck again and again, and every history checked.

Faults are numbered from 1 on. A number and the campaign's seed give the kind, the phase and all that the strike draws. After
some faults the studio is brought to rest, its history is collected and checked, and another studio begins.
"""

from __future__ import annotations

import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random

import psycopg

from tests.faults import checker, leftovers, trace
from tests.faults.checker import Violation
from tests.faults.history import History, Struck, Watcher, collect
from tests.faults.parts import HOSTS, Studio, running_studio
from tests.faults.people import DONE, People
from tests.faults.phases import AIMS, Looks, Phase, Stand
from tests.faults.story import stories
from tests.faults.strikes import CATALOGUE, Strike, Wound

TICK_SECONDS = 0.02
RESTART_SECONDS = 0.5
"""The pause before a part that ended by itself is started again, as `studio up` does."""
REFERENCE = """
    SELECT points.step, points.value FROM points JOIN runs ON runs.id = points.run_id
    WHERE runs.name = 'run-1' AND runs.state = 'succeeded' AND points.name = 'loss' ORDER BY points.step
"""
SHORT_PHASES = (Phase.CLAIMED, Phase.SAVING)


@dataclass(frozen=True)
class Plan:
    """How much, and how hard: `at_once` faults may stand open at a time, and `patience` stretches what is waited for.

    `first` is the number of the first fault.
    """

    faults: int
    seed: int = 1
    first: int = 1
    minutes: float = float("inf")
    per_segment: int = 75
    at_once: int = 6
    runs_alive: int = 3
    steps: int = 40
    patience: float = 1.0

    @property
    def aim_seconds(self) -> float:
        """How long a strike waits for a run in the phase that it is aimed at; then it takes any that it can hit."""
        return 10.0 * self.patience

    @property
    def rest_seconds(self) -> float:
        return 180.0 * self.patience


@dataclass
class Segment:
    """What one studio went through."""

    first: int
    seed: int
    kinds: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    attempts: int = 0
    ended_by_themselves: Counter[str] = field(default_factory=Counter)
    detections: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def faults(self) -> int:
        return self.kinds.total()

    def as_line(self) -> str:
        return json.dumps(vars(self) | {"violations": [asdict(each) for each in self.violations]}) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Segment:
        stored = json.loads(line)
        counted = {name: Counter(stored[name]) for name in ("kinds", "phases", "ended_by_themselves")}
        return cls(**stored | counted | {"violations": [Violation(**each) for each in stored["violations"]]})


# ---- which fault comes -----------------------------------------------------------------------------------------------


@dataclass
class Aim:
    """A fault that is to come: the strike, the phase in which it wants a run, and its own dice."""

    number: int
    seed: int
    strike: Strike
    phase: Phase
    dice: Random
    since: float = field(default_factory=time.monotonic)

    def is_tired(self, seconds: float) -> bool:
        return time.monotonic() - self.since > seconds


def aim(seed: int, number: int) -> Aim:
    """The fault of this number. Kinds come as from a shuffled deck, so that each comes soon."""
    deck = [strike for strike in CATALOGUE for _ in range(strike.weight)]
    turn, place = divmod(number - 1, len(deck))
    Random(f"{seed}/{turn}").shuffle(deck)
    own = seed * 1_000_003 + number
    dice = Random(own)
    return Aim(number, own, deck[place], dice.choice(deck[place].phases), dice)


# ---- one studio ------------------------------------------------------------------------------------------------------


class Striking:
    """Strikes one studio, from the runner's main thread, which alone starts its parts."""

    def __init__(self, studio: Studio, plan: Plan, first: int) -> None:
        self.studio, self.plan, self.next = studio, plan, first
        self.segment = Segment(first, plan.seed)
        self.struck: list[Struck] = []
        self._looks = Looks(studio)
        self._aims: list[Aim] = []
        self._wounds: list[tuple[float, Wound]] = []
        self._dead_since: dict[str, float] = {}

    def strike(self, count: int) -> None:
        """So many faults, each healed."""
        while self.segment.faults < count or self._wounds:
            while len(self._aims) + len(self._wounds) < self.plan.at_once and self._to_come(count):
                self._aims.append(aim(self.plan.seed, self.next))
                self.next += 1
            self._heal()
            self.tend()
            self._take_aim()
            time.sleep(TICK_SECONDS)
        self._looks.close()

    def _to_come(self, count: int) -> bool:
        return self.segment.faults + len(self._aims) < count

    def _heal(self) -> None:
        for wound in list(self._wounds):
            due, what = wound
            if time.monotonic() >= due or what.is_over():
                what.heal()
                self._wounds.remove(wound)
            else:
                what.tick()

    def tend(self) -> None:
        """Start again what ended by itself, as the init of a studio does."""
        for name, part in self.studio.parts.items():
            if part.is_alive or not part.is_wanted:
                self._dead_since.pop(name, None)
            elif time.monotonic() - self._dead_since.setdefault(name, time.monotonic()) > RESTART_SECONDS:
                self.segment.ended_by_themselves[name] += 1
                part.start()

    def _take_aim(self) -> None:
        stands = self._looks.stands()
        for waiting in list(self._aims):
            stand = self._target(waiting, stands)
            if stand is not None and self._hit(waiting, stand):
                self._aims.remove(waiting)

    def _target(self, waiting: Aim, stands: Sequence[Stand]) -> Stand | None:
        """A run in the wanted phase, at a random moment of it. A strike that is tired of waiting takes another phase."""
        dice = waiting.dice
        fitting = [stand for stand in stands if stand.phase == waiting.phase]
        if waiting.is_tired(self.plan.aim_seconds):
            fitting = [stand for stand in stands if stand.phase in waiting.strike.phases]
            fitting = fitting or [Stand("", 0, Phase.ANY, dice.choice(HOSTS))]
        if not fitting or (waiting.phase not in SHORT_PHASES and dice.random() > 0.1):
            return None
        stand = dice.choice(fitting)
        return stand if stand.phase != Phase.QUEUED else replace(stand, host=dice.choice(HOSTS))

    def _hit(self, waiting: Aim, stand: Stand) -> bool:
        busy = frozenset[str]().union(*(wound.parts for _, wound in self._wounds))
        if busy & waiting.strike.parts(stand):
            return False
        at = time.time()
        wound = waiting.strike.hit(self.studio, stand, waiting.dice)
        if wound is None:
            return False
        self._wounds.append((time.monotonic() + wound.seconds, wound))
        self._note(Struck(at, waiting.number, waiting.seed, waiting.strike.kind, stand.phase, wound.target))
        return True

    def _note(self, struck: Struck) -> None:
        self.struck.append(struck)
        self.segment.kinds[struck.kind] += 1
        self.segment.phases[struck.phase] += 1
        print(f"{struck.number:5} seed {struck.seed} {struck.kind:28} {struck.phase:10} {struck.target}", flush=True)


@dataclass
class Campaign:
    """The studios of one call, one after the other. `keep` is where histories with a violation are kept for reading.

    `reference` holds the losses of a run that nothing happened to: the first one of the first studio.
    """

    base: Path
    plan: Plan
    keep: Path
    reference: list[tuple[int, float]] = field(default_factory=list)

    def segment(self, first: int, count: int) -> Segment:
        """A studio, `count` faults from number `first` on, rest, and the check."""
        began, cpu = time.monotonic(), cpu_seconds()
        with running_studio(self.base) as studio:
            striking = Striking(studio, self.plan, first)
            history, wrong = self._history(studio, striking, count)
            segment = striking.segment
            segment.runs, segment.attempts = len(history.runs), len(history.attempts)
            segment.detections = [delay for _, delay in checker.detections(history, stories(history))]
            segment.violations = [*violations_in(history), *wrong]
            if segment.violations:
                _keep(history, studio, self.keep / f"faults-{first}")
        segment.wall_seconds, segment.cpu_seconds = time.monotonic() - began, cpu_seconds() - cpu
        return segment

    def _history(self, studio: Studio, striking: Striking, count: int) -> tuple[History, list[Violation]]:
        watcher = Watcher(studio.home)
        people = People(studio.client, Random(striking.next), steps=self.plan.steps, alive=self.plan.runs_alive)
        watcher.start()
        people.start()
        try:
            self._wait_for_reference(studio)
            people.is_calm = False
            striking.strike(count)
            _come_to_rest(studio, people, striking, self.plan.rest_seconds)
            found = leftovers.at_rest(studio)
            history = collect(studio.home, studio.postgres.url, people.seen(), (), striking.struck, people.accepted)
        finally:
            people.close()
            samples = watcher.stop()
        studio.stop()
        found += leftovers.after_the_end(studio)
        reference = {run: self.reference for run in people.accepted if run not in people.changed}
        wrong = [Violation("the web answers what it may", answer) for answer in people.wrong]
        return replace(history, samples=samples, leftovers=found, reference=reference), wrong

    def _wait_for_reference(self, studio: Studio) -> None:
        """Until the first run has succeeded, before anything is struck."""
        deadline = time.monotonic() + self.plan.rest_seconds
        while not self.reference:
            assert time.monotonic() < deadline, f"an undisturbed run did not succeed\n{studio.logs()}"
            time.sleep(0.2)
            with studio.connect() as connection:
                self.reference += connection.execute(REFERENCE).fetchall()  # type: ignore[arg-type]


def violations_in(history: History) -> list[Violation]:
    """What the checker and the replay of the protocol find."""
    return [*checker.check(history), *trace.validate(history)]


def _come_to_rest(studio: Studio, people: People, striking: Striking, seconds: float) -> None:
    """Everything is healed; people resume what waits for them; wait until each run has ended and each client knows."""
    studio.heal()
    people.rest()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not _is_at_rest(studio, people):
        striking.tend()
        time.sleep(0.2)


def _is_at_rest(studio: Studio, people: People) -> bool:
    try:
        with studio.connect() as connection:
            rows = connection.execute("SELECT id::text, state, seq FROM runs").fetchall()
    except psycopg.OperationalError:
        return False
    last = {run: follower.last for run, follower in people.followers.items()}
    return people.is_idle and all(state in DONE and last.get(str(run)) == seq for run, state, seq in rows)


def _keep(history: History, studio: Studio, folder: Path) -> None:
    """For reading: the history, and the ends of all logs."""
    history.save(folder / "history.json")
    for log in studio.home.rglob("logs/*.log*"):
        name = log.relative_to(studio.home).as_posix().replace("/", "-")
        (folder / name).write_bytes(log.read_bytes()[-1_000_000:])


def cpu_seconds() -> float:
    """Of this process and of all its children that have ended and were waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# ---- all of it -------------------------------------------------------------------------------------------------------


def run_campaign(base: Path, plan: Plan, state: Path, say: Callable[[str], None] = print) -> list[Segment]:
    """Go on from what `state` tells, until so many faults were run or the minutes are over. Returns all segments."""
    done, campaign = read_state(state), Campaign(base, plan, state.parent)
    deadline = time.monotonic() + 60 * plan.minutes
    while (left := plan.faults - sum(each.faults for each in done)) > 0 and time.monotonic() < deadline:
        first = plan.first + sum(each.faults for each in done)
        segment = campaign.segment(first, min(left, plan.per_segment))
        done.append(segment)
        state.parent.mkdir(parents=True, exist_ok=True)
        with state.open("a") as file:
            file.write(segment.as_line())
        for violation in segment.violations:
            say(f"VIOLATION {violation.rule}: {violation.what}")
    return done


def read_state(state: Path) -> list[Segment]:
    """The segments of earlier calls."""
    return [Segment.of_line(line) for line in state.read_text().splitlines()] if state.exists() else []


def figures(done: Sequence[Segment]) -> list[str]:
    """What a campaign prints last."""
    kinds, phases = sum((each.kinds for each in done), Counter[str]()), sum((s.phases for s in done), Counter[str]())
    faults, broken = kinds.total(), sum(len(each.violations) for each in done)
    delays = sorted(delay for each in done for delay in each.detections)
    own = sum((each.ended_by_themselves for each in done), Counter[str]())
    missing = [strike.kind for strike in CATALOGUE if strike.kind not in kinds]
    shown = f"p50 {delays[len(delays) // 2]:.2f} s, at most {delays[-1]:.2f} s, of {len(delays)}" if delays else "none"
    return [
        *(f"  {count:5} {kind}" for kind, count in kinds.most_common()),
        f"kinds not seen: {', '.join(missing) or 'none'}",
        "phases: " + ", ".join(f"{phase} {phases[phase]}" for phase in (*AIMS, Phase.ANY)),
        f"ended by themselves and started again: {', '.join(f'{n} {c}' for n, c in own.items()) or 'none'}",
        f"dead trainers shown after: {shown}",
        f"runs {sum(each.runs for each in done)}, attempts {sum(each.attempts for each in done)}, studios {len(done)}",
        f"{sum(each.wall_seconds for each in done):.0f} s of wall time, {sum(e.cpu_seconds for e in done):.0f} CPU seconds",
        f"faults {faults}, violations {broken}"
        + (f", 95 % upper bound {3 / faults:.2%} a fault" if faults and not broken else ""),
    ]
