"""The campaign: real runs in studios of real processes, struck again and again, and every history checked.

Faults are numbered from 1 on. A number and the campaign's seed give the kind, the phase and all that the strike draws. After
some faults the studio is brought to rest, its history is collected and checked, and another studio begins.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import psycopg

from tests.faults import checker, leftovers, trace
from tests.faults.checker import Violation
from tests.faults.couriers import Courier, Deed, meanwhile
from tests.faults.history import Curves, History, Reader, Watcher, collect
from tests.faults.parts import Studio, running_studio
from tests.faults.people import DONE, People
from tests.faults.phases import Phase
from tests.faults.story import seconds, stories
from tests.faults.strikes import LEASE_SECONDS
from tests.faults.striking import Plan, Segment, Striking
from tests.faults.words import put_to_the_test
from tests.support.figures import head, keep, kept_in

REFERENCE = """
    SELECT points.name, points.step, points.value FROM points JOIN runs ON runs.id = points.run_id
    WHERE runs.name = 'run-1' AND runs.state = 'succeeded' AND points.name != ALL(%s) ORDER BY points.step
"""
OF_THE_MACHINE = ["tokens_per_second", "memory_gib"]
"""Curves that no two runs have alike."""
SHIFTED_HOST, CLOCK_HOURS = "b", (1, 0, -1)
"""Whose clock is wrong, and by how much in one studio after the other."""
HISTORY = "history.json"
MOST_UNMET = 0.1
"""The part of the faults that may find no run to hit."""
HINT_SECONDS = 10.0
TIDY_SECONDS = 5.0


@dataclass
class Scene:
    """A studio that is struck, and who looks at it meanwhile."""

    studio: Studio
    striking: Striking
    watcher: Watcher
    reader: Reader
    people: People
    courier: Courier

    @classmethod
    @contextmanager
    def of(cls, studio: Studio, plan: Plan, segment: Segment) -> Iterator[Scene]:
        watcher, striking = Watcher(studio.home), Striking(studio, plan, segment)
        reader = Reader(studio.home, studio.postgres.url)
        people = People(studio.client, Random(segment.first), steps=plan.steps, alive=plan.runs_alive)
        courier = Courier(studio.client(5.0), Random(segment.first))
        for each in (watcher, reader, people, courier):
            each.start()
        try:
            yield cls(studio, striking, watcher, reader, people, courier)
        finally:
            courier.close()
            people.close()
            reader.stop()
            watcher.stop()

    def looking(self) -> list[threading.Thread]:
        """Who is to go on until the end."""
        return [self.watcher, self.reader, self.people, self.courier, *self.people.followers.values()]

    def come_to_rest(self, patience_seconds: float) -> list[str]:
        """Everything is healed; people resume what waits for them. What goes on when it should have ended: nothing where each
        run ends in time, and each client knows."""
        self.studio.heal()
        self.people.rest()
        self.courier.rest()
        deadline = time.monotonic() + patience_seconds
        while (busy := list(self._busy())) and time.monotonic() < deadline:
            self.striking.tend()
            time.sleep(0.2)
        return busy

    def _busy(self) -> Iterator[str]:
        """Who broke off waits for nothing, and is told as that."""
        try:
            with self.studio.connect() as connection:
                rows = connection.execute("SELECT id::text, name, state, seq FROM runs").fetchall()
        except psycopg.OperationalError:
            yield "Postgres is away"
            return
        followers = self.people.followers
        for run, name, state, seq in rows:
            if state not in DONE:
                yield f"{name} is {state}"
            elif (follower := followers.get(str(run))) is None or (follower.is_alive() and follower.last != seq):
                yield f"nobody has heard the end of {name}"
        if self.people.is_alive() and not self.people.is_idle:
            yield "a launch waits for its answer"
        if self.courier.is_alive() and not self.courier.is_idle:
            yield "a file is on its way"

    def history(self) -> History:
        """All that is there now, and was seen until now."""
        seen, samples = self.people.seen(), list(self.watcher.samples)
        home, url = self.studio.home, self.studio.postgres.url
        found = collect(home, url, seen, samples, self.striking.struck, self.people.accepted)
        clocks = {host: 3600.0 * hours for host, hours in self.studio.clocks.items()}
        read, words = dict(self.reader.read), list(self.people.words)
        return replace(found, ended=self.striking.ended, clocks=clocks, read=read, words=words)


@dataclass
class Campaign:
    """The studios of one call, one after the other. `keep` is where histories with a violation are kept for reading.

    `reference` holds the curves of a run that nothing happened to: the first one of the first studio. `open_then` is what each
    part had open when that run had ended: one that was just started has hardly a connection to compare with.
    """

    base: Path
    plan: Plan
    keep: Path
    reference: Curves = field(default_factory=list)
    open_then: leftovers.Kinds = field(default_factory=dict)

    def begin(self, first: int) -> Segment:
        """What is known of a segment before its first fault."""
        hours = CLOCK_HOURS[(first - 1) // self.plan.per_segment % len(CLOCK_HOURS)]
        return Segment(first, self.plan.seed, head(), hours)

    def carry_out(self, segment: Segment, count: int) -> None:
        """A studio, so many faults, rest, and the check. What keeps it from that is told of the segment like a violation, and
        raised."""
        began, cpu = time.monotonic(), cpu_seconds()
        try:
            with running_studio(self.base, {SHIFTED_HOST: segment.clock_hours}) as studio:
                self._strike(studio, segment, count)
        except Exception as error:
            words = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            segment.violations.append(Violation("a studio can be struck and looked at to the end", words))
            raise
        finally:
            segment.violations += changed_meanwhile(segment)
            segment.wall_seconds, segment.cpu_seconds = time.monotonic() - began, cpu_seconds() - cpu

    def _strike(self, studio: Studio, segment: Segment, count: int) -> None:
        folder = self.keep / f"faults-{segment.first}"
        with Scene.of(studio, self.plan, segment) as scene:
            try:
                history, wrong = self._history(scene, segment, count)
            except Exception:
                _keep_logs(studio, folder)
                with suppress(psycopg.Error):
                    scene.history().save(folder / HISTORY)
                raise
        measure(segment, history)
        done = meanwhile(scene.courier.done, min((strike.at for strike in history.struck), default=time.time()))
        segment.sent, segment.read_later, segment.fetched = done[Deed.BROUGHT], done[Deed.LATER], done[Deed.FETCHED]
        segment.said = scene.people.said
        segment.violations += [*violations_in(history), *wrong, *unmet(segment)]
        if segment.violations:
            _keep_logs(studio, folder)
            history.save(folder / HISTORY)

    def _history(self, scene: Scene, segment: Segment, count: int) -> tuple[History, list[Violation]]:
        studio, striking, people = scene.studio, scene.striking, scene.people
        self._wait_for_reference(studio)
        self.open_then = self.open_then or leftovers.kinds(studio)
        people.is_calm = False
        striking.strike(count)
        busy = scene.come_to_rest(self.plan.rest_seconds)
        found = leftovers.at_rest(studio, TIDY_SECONDS * self.plan.patience, self.open_then)
        segment.unnamed = leftovers.unnamed_at_rest(studio, TIDY_SECONDS * self.plan.patience)
        unheard = leftovers.unheard_hints(studio, HINT_SECONDS * self.plan.patience)
        wrong = list(ended_early(*scene.looking()))
        wrong += scene.courier.look()
        history = scene.history()
        people.close()
        samples = scene.watcher.stop()
        studio.stop()
        found += leftovers.after_the_end(studio)
        amended = {event["run_id"] for event in history.events if event["kind"] == "amendment"}
        reference = {run: self.reference for run in people.accepted if run not in amended}
        wrong += [Violation("the web answers what it may", answer) for answer in people.wrong]
        wrong += self._unfinished(busy, unheard)
        return replace(history, samples=samples, leftovers=found, reference=reference), wrong

    def _unfinished(self, busy: Sequence[str], unheard_hints: int) -> Iterator[Violation]:
        if busy:
            words = f"{self.plan.rest_seconds:g} s after everything was healed, {', '.join(busy)}"
            yield Violation("a healed studio comes to rest", words)
        if unheard_hints:
            words = f"{unheard_hints} waited for more than {HINT_SECONDS * self.plan.patience:g} s"
            yield Violation("hints are heard", words)

    def _wait_for_reference(self, studio: Studio) -> None:
        """Until the first run has succeeded, before anything is struck."""
        deadline = time.monotonic() + self.plan.rest_seconds
        while not self.reference:
            assert time.monotonic() < deadline, f"an undisturbed run did not succeed\n{studio.logs()}"
            time.sleep(0.2)
            with studio.connect() as connection:
                self.reference += connection.execute(REFERENCE, [OF_THE_MACHINE]).fetchall()  # type: ignore[arg-type]


def measure(segment: Segment, history: History) -> None:
    """Count what a history shows."""
    told = stories(history)
    segment.runs, segment.attempts = len(history.runs), len(history.attempts)
    segment.takeovers = sum(len(story.rewound) for story in told)
    segment.resumes = sum(0 < each["step"] < story.row["total_steps"] for story in told for each in story.rewound)
    deaths = checker.detections(history, told)
    segment.detections = [death.told for death in deaths]
    segment.heard = [death.heard for death in deaths if death.heard is not None]
    segment.shown = list(_shown_after(history))
    segment.outlived = checker.outlived(history)
    segment.checkpoints_read = len(history.read)
    segment.obeyed = put_to_the_test(history, told)
    segment.preempted = checker.preemptions(history, told)


def _shown_after(history: History) -> Iterator[float]:
    """How long after each kill of one trainer the end of its attempt was told."""
    for strike in history.struck:
        if strike.kind != "trainer.kill":
            continue
        run, _, attempt = strike.target.rpartition(" ")[2].partition("/")
        over = (
            seconds(row["ended_at"])
            for row in history.attempts
            if (row["run_id"], row["number"]) == (run, int(attempt)) and row["ended_at"]
        )
        yield from (max(0.0, at - strike.at) for at in over)


def violations_in(history: History) -> list[Violation]:
    """What the checker and the replay of the protocol find."""
    return [*checker.check(history), *trace.validate(history, LEASE_SECONDS)]


def ended_early(*watching: threading.Thread) -> Iterator[Violation]:
    """Who looks at a studio does so to the end, or has seen too little of it."""
    for each in watching:
        if not each.is_alive():
            yield Violation("who looks goes on to the end", f"{each.name} ended")


def unmet(segment: Segment) -> Iterator[Violation]:
    """Faults are to meet runs: where none goes on, a strike hits a studio that has nothing to lose."""
    unmet = segment.phases[Phase.ANY]
    if unmet > max(1, MOST_UNMET * segment.faults):
        yield Violation("faults meet runs", f"{unmet} of {segment.faults} met none")


def changed_meanwhile(segment: Segment) -> Iterator[Violation]:
    """Parts start from the files as they are then: what was edited before the end is not what the segment names."""
    if (now := head()) != segment.commit:
        yield Violation("what was struck is the commit that is named", f"{segment.commit} at first, {now} at the end")


def _keep_logs(studio: Studio, folder: Path) -> None:
    """The ends of all logs, for reading."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in studio.home.rglob("logs/*.log*"):
        name = log.relative_to(studio.home).as_posix().replace("/", "-")
        (folder / name).write_bytes(log.read_bytes()[-1_000_000:])


def cpu_seconds() -> float:
    """Of this process and of all its children that have ended and were waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# ---- all of it -------------------------------------------------------------------------------------------------------


def struck_on(commit: str, done: Sequence[Segment]) -> int:
    """How many faults struck that commit."""
    return sum(each.faults for each in done if each.commit == commit)


def missing_here(plan: Plan, done: Sequence[Segment]) -> int:
    """How many faults are to come until what is here now was struck as often as planned."""
    return plan.faults - struck_on(head(), done)


Missing = Callable[[Plan, Sequence[Segment]], int]
"""How many faults are to come, after those that were kept."""


def run_campaign(
    base: Path,
    plan: Plan,
    state: Path,
    histories: Path,
    say: Callable[[str], None] = print,
    missing: Missing = missing_here,
) -> list[Segment]:
    """Go on behind the last fault that `state` tells, until none is missing or the minutes are over. What went wrong is kept
    under `histories`. Returns all segments, those of other commits too."""
    done, campaign = kept_in(state, Segment), Campaign(base, plan, histories)
    deadline = time.monotonic() + 60 * plan.minutes
    while (left := missing(plan, done)) > 0 and time.monotonic() < deadline:
        segment = campaign.begin(max([plan.first, *(each.end for each in done)]))
        done.append(segment)
        try:
            campaign.carry_out(segment, min(left, plan.per_segment))
        finally:
            keep(state, segment)
            for violation in segment.violations:
                say(f"VIOLATION {violation.rule}: {violation.what}")
    return done
