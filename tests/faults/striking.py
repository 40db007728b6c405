"""One studio under strikes: which fault comes, when it hits, and when its wound is healed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from tests.faults.checker import KILLING, Violation
from tests.faults.history import Ended, Struck
from tests.faults.parts import HOSTS, Studio
from tests.faults.phases import Looks, Phase, Stand
from tests.faults.strikes import CATALOGUE, Strike, Wound

TICK_SECONDS = 0.02
IN_TRAINING = (Phase.TRAINING, Phase.SAVING)
KILLS = dict.fromkeys(KILLING, "trainer") | {"supervisor.kill": "supervisor"}
"""Which kinds of fault kill what a run needs, and whom."""
RESTART_SECONDS = 0.5
"""The pause before a part that ended by itself is started again, as `studio up` does."""
ODDS = {Phase.CLAIMED: 1.0, Phase.SAVING: 1.0, Phase.EXPORTING: 0.4}
"""How likely a look at a run in the wanted phase is the moment. Short phases would else be over before; in others a moment
comes after some looks."""
OTHER_ODDS = 0.1


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
    runs_alive: int = 4
    steps: int = 80
    patience: float = 1.0

    @property
    def aim_seconds(self) -> float:
        """How long a strike waits for a run in the phase that it is aimed at; then it takes any that it can hit."""
        return 10.0 * self.patience

    @property
    def stuck_seconds(self) -> float:
        """Where nothing can be hit for so long, no run goes on any more: what is left is for the checker."""
        return 6.0 * self.aim_seconds

    @property
    def rest_seconds(self) -> float:
        return 180.0 * self.patience


@dataclass
class Segment:
    """What one studio went through."""

    first: int
    seed: int
    commit: str = ""
    clock_hours: int = 0
    """How far host b's clock was ahead."""
    kinds: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    attempts: int = 0
    takeovers: int = 0
    """How often a later attempt took a run over, and how often it went on from a checkpoint of its middle."""
    resumes: int = 0
    sent: int = 0
    """Files that were brought from the first strike on, those of them that were read in the background, and files of artifacts
    that were fetched."""
    read_later: int = 0
    fetched: int = 0
    said: Counter[str] = field(default_factory=Counter)
    """How often people said which word of a run."""
    obeyed: int = 0
    """How many words that are to end a run came when whoever did not heed them would have been told."""
    preempted: int = 0
    """How many trainers were preempted in mid-training, where a step that was lost would have been told."""
    checkpoints_read: int = 0
    """How many were read as soon as they were published."""
    unnamed: list[str] = field(default_factory=list)
    """Checkpoints and artifacts that no row named at the end."""
    outlived: list[float] = field(default_factory=list)
    """By how many seconds a trainer outlived its supervisor, of each that was seen to."""
    kills_in_training: Counter[str] = field(default_factory=Counter)
    """Kills of a trainer or of its supervisor that met a run while it trained or saved, by whom they killed."""
    ended_by_themselves: Counter[str] = field(default_factory=Counter)
    detections: list[float] = field(default_factory=list)
    """Seconds from a trainer's death to its being told with its cause, where nothing else was struck about then."""
    heard: list[float] = field(default_factory=list)
    """Seconds from such a death until a client had received that, where nothing on the way to it was struck either."""
    shown: list[float] = field(default_factory=list)
    """The same of every trainer that was killed alone, whatever else was struck."""
    violations: list[Violation] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    """Kinds that this machine does not let strike."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def faults(self) -> int:
        return self.kinds.total()

    @property
    def end(self) -> int:
        """The number behind its last fault."""
        return self.first + self.faults


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


def aim(seed: int, number: int, kinds: Sequence[Strike] = CATALOGUE) -> Aim:
    """The fault of this number. Kinds come as from a shuffled deck, so that each comes soon."""
    deck = [strike for strike in kinds for _ in range(strike.weight)]
    turn, place = divmod(number - 1, len(deck))
    Random(f"{seed}/{turn}").shuffle(deck)
    own = seed * 1_000_003 + number
    dice = Random(own)
    return Aim(number, own, deck[place], dice.choice(deck[place].phases), dice)


@dataclass(frozen=True)
class Open:
    """A wound that is to heal at a monotonic time, and the place of its fault among those that were struck."""

    due: float
    wound: Wound
    place: int


# ---- one studio ------------------------------------------------------------------------------------------------------


class Striking:
    """Strikes one studio, from the runner's main thread, which alone starts its parts."""

    def __init__(self, studio: Studio, plan: Plan, segment: Segment) -> None:
        self.studio, self.plan, self.segment, self.next = studio, plan, segment, segment.first
        self.struck: list[Struck] = []
        self.ended: list[Ended] = []
        self._kinds = [strike for strike in CATALOGUE if strike.is_possible(studio)]
        segment.impossible = [strike.kind for strike in CATALOGUE if strike not in self._kinds]
        self._looks = Looks(studio)
        self._aims: list[Aim] = []
        self._wounds: list[Open] = []
        self._dead_since: dict[str, float] = {}
        self._moments = Random(segment.first)
        """When a strike hits, and whom: what it draws itself is to be the same whenever that is."""
        self._hit_at = 0.0

    def strike(self, count: int) -> None:
        """So many faults, each healed."""
        self._hit_at = time.monotonic()
        while (self.segment.faults < count and not self._is_stuck()) or self._wounds:
            while len(self._aims) + len(self._wounds) < self.plan.at_once and self._to_come(count):
                self._aims.append(aim(self.plan.seed, self.next, self._kinds))
                self.next += 1
            self._heal()
            self.tend()
            self._take_aim()
            time.sleep(TICK_SECONDS)
        self._looks.close()

    def _is_stuck(self) -> bool:
        return time.monotonic() - self._hit_at > self.plan.stuck_seconds

    def _to_come(self, count: int) -> bool:
        return self.segment.faults + len(self._aims) < count

    def _heal(self) -> None:
        for each in list(self._wounds):
            if time.monotonic() >= each.due or each.wound.is_over():
                each.wound.heal()
                self._wounds.remove(each)
                self.struck[each.place] = replace(self.struck[each.place], healed=time.time())
            else:
                each.wound.tick()

    def tend(self) -> None:
        """Start again what ended by itself, as the init of a studio does."""
        for name, part in self.studio.parts.items():
            if part.is_alive or not part.is_wanted:
                self._dead_since.pop(name, None)
            elif time.monotonic() - self._dead_since.setdefault(name, time.monotonic()) > RESTART_SECONDS:
                self.segment.ended_by_themselves[name] += 1
                self.ended.append(Ended(name, part.started, time.time()))
                part.start()

    def _take_aim(self) -> None:
        is_frozen = any(each.wound.is_frozen and "postgres" in each.wound.parts for each in self._wounds)
        stands = self._looks.stands(is_frozen=is_frozen)
        for waiting in list(self._aims):
            stand = self._target(waiting, stands)
            if stand is not None and self._hit(waiting, stand):
                self._aims.remove(waiting)

    def _target(self, waiting: Aim, stands: Sequence[Stand]) -> Stand | None:
        """A run in the wanted phase, at a random moment of it. A strike that is tired of waiting takes another phase."""
        dice = self._moments
        fitting = [stand for stand in stands if stand.phase == waiting.phase]
        if waiting.is_tired(self.plan.aim_seconds):
            fitting = [stand for stand in stands if stand.phase in waiting.strike.phases]
            fitting = fitting or [Stand("", 0, Phase.ANY, dice.choice(HOSTS))]
        if not fitting or dice.random() > ODDS.get(waiting.phase, OTHER_ODDS):
            return None
        stand = dice.choice(fitting)
        return stand if stand.phase != Phase.QUEUED else replace(stand, host=dice.choice(HOSTS))

    def _hit(self, waiting: Aim, stand: Stand) -> bool:
        busy = frozenset[str]().union(*(each.wound.parts for each in self._wounds))
        if busy & waiting.strike.parts(stand):
            return False
        at = time.time()
        wound = waiting.strike.hit(self.studio, stand, waiting.dice)
        if wound is None:
            return False
        self._hit_at = time.monotonic()
        self._wounds.append(Open(self._hit_at + wound.seconds, wound, len(self.struck)))
        self._note(Struck(at, waiting.number, waiting.seed, waiting.strike.kind, stand.phase, wound.target))
        return True

    def _note(self, struck: Struck) -> None:
        self.struck.append(struck)
        self.segment.kinds[struck.kind] += 1
        self.segment.phases[struck.phase] += 1
        if struck.kind in KILLS and struck.phase in IN_TRAINING:
            self.segment.kills_in_training[KILLS[struck.kind]] += 1
        print(f"{struck.number:5} seed {struck.seed} {struck.kind:28} {struck.phase:10} {struck.target}", flush=True)
