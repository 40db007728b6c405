"""The campaign: real runs in studios of real processes, struck again and again, and every history checked.

Faults are numbered from 1 on. A number and the campaign's seed give the kind, the phase and all that the strike draws. After
some faults the studio is brought to rest, its history is collected and checked, and another studio begins.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import psycopg

from tests.faults import checker, leftovers, trace
from tests.faults.checker import Violation
from tests.faults.history import History, Watcher, collect
from tests.faults.parts import Studio, running_studio
from tests.faults.people import DONE, People
from tests.faults.story import seconds, stories
from tests.faults.strikes import LEASE_SECONDS
from tests.faults.striking import Plan, Segment, Striking
from tests.support.figures import head, keep, kept_in

REFERENCE = """
    SELECT points.step, points.value FROM points JOIN runs ON runs.id = points.run_id
    WHERE runs.name = 'run-1' AND runs.state = 'succeeded' AND points.name = 'loss' ORDER BY points.step
"""
SHIFTED_HOST, CLOCK_HOURS = "b", (1, 0, -1)
"""Whose clock is wrong, and by how much in one studio after the other."""
HINT_SECONDS = 10.0
TIDY_SECONDS = 5.0


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
        hours = CLOCK_HOURS[(first - 1) // self.plan.per_segment % len(CLOCK_HOURS)]
        with running_studio(self.base, {SHIFTED_HOST: hours}) as studio:
            striking = Striking(studio, self.plan, first)
            history, wrong = self._history(studio, striking, count)
            segment = striking.segment
            segment.commit, segment.clock_hours = head(), hours
            measure(segment, history)
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
            came_to_rest = _come_to_rest(studio, people, striking, self.plan.rest_seconds)
            found = leftovers.at_rest(studio, TIDY_SECONDS * self.plan.patience)
            unheard = leftovers.unheard_hints(studio, HINT_SECONDS * self.plan.patience)
            history = collect(studio.home, studio.postgres.url, people.seen(), (), striking.struck, people.accepted)
        finally:
            people.close()
            samples = watcher.stop()
        studio.stop()
        found += leftovers.after_the_end(studio)
        reference = {run: self.reference for run in people.accepted if run not in people.changed}
        wrong = [Violation("the web answers what it may", answer) for answer in people.wrong]
        wrong += self._unfinished(came_to_rest, unheard)
        clocks = {host: 3600.0 * hours for host, hours in studio.clocks.items()}
        return replace(history, samples=samples, leftovers=found, reference=reference, clocks=clocks), wrong

    def _unfinished(self, came_to_rest: bool, unheard_hints: int) -> Iterator[Violation]:
        if not came_to_rest:
            words = f"{self.plan.rest_seconds:g} s after everything was healed, a run goes on or a client waits"
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
                self.reference += connection.execute(REFERENCE).fetchall()  # type: ignore[arg-type]


def measure(segment: Segment, history: History) -> None:
    """Count what a history shows."""
    told = stories(history)
    segment.runs, segment.attempts = len(history.runs), len(history.attempts)
    segment.takeovers = sum(len(story.rewound) for story in told)
    segment.resumes = sum(0 < each["step"] < story.row["total_steps"] for story in told for each in story.rewound)
    segment.detections = [delay for _, delay in checker.detections(history, told)]
    segment.shown = list(_shown_after(history))


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


def _come_to_rest(studio: Studio, people: People, striking: Striking, patience_seconds: float) -> bool:
    """Everything is healed; people resume what waits for them. Whether each run ends in time, and each client knows."""
    studio.heal()
    people.rest()
    deadline = time.monotonic() + patience_seconds
    while not _is_at_rest(studio, people):
        if time.monotonic() > deadline:
            return False
        striking.tend()
        time.sleep(0.2)
    return True


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
    """Go on behind the last fault that `state` tells, until as many were run or the minutes are over. Returns all segments."""
    done, campaign = kept_in(state, Segment), Campaign(base, plan, state.parent)
    end, deadline = plan.first + plan.faults, time.monotonic() + 60 * plan.minutes
    while (first := max([plan.first, *(each.end for each in done)])) < end and time.monotonic() < deadline:
        segment = campaign.segment(first, min(end - first, plan.per_segment))
        done.append(segment)
        keep(state, segment)
        for violation in segment.violations:
            say(f"VIOLATION {violation.rule}: {violation.what}")
    return done
