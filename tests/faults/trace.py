"""Replays what was recorded of real runs in the model of the protocol: each step must be one that the model allows.

Not everything is recorded: whether a trainer died or was given up, say. So the replay follows every run that the model could
be in; where none is left, the recorded step is one that must not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

from tests.faults.checker import CRASHED, NO_PROGRESS, Violation
from tests.faults.history import History, Row
from tests.faults.model import ACTIVE, RESTS, Protocol, Refused, Run, must
from tests.faults.story import SHIPPED, Line, Story, seconds, stories

RULE = "the protocol allows each step"
WORDS = {"pause": "pause", "run": "resume", "stop": "stop", "keep": "keep"}
"""Which word of a person leads to which intent."""
RESTORE, START_OVER = "run.restore", "run.start_over"
"""Words of people beside the protocol, as the audit log calls them."""
BROUGHT_BACK = {"paused": "pause", "queued": "run"}
"""The states that a discarded run may be brought back to, each with the intent that it then has."""
BY_WHO_HOLDS = (*SHIPPED, "log")
"""What only the holder of an attempt tells."""


def validate(history: History, lease_seconds: float) -> list[Violation]:
    """The first step of each run that the protocol does not allow. `lease_seconds` is how long a holder must have been
    silent whose run is taken over."""
    checkpoints: dict[str, list[tuple[int, int]]] = {}
    for row in history.checkpoints:
        checkpoints.setdefault(row["run_id"], []).append((row["attempt"], row["step"]))
    found = []
    for story in stories(history):
        refusal = Replay(story, checkpoints.get(story.row["id"], []), lease_seconds).refusal()
        if refusal:
            found.append(Violation(RULE, f"{story.name}: {refusal}"))
    return found


Step = Callable[[Run], Run]


@dataclass
class Replay:
    """One run's events, in the order of their numbers."""

    story: Story
    checkpoints: list[tuple[int, int]]
    lease_seconds: float
    protocol: Protocol = field(default_factory=Protocol)

    def refusal(self) -> str:
        """Where the replay ends, and why; nothing where it comes through."""
        runs = {Run()}
        lines = {told.seq: (told.line, told.writer) for told in self.story.told}
        for event in self.story.events[1:]:
            steps = list(self._steps(event, *lines.get(event["seq"], (None, None))))
            runs |= {self._begun(run, run.attempt) for run in runs if self._may_have_begun(run)}
            runs, reasons = _all_of(runs, steps)
            if not runs:
                return f"event {event['seq']} ({_name(event)}): {'; '.join(sorted(reasons))}"
        return ""

    def _steps(self, event: Row, line: Line | None, writer: int | None) -> Iterator[Step]:
        """The transactions that this event may tell of."""
        attempt, step = event["attempt"], event["step"]
        match event["kind"]:
            case "state":
                yield from (partial(self._enters, event, act) for act in self._ways(event))
            case "rewound":
                own = [each for each in self.checkpoints if each[1] == step] if step else [(0, 0)]
                yield from (partial(self._begins, attempt, saved) for saved in own)
            case "metrics" if line is not None and "loss" in line.values:
                yield partial(self._ships, attempt, writer, line)
            case "checkpoint":
                yield partial(self.protocol.publish, attempt=attempt, step=step)
            case "phase":
                yield partial(self._works, attempt)
            case kind if kind in BY_WHO_HOLDS:
                yield partial(self._tells, attempt)
            case _:
                yield lambda run: run  # people's notes and wishes move nothing

    # ---- transactions --------------------------------------------------------------------------------------------

    def _begins(self, attempt: int, saved: tuple[int, int], run: Run) -> Run:
        return self.protocol.begin(run, attempt, saved)

    def _ships(self, attempt: int, writer: int | None, line: Line, run: Run) -> Run:
        """One line at a time; its place in its writer's journal is what the stored offset must be."""
        must(writer is not None, "no journal holds this line")
        assert writer is not None
        run = self._begun(run, attempt)
        own = [each.key for each in self.story.written[writer] if "loss" in each.values]
        must(line.step == len(run.shown) + 1, f"step {line.step} is stored behind step {len(run.shown)}")
        return self.protocol.ship(run, attempt, writer, own.index(line.key), (writer,))

    def _tells(self, attempt: int, run: Run) -> Run:
        self.protocol.fence(run, attempt)
        return run

    def _works(self, attempt: int, run: Run) -> Run:
        """Only a trainer of the attempt itself tells a phase, and it starts once its attempt owns the history."""
        return self._begun(self._tells(attempt, run), attempt)

    def _may_have_begun(self, run: Run) -> bool:
        """Whether a first trainer was started of which nothing was told yet: its successor may tell its phases and its steps."""
        return run.is_held and not run.begun and run.attempt in self.story.journals

    def _begun(self, run: Run, attempt: int) -> Run:
        """The very first `begin` of a run takes nothing back, and is therefore not told."""
        return self.protocol.begin(run, attempt, (0, 0)) if not run.begun else run

    def _enters(self, event: Row, act: Step, run: Run) -> Run:
        """An action that leads to the state, intent and attempt that are told."""
        then = act(run)
        if (event["data"].get("cause") or {}).get("code") == NO_PROGRESS:
            must(run.tries >= self.protocol.attempt_limit, f"it is paused after {run.tries} attempts without progress")
        told = (event["data"]["state"], event["data"]["intent"], event["attempt"])
        must(
            (then.state, then.intent, then.attempt) == told,
            f"{run.state} ({run.intent}) leads to {then.state}, not {told}",
        )
        return then

    def _ways(self, event: Row) -> Iterator[Step]:
        """Every way into the told state."""
        protocol, attempt, state = self.protocol, event["attempt"], event["data"]["state"]
        code = (event["data"].get("cause") or {}).get("code")
        if code is None:
            yield lambda run: protocol.say(run, WORDS[event["data"]["intent"]])
        match state:
            case "preparing":
                yield partial(self._claims, event)
            case "training":
                yield lambda run: self._trains(self._begun(run, attempt), attempt)
            case "finishing":
                yield lambda run: protocol.finish(self._begun(run, attempt), attempt)
            case _:
                yield lambda run: protocol.end_unheld(run, is_lapsed=True)
                if state in BROUGHT_BACK and self._was_said(event, RESTORE):
                    yield partial(self._is_brought_back, state)
                if state == "queued" and self._was_said(event, START_OVER):
                    yield partial(self._starts_over, attempt)
                for how in self._endings(attempt, code):
                    yield partial(self._leaves, attempt, how)

    def _claims(self, event: Row, run: Run) -> Run:
        """A run that is held may be taken once its holder was silent for a whole lease."""
        if run.is_held:
            before = pairwise(self.story.events[: event["seq"] - 1])
            renewed = [then for first, then in before if then["kind"] in SHIPPED or then["attempt"] > first["attempt"]]
            silence = seconds(event["at"]) - seconds(renewed[-1]["at"])
            must(silence >= self.lease_seconds, f"it is taken {silence:.2f} s after its holder's last word")
        return self.protocol.claim(run, is_lapsed=True)

    def _endings(self, attempt: int, code: str | None = None) -> tuple[str, ...]:
        """How an attempt may have ended: its row names the state that followed, or tells in words how the trainer died.

        That a run crashed is said of deaths alone.
        """
        cause = next((row.get("cause") for row in self.story.attempts if row["number"] == attempt), None)
        died = cause is not None and cause not in (*RESTS, "queued", "lost")
        if died or code == CRASHED:
            return ("died",) if died else ()
        return ("freed", "failed", "done")

    def _was_said(self, event: Row, action: str) -> bool:
        """Whether a person said so between the event before and this one: Postgres stamps both, the word first."""
        before = seconds(self.story.events[event["seq"] - 2]["at"])
        return any(before <= at <= seconds(event["at"]) for at in self.story.said(action))

    def _trains(self, run: Run, attempt: int) -> Run:
        self.protocol.fence(run, attempt)
        must(run.state == "preparing", f"it trains after it was {run.state}")
        return run._replace(state="training")

    def _leaves(self, attempt: int, how: str, run: Run) -> Run:
        must(run.state in ACTIVE, f"an attempt of a {run.state} run is left")
        if how == "done":
            has_nothing = not run.saved[1] and not run.stored[attempt]
            must(run.state == "finishing" or (run.intent == "keep" and has_nothing), f"it is done while {run.state}")
        return self.protocol.leave(run, attempt, how)

    def _is_brought_back(self, state: str, run: Run) -> Run:
        """A person's word beside the protocol, which the audit log has: a discarded run rests again, or waits in the queue where
        it stood there. Nothing of what was counted is forgiven."""
        must(run.state == "stopped" and run.intent == "stop", f"a {run.state} run is brought back")
        return run._replace(state=state, intent=BROUGHT_BACK[state])

    def _starts_over(self, attempt: int, run: Run) -> Run:
        """Another one: a run may leave its host.

        That forgives what was counted, so it is no reading of a trainer's death: three of those could not be told then.
        """
        is_death = run.state in ACTIVE and "died" in self._endings(attempt)
        must(run.state in ("queued", *ACTIVE), f"a {run.state} run starts over")
        must(not is_death, "a run whose trainer died starts over")
        return run._replace(state="queued", is_held=False, published=(), tries=0, crashes=0)


def _all_of(runs: Iterable[Run], steps: Iterable[Step]) -> tuple[set[Run], set[str]]:
    """Every run that one of the steps leads to, and why the others were refused."""
    found, reasons = set(), set()
    for run in runs:
        for step in steps:
            try:
                found.add(step(run))
            except Refused as refused:
                reasons.add(str(refused))
    return found, reasons


def _name(event: Row) -> str:
    state = f" {event['data']['state']}" if event["kind"] == "state" else ""
    return f"{event['kind']}{state}, attempt {event['attempt']}, step {event['step']}"
