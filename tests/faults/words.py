"""What became of people's words: each that was answered with success is written down and told, and the run goes by it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tests.faults.history import History, Row, Struck
from tests.faults.story import ACTIVE, FILLED, SHIPPED, Line, Story, seconds

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
HEARD_SECONDS = 2.0
"""How long whoever has read a word may train on: 0.05 s were seen, a step of a tiny model; and what it takes where the processor
is fought for."""
JUST_SECONDS = 1.0
"""What was struck so long before a word was read may be felt yet."""
STANDING = ("trainer.freeze", "trainer.starve", "supervisor.freeze", "host.freeze")
"""Faults in which whoever is struck does nothing for a while."""
RATE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Word:
    """A person's word that was taken: when, as what, and the event that tells it; none where nothing does."""

    at: float
    action: str
    event: Row | None


def words(story: Story) -> list[Word]:
    """All that people said of a run, in its order."""
    untold, found = list(story.events), []
    for row in sorted(story.audit, key=lambda row: seconds(row["at"])):
        if row["action"] in (*TOLD_AS, AMEND):
            event = _event_of(untold, row)
            found.append(Word(seconds(row["at"]), row["action"], event))
            if event is not None:
                untold.remove(event)  # it tells of one word alone
    return found


def _event_of(events: Sequence[Row], said: Row) -> Row | None:
    """The first of its kind from then on: both are stored under the run's lock, the word first."""
    kind = "amendment" if said["action"] == AMEND else "state"
    later = (event for event in events if event["kind"] == kind and seconds(event["at"]) >= seconds(said["at"]))
    event = next(later, None)
    fits = event is not None and (kind == "amendment" or event["data"].get("intent") in TOLD_AS[said["action"]])
    return event if fits else None


# ---- rules -----------------------------------------------------------------------------------------------------------


def no_accepted_word_is_lost(history: History, told: Sequence[Story]) -> Iterator[str]:
    """What was answered with success stands in the audit log, and the run's own log tells it, one by one; of a change it tells
    the value that was asked for."""
    names = {story.row["id"]: story for story in told}
    for (run, action), count in Counter((said.run, said.action) for said in history.words).items():
        kept = sum(row["action"] == action for row in names[run].audit) if run in names else 0
        if kept < count:
            yield f"run {run}: {action} was accepted {count} times, and {kept} are written down"
    for story in told:
        asked = Counter(said.value for said in history.words if said.run == story.row["id"] and said.value is not None)
        for value in asked - Counter(float(change["data"]["value"]) for change in _changes(story)):
            yield f"{story.name}: a learning rate of {value} was accepted, and no event tells it"
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
        for action, event, until in _endings(story):
            late = _first_behind(history, story, event, until)
            if late is not None:
                yield f"{story.name}: step {late.step} was trained after {action} had been read"


def a_change_is_made_and_holds(history: History, told: Sequence[Story]) -> Iterator[str]:
    """A changed learning rate is acknowledged by who hears of it, and holds from that step on, whoever trains it."""
    shape = _shape(told)
    for story in (each for each in told if any(_changes(each))):
        yield from _unmade(history, story)
        yield from _unheld(story, shape)


# ---- looking ---------------------------------------------------------------------------------------------------------


def put_to_the_test(history: History, told: Sequence[Story]) -> int:
    """How many words that are to end a run came so that whoever did not heed them would be told: in mid-training, long before
    the end, where nothing struck that excuses it. That somebody resumed the run soon is no matter: it had to rest before."""
    ends = [(Holder.of(history, story, event), until) for story in told for _, event, until in _endings(story)]
    return sum(holder.is_put_to_the_test() for holder, until in ends if until > holder.read_at)


def _claimed_to_keep(story: Story, attempt: int) -> bool:
    """What its first event tells. A later one may tell that somebody said so meanwhile."""
    claim = next((event for event in story.events if event["kind"] == "state" and event["attempt"] == attempt), None)
    return claim is not None and claim["data"].get("intent") == "keep"


def _endings(story: Story) -> Iterator[tuple[str, Row, float]]:
    """Each word that is to end what goes on, the event that tells it, and when the next word came."""
    said = [word for word in words(story) if word.action != AMEND]
    for word, then in zip_longest(said, said[1:]):
        if word.action in ENDING and word.event is not None and word.event["data"]["state"] in ACTIVE:
            yield word.action, word.event, then.at if then else math.inf


def _first_behind(history: History, story: Story, told: Row, until: float = math.inf) -> Line | None:
    """The first step that was trained although whoever held the run had long read what this event tells."""
    holder = Holder.of(history, story, told)
    late = (line for at, line in holder.steps if holder.read_at + HEARD_SECONDS < at < until)
    return next((line for line in late if not holder.is_excused(line.t - holder.ahead)), None)


@dataclass(frozen=True)
class Holder:
    """The attempt that an event is of, once it has read what that tells: `read_at` is when it stored something behind it, and
    so read what is wanted. `steps` are those that it trained, with their times, `ahead` how far its host's clock was."""

    story: Story
    struck: Sequence[Struck]
    attempt: int
    host: str
    ahead: float
    read_at: float
    steps: Sequence[tuple[float, Line]]

    @classmethod
    def of(cls, history: History, story: Story, told: Row) -> Holder:
        attempt = told["attempt"]
        host = next((row["worker"] for row in story.attempts if row["number"] == attempt), "")
        behind = (event for event in story.events[told["seq"] :] if event["kind"] in SHIPPED)
        read_at = next((seconds(event["at"]) for event in behind if event["attempt"] == attempt), math.inf)
        ahead = history.clocks.get(host, 0.0)
        steps = [(line.t - ahead, line) for line in story.written.get(attempt, ()) if "loss" in line.values]
        return cls(story, history.struck, attempt, host, ahead, read_at, steps)

    def is_excused(self, at: float) -> bool:
        """Whether since it was read somebody of its own stood still, or the answer of Postgres was lost that tells it."""
        return any(strike.at < at and self.read_at - JUST_SECONDS < strike.until for strike in self._its_own())

    def is_put_to_the_test(self) -> bool:
        """Whether it would be told of this attempt that it is deaf, were it so."""
        before = [at for at, _ in self.steps if at < self.read_at]
        if not before or not self.story.row["total_steps"]:
            return False
        left = self.story.row["total_steps"] - self.steps[len(before) - 1][1].step
        usual = (before[-1] - before[0]) / len(before)
        return left * usual > HEARD_SECONDS and not self.is_excused(self.read_at + HEARD_SECONDS)

    def _its_own(self) -> Iterator[Struck]:
        """What kept it, its supervisor or its host, or Postgres and the way there. Disks are all hosts'."""
        theirs = (f" of {self.story.row['id']}/{self.attempt}", f"supervisor-{self.host}", f"trainers of {self.host}")
        for strike in self.struck:
            is_away = strike.kind.startswith("postgres.") or strike.target == f"{self.host}-postgres"
            stood = strike.kind in STANDING and strike.target.endswith(theirs)
            if is_away or stood or strike.kind == FILLED:
                yield strike


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
        later = (told for told in story.told if told.writer is not None and told.writer > change["attempt"])
        first = next((told for told in later if "loss" in told.line.values), None)
        if first is not None and first.seq < first_made:
            yield f"{story.name}: attempt {first.writer} trained step {first.line.step}, and change {sequence} was not made"
        late = _first_behind(history, story, change)
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
