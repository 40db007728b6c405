"""What became of people's words: each that was answered with success is written down and told, and the run goes by it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tests.faults.history import History, Row, Struck
from tests.faults.story import ACTIVE, SHIPPED, Line, Story, seconds

TOLD_AS = {
    "run.pause": ("pause",),
    "run.resume": ("run",),
    "run.stop": ("keep",),
    "run.discard": ("stop",),
    "run.restore": ("run", "pause"),
    "run.start_over": ("run",),
}
"""Which intent a run has once a word was taken, as the audit log calls that."""
ENDING = ("run.pause", "run.stop", "run.discard")
AMEND, AMENDED_FIELD = "run.amend", "training.learning_rate"
HEARD_SECONDS = 5.0
"""How long whoever has read a word may train on: a step, and what it takes to hear, where the processor is fought for."""
STANDING = ("trainer.freeze", "trainer.starve", "supervisor.freeze", "host.freeze", "disk.fill")
"""Faults in which nothing can be done for a while, or nobody be told of it."""
RATE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Word:
    """A person's word that was taken: when, as what, and the event that tells it; none where nothing does."""

    at: float
    action: str
    event: Row | None


def words(story: Story) -> list[Word]:
    """All that people said of a run, in its order."""
    said = sorted(story.audit, key=lambda row: seconds(row["at"]))
    known = (row for row in said if row["action"] in (*TOLD_AS, AMEND))
    return [Word(seconds(row["at"]), row["action"], _event_of(story, row)) for row in known]


def _event_of(story: Story, said: Row) -> Row | None:
    """The first of its kind from then on: both are stored under the run's lock, the word first."""
    kind = "amendment" if said["action"] == AMEND else "state"
    later = (event for event in story.events if event["kind"] == kind and seconds(event["at"]) >= seconds(said["at"]))
    event = next(later, None)
    fits = event is not None and (kind == "amendment" or event["data"].get("intent") in TOLD_AS[said["action"]])
    return event if fits else None


# ---- rules -----------------------------------------------------------------------------------------------------------


def no_accepted_word_is_lost(history: History, told: Sequence[Story]) -> Iterator[str]:
    """What was answered with success stands in the audit log, and the run's own log tells it."""
    names = {story.row["id"]: story for story in told}
    for (run, action), count in Counter(history.words).items():
        kept = sum(row["action"] == action for row in names[run].audit) if run in names else 0
        if kept < count:
            yield f"run {run}: {action} was accepted {count} times, and {kept} are written down"
    for story in told:
        for word in words(story):
            if word.event is None:
                yield f"{story.name}: nothing tells of {word.action}, which is written down"


def who_was_told_to_end_trains_no_longer(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Once a holder has read that its run is to end, at most the step is finished that is being trained. Who takes over what
    shall be kept trains nothing."""
    for story in told:
        for row in story.attempts:
            steps = [line for line in story.written.get(row["number"], ()) if "loss" in line.values]
            if steps and _claimed_to_keep(story, row["number"]):
                yield f"{story.name}: attempt {row['number']} was to keep what is there, and trained step {steps[0].step}"
        for word, until in _endings(story):
            late = _first_behind(history, story, word, until)
            if late is not None:
                yield f"{story.name}: step {late.step} was trained after {word.action} had been read"


def a_change_is_made_and_holds(history: History, told: Sequence[Story]) -> Iterator[str]:
    """A changed learning rate is acknowledged by who hears of it, and holds from that step on, whoever trains it."""
    shape = _shape(told)
    for story in (each for each in told if any(_changes(each))):
        yield from _unmade(history, story)
        yield from _unheld(story, shape)


# ---- looking ---------------------------------------------------------------------------------------------------------


def _claimed_to_keep(story: Story, attempt: int) -> bool:
    states = (event for event in story.events if event["kind"] == "state" and event["attempt"] == attempt)
    return any((each["data"]["state"], each["data"].get("intent")) == ("preparing", "keep") for each in states)


def _endings(story: Story) -> Iterator[tuple[Word, float]]:
    """Each word that is to end what goes on, and when the next word came."""
    said = [word for word in words(story) if word.action != AMEND]
    for word, then in zip_longest(said, said[1:]):
        if word.action in ENDING and word.event is not None and word.event["data"]["state"] in ACTIVE:
            yield word, then.at if then else math.inf


def _first_behind(history: History, story: Story, word: Word, until: float = math.inf) -> Line | None:
    """The first step that was trained although whoever held the run had long read the word."""
    assert word.event is not None
    attempt, read_at = word.event["attempt"], _read_at(story, word.event)
    host = next((row["worker"] for row in story.attempts if row["number"] == attempt), None)
    ahead = history.clocks.get(host or "", 0.0)
    for line in story.written.get(attempt, ()):
        at = line.t - ahead
        is_late = "loss" in line.values and read_at + HEARD_SECONDS < at < until
        if is_late and not any(_excuses(each, host, word.at, at) for each in history.struck):
            return line
    return None


def _read_at(story: Story, told: Row) -> float:
    """When the attempt that an event is of stored something behind it, and so read what is wanted."""
    behind = (event for event in story.events[told["seq"] :] if event["kind"] in SHIPPED)
    return next((seconds(event["at"]) for event in behind if event["attempt"] == told["attempt"]), math.inf)


def _excuses(strike: Struck, host: str | None, since: float, at: float) -> bool:
    """Whether somebody may have stood still in between, or an answer of Postgres that tells the word been lost on its way."""
    is_between = since - HEARD_SECONDS < strike.until and strike.at < at
    is_away = strike.kind.startswith("postgres.") or strike.target == f"{host}-postgres"
    return is_between and (is_away or strike.kind in STANDING)


def _changes(story: Story) -> Iterator[Row]:
    for event in story.events:
        if event["kind"] == "amendment" and event["data"]["field"] == AMENDED_FIELD:
            yield event


def _unmade(history: History, story: Story) -> Iterator[str]:
    """Changes that nobody acknowledged who trained a step with them in hand: every attempt that began behind one, and the one
    that it found at work, once that had read it."""
    made = {event["data"]["sequence"]: event["seq"] for event in reversed(story.events) if event["kind"] == "amended"}
    for change in _changes(story):
        sequence = change["data"]["sequence"]
        first_made = made.get(sequence, math.inf)
        for each in story.told:
            if each.writer is not None and each.writer > change["attempt"] and "loss" in each.line.values:
                if each.seq < first_made:
                    yield f"{story.name}: attempt {each.writer} trained step {each.line.step}, and change {sequence} was not made"
                break
        late = _first_behind(history, story, Word(seconds(change["at"]), AMEND, change))
        if late is not None and first_made == math.inf:
            yield f"{story.name}: step {late.step} was trained after change {sequence} had been read, which was never made"


def _shape(told: Sequence[Story]) -> Mapping[int, float]:
    """The share of its peak that the learning rate has at each step, as an unchanged run of the same length has it."""
    unchanged = [story for story in told if not any(_changes(story))]
    longest = max(unchanged, key=lambda story: len(story.drawn), default=None)
    if longest is None:
        return {}
    peak = _peak(longest)
    return {line.step: line.values["learning_rate"] / peak for line in longest.drawn if "learning_rate" in line.values}


def _peak(story: Story) -> float:
    return float(story.row["recipe"]["training"]["learning_rate"])


def _unheld(story: Story, shape: Mapping[int, float]) -> Iterator[str]:
    """The first step whose rate is not that of the last change that had been acknowledged for it."""
    values = {change["data"]["sequence"]: float(change["data"]["value"]) for change in _changes(story)}
    made = [event for event in story.events if event["kind"] == "amended" and event["data"]["sequence"] in values]
    for each in story.told:
        rate, share = each.line.values.get("learning_rate"), shape.get(each.line.step)
        if rate is None or share is None:
            continue
        holding = [event for event in made if event["seq"] < each.seq and event["step"] <= each.line.step]
        peak = values[max(event["data"]["sequence"] for event in holding)] if holding else _peak(story)
        if not math.isclose(rate, peak * share, rel_tol=RATE_TOLERANCE, abs_tol=peak * RATE_TOLERANCE):
            yield f"{story.name}: step {each.line.step} was trained with a rate of {rate}, where {peak * share:.3g} is due"
            return
