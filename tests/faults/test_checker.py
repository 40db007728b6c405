"""Each rule of the checker is seen to be broken, by one change of a history that keeps them all, and no other rule with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.checker import (
    DISOBEYED,
    OF_ITSELF,
    RULES_OF_A_RUN,
    RULES_OF_A_STUDIO,
    Death,
    check,
    curves_are_those_of_an_undisturbed_run,
    detections,
    each_step_is_told_once_as_it_was_trained,
    outlived,
)
from tests.faults.history import Ended, History, Leftover, Row, Said, Struck
from tests.faults.small import (
    ARRIVAL_SECONDS,
    CHECKPOINT,
    FIRST,
    KILLED_AT,
    RUN,
    SECOND,
    SUPERVISOR,
    artifact,
    attempt_row,
    checkpoint,
    event,
    journal,
    journal_line,
    looks,
    moment,
    small_history,
)
from tests.faults.story import seconds, stories
from tests.faults.trace import validate
from tests.support.figures import ROOT

Change = Callable[[History], History]
LEASE_SECONDS = 1.0


def unfollowed(history: History) -> History:
    return replace(history, seen=[], is_followed=False)


def changed_run(**values: object) -> Change:
    return lambda history: replace(history, runs=[history.runs[0] | values])


def changed_event(seq: int, **values: object) -> Change:
    """A stored event is another one, and was seen as it is stored."""

    def change(history: History) -> History:
        events = [row | values if row["seq"] == seq else row for row in history.events]
        return replace(unfollowed(history), events=events)

    return change


def without_event(seq: int) -> Change:
    return lambda history: replace(unfollowed(history), events=[row for row in history.events if row["seq"] != seq])


def inserted(place: int, kind: str, step: int, attempt: int, at: float, what: object) -> Change:
    """One event more, all later ones counted on."""

    def change(history: History) -> History:
        events = list(history.events)
        events.insert(place - 1, event(place, kind, step, attempt, at, what))
        return renumbered(events, history)

    return change


def of_the_first_trainer(history: History) -> Row:
    """A line that attempt 1 wrote after it was over."""
    line = history.journals[RUN, 1][-1]
    return line | {"step": 4, "t": 107.0}


def stale(history: History) -> History:
    line = of_the_first_trainer(history)
    told = inserted(16, "metrics", 4, 2, 107.1, line["data"]["values"]["loss"])(history)
    journals = history.journals | {(RUN, 1): [*history.journals[RUN, 1], line]}
    return replace(told, journals=journals)


def two_at_once(history: History) -> History:
    """The first trainer is still there while the second one works."""
    others = [look for look in history.samples if look.pid != FIRST]
    return replace(history, samples=others + looks(FIRST, "trainer", 100.5, 107.0, 1))


def elsewhere(history: History) -> History:
    """The same for so long that no parent's death excuses it, and on another host."""
    others = [look for look in history.samples if look.pid not in (FIRST, SECOND)]
    first = [replace(look, host="b") for look in looks(FIRST, "trainer", 100.5, 120.0, 1)]
    return replace(history, samples=[*others, *first, *looks(SECOND, "trainer", 105.5, 121.0, 2)])


def orphaned(history: History) -> History:
    lived = looks(13, "spare", 100.0, 112.0)
    return replace(
        history, samples=[*history.samples, *(replace(each, parent=1) if each.at > 101 else each for each in lived)]
    )


def without_the_first_point(history: History) -> History:
    """It is gone from the curve, and from the buckets too."""
    buckets = [bucket | {"high": 2.5, "high_step": 2} for bucket in history.buckets]
    return replace(history, points=history.points[1:], buckets=buckets)


def kept_without_its_last_step(history: History) -> History:
    """It was stopped and kept: an artifact is told, and the last step that it was trained on is not."""
    told = changed_event(19, data={"state": "stopped", "intent": "keep", "attempt": 2})(history)
    last = next(row for row in told.events if row["kind"] == "metrics" and row["step"] == 4)
    events = [row for row in told.events if row is not last]
    events = [row | {"seq": number} for number, row in enumerate(events, start=1)]
    row = told.runs[0] | {"seq": len(events), "state": "stopped", "intent": "keep"}
    buckets = [bucket | {"low": 2.25, "low_step": 3} for bucket in told.buckets]
    return replace(told, events=events, runs=[row], points=told.points[:-1], buckets=buckets)


def told_late(history: History) -> History:
    """Nobody says for a long while that the first trainer is dead."""
    later = [row | {"at": moment(KILLED_AT + 7)} if row["seq"] in (9, 10) else row for row in history.events]
    return replace(history, events=later)


def begun_anew(history: History) -> History:
    """The second attempt trains everything once more, and says so, though the checkpoint of step 2 stood."""
    metrics = [row for row in history.events if row["kind"] == "metrics"]
    again = [(row["step"], row["data"]["values"]["loss"], 105.6 + 0.2 * row["step"]) for row in metrics[:2]]
    told = changed_event(12, step=0)(history)
    for place, (step, loss, at) in enumerate(again, start=15):
        told = inserted(place, "metrics", step, 2, at, loss)(told)
    return replace(told, journals=told.journals | {(RUN, 2): list(journal(told.events, 2))})


def found_damaged(history: History, step: int = 2, words: str = "is damaged: optimizer.pt is missing.") -> History:
    """Who takes the run over says so."""
    text = {"level": "warning", "text": f"The checkpoint of step {step} {words}"}
    return changed_event(12, data=text)(inserted(12, "log", 2, 2, 105.4, None)(history))


def failed_for(code: str, state: str = "failed", message: str = "It could not go on.") -> Change:
    """It fails of itself at the end of its first attempt, with a cause in words, and somebody resumes it at once."""
    cause = {"code": code, "message": message}

    def change(history: History) -> History:
        data = {"state": state, "intent": "pause" if state == "paused" else "run", "attempt": 1, "cause": cause}
        resumed = inserted(11, "state", 3, 1, 104.7, "queued")(changed_event(10, data=data)(history))
        ended = [row | {"cause": state} if row["number"] == 1 else row for row in resumed.attempts]
        return replace(resumed, attempts=ended)

    return change


def preempted(lost: int) -> Change:
    """The first trainer is not killed: its host is taken away, and so many steps with it."""
    notice = Struck(KILLED_AT - 0.4, 1, 7, "supervisor.preempt", "training", "supervisor-a", healed=KILLED_AT + 1)

    def change(history: History) -> History:
        told = changed_event(12, data={"step": 2, "lost": lost})(history)
        attempts = [row | {"cause": "queued"} if row["number"] == 1 else row for row in told.attempts]
        return replace(told, struck=[notice], attempts=attempts)

    return change


def published_in(folder: str) -> Change:
    """The newest checkpoint is told as the second attempt's, and its files are elsewhere."""

    def change(history: History) -> History:
        told = inserted(17, "checkpoint", 4, 2, 107.9, None)(history)
        lines = told.journals | {(RUN, 2): list(journal(told.events, 2))}
        row = checkpoint(2, 4, 107.9) | {"folder": folder}
        return replace(told, journals=lines, checkpoints=[*told.checkpoints, row])

    return change


def loading_early(text: str) -> Change:
    """The second trainer is there while the first one works, and says so as it would when it loads, or waits."""

    def change(history: History) -> History:
        others = [look for look in history.samples if look.pid != SECOND]
        line = {"kind": "phase", "step": 0, "t": 101.2, "data": {"phase": "loading", "text": text}}
        journals = history.journals | {(RUN, 2): [line, *history.journals[RUN, 2]]}
        told = changed_event(13, data=line["data"])(inserted(13, "phase", 0, 2, 105.9, None)(history))
        return replace(told, samples=[*others, *looks(SECOND, "trainer", 101.0, 108.9, 2)], journals=journals)

    return change


def told_twice_by_its_trainer(history: History) -> History:
    told = inserted(17, "metrics", 4, 2, 107.9, 2.0)(history)
    return replace(told, journals=told.journals | {(RUN, 2): list(journal(told.events, 2))})


def amended_in_vain(history: History) -> History:
    """Somebody asks for another learning rate, and neither the first trainer nor the second heeds it."""
    told = inserted(6, "amendment", 1, 1, 101.6, None)(history)
    wanted = {"sequence": 1, "field": "training.learning_rate", "value": 1e-9}
    return changed_event(6, data=wanted)(told)


def without_its_artifact(history: History) -> History:
    """What a trainer gave out never reached the log of its run, and no row names it; an older one is there."""
    told = renumbered([row for row in history.events if row["kind"] != "artifact"], history)
    before = inserted(9, "artifact", 3, 1, 103.9, None)(told)
    journals = before.journals | {(RUN, 1): list(journal(before.events, 1))}
    return replace(before, journals=journals, artifacts=[artifact(1, 3, 103.9)])


def renumbered(events: list[Row], history: History) -> History:
    """These are all of its events."""
    return replace(unfollowed(history), events=numbered(events), runs=[history.runs[0] | {"seq": len(events)}])


def numbered(events: list[Row]) -> list[Row]:
    return [row | {"seq": number} for number, row in enumerate(events, start=1)]


def with_a_line(kind: str, step: int, data: Row) -> Change:
    """Its second trainer wrote that before its last step, and nothing tells it."""
    line = {"kind": kind, "step": step, "t": 107.0, "data": data}

    def change(history: History) -> History:
        *before, last, given = history.journals[RUN, 2]
        return replace(history, journals=history.journals | {(RUN, 2): [*before, line, last, given]})

    return change


def never_trained(history: History) -> History:
    """A run that succeeds at once."""
    told = changed_event(12, step=0)(history)
    told = renumbered([row for row in told.events if row["kind"] not in ("metrics", "checkpoint")], told)
    lines = {
        key: [line for line in each if line["kind"] in ("phase", "artifact")] for key, each in history.journals.items()
    }
    return replace(told, journals=lines, points=[], buckets=[], checkpoints=[], reference={})


def without_the_third_step(history: History) -> History:
    """Neither trainer wrote it, and so nobody told it."""

    def is_third(row: Row) -> bool:
        return (row["kind"], row["step"]) == ("metrics", 3)

    told = renumbered([row for row in history.events if not is_third(row)], history)
    lines = {key: [line for line in each if not is_third(line)] for key, each in history.journals.items()}
    points = [row for row in history.points if row["step"] != 3]
    return replace(told, journals=lines, points=points, reference={})


BROKEN: dict[str, Change] = {
    "events are numbered without a gap": changed_run(seq=99),
    "only the owner of the history writes": stale,
    "what its owner wrote is told": without_its_artifact,
    "what is given out is what was told": lambda history: replace(history, artifacts=[]),
    "each step is told once as it was trained": inserted(6, "metrics", 1, 1, 101.5, 3.0),
    "points are what the events draw": without_the_first_point,
    "extremes are those of the points": lambda history: replace(
        history, buckets=[history.buckets[0] | {"low_step": 3}, *history.buckets[1:]]
    ),
    "states follow each other as they may": inserted(17, "state", 4, 2, 107.9, "preparing"),
    "a failed run names its cause": failed_for(""),
    "a run at rest holds nothing": changed_run(holder="a"),
    "a run goes on from its newest checkpoint": begun_anew,
    "every client receives every event once": lambda history: replace(
        history, seen=history.seen[:3] + history.seen[4:]
    ),
    "no accepted run is lost": lambda history: replace(history, accepted=[RUN, "run-2"]),
    "no launch is carried out twice": lambda history: replace(history, accepted=[]),
    "no run fails for nothing": failed_for("worker"),
    "one trainer works on an accelerator": two_at_once,
    "one trainer works on a run": elsewhere,
    "no trainer outlives its supervisor": orphaned,
    "no trainer dies for nothing": lambda history: replace(history, struck=[]),
    "no part ends for nothing": lambda history: replace(history, ended=[Ended("web", 99.0, 110.0)]),
    "who is preempted in training loses no step": preempted(lost=1),
    "nothing happens unseen": lambda history: replace(history, seen=[]),
    "a dead trainer is shown in time": told_late,
    "what is published can be read": lambda history: replace(
        history, readable={"a folder": ["optimizer.pt is missing"]}
    ),
    "curves are those of an undisturbed run": lambda history: replace(
        history, reference={RUN: [("loss", 1, 3.0), ("loss", 2, 2.0), ("loss", 3, 2.25), ("loss", 4, 2.0)]}
    ),
    "nothing is left over": lambda history: replace(history, leftovers=[Leftover("file", ".tmp-merged")]),
    "no accepted word is lost": lambda history: replace(history, words=[Said(RUN, "run.pause")]),
    "who was told to end trains no longer": changed_event(
        11, data={"state": "preparing", "intent": "keep", "attempt": 2}
    ),
    "a change is made and holds": amended_in_vain,
}


def test_a_history_that_keeps_every_promise_is_found_clean() -> None:
    history = small_history()
    assert check(history) == []
    assert validate(history, LEASE_SECONDS) == []


def test_each_rule_has_a_history_that_breaks_it() -> None:
    rules = [rule.__name__.replace("_", " ") for rule in (*RULES_OF_A_RUN, *RULES_OF_A_STUDIO)]
    assert list(BROKEN) == rules


@pytest.mark.parametrize("rule", BROKEN)
def test_what_breaks_a_rule_is_told_by_that_rule(rule: str) -> None:
    found = check(BROKEN[rule](small_history()))
    assert {violation.rule for violation in found} == {rule}, found


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("extremes are those of the points", lambda history: replace(history, buckets=[])),
        (
            "extremes are those of the points",
            lambda history: replace(history, buckets=[*history.buckets, history.buckets[0] | {"name": "other"}]),
        ),
        (
            "extremes are those of the points",
            lambda history: replace(
                history,
                points=[*history.points, history.points[0] | {"name": "grad_norm"}],
                events=[with_grad_norm(row) for row in history.events],
                journals={key: [with_grad_norm(line) for line in each] for key, each in history.journals.items()},
                seen=[],
                is_followed=False,
            ),
        ),
        (
            "a failed run names its cause",
            lambda history: replace(history, attempts=[row | {"cause": None} for row in history.attempts]),
        ),
        ("a failed run names its cause", changed_event(9, data={"level": "error", "text": "The trainer died."})),
        ("each step is told once as it was trained", kept_without_its_last_step),
        (
            "extremes are those of the points",
            lambda history: replace(history, buckets=[row for row in history.buckets if row["width"] != 512]),
        ),
        ("every client receives every event once", lambda history: replace(history, seen=history.seen[:-1])),
        ("each step is told once as it was trained", never_trained),
        ("each step is told once as it was trained", without_the_third_step),
        ("what its owner wrote is told", with_a_line("sample", 3, {"index": 0, "prompt": "?", "text": "!"})),
        ("what its owner wrote is told", with_a_line("log", 3, {"level": "info", "text": "Halfway."})),
        ("what its owner wrote is told", with_a_line("checkpoint", 4, {"bytes": 9})),
        ("only the owner of the history writes", inserted(15, "phase", 2, 2, 106.1, None)),
        ("what is given out is what was told", lambda history: replace(history, checkpoints=[])),
        (
            "what is given out is what was told",
            lambda history: replace(
                history, artifacts=[row | {"withdrawn_at": row["created_at"]} for row in history.artifacts]
            ),
        ),
        (
            "curves are those of an undisturbed run",
            lambda history: replace(history, reference={RUN: [*history.reference[RUN], ("eval_loss", 4, 2.5)]}),
        ),
        ("every client receives every event once", lambda history: replace(history, seen=history.seen[1:])),
    ],
    ids=[
        "no bucket",
        "a bucket of nothing",
        "a metric without buckets",
        "no word on a death",
        "no cause of a death in the log",
        "no last step",
        "no level of buckets",
        "no last event",
        "no step at all",
        "no third step, whoever is asked",
        "no sample",
        "no word of its trainer",
        "no checkpoint that was published",
        "a phase told twice",
        "no row of a checkpoint",
        "nothing to give",
        "no last measurement",
        "no first event",
    ],
)
def test_what_is_missing_breaks_a_rule_too(rule: str, change: Change) -> None:
    assert {violation.rule for violation in check(change(small_history()))} == {rule}


def test_what_an_attempt_wrote_of_itself_is_nobodys_to_hear_once_it_was_taken_over() -> None:
    """Its successor stored its last steps, and what it was asked; neither its progress nor its checkpoint."""
    history = small_history()
    last = [{"kind": "progress", "step": 3, "t": 103.6, "data": {"what": "eval", "done": 1, "total": 2}}]
    last.append({"kind": "checkpoint", "step": 3, "t": 103.7, "data": {"bytes": 9}})
    asked = {"kind": "sample", "step": 3, "t": 103.8, "data": {"index": 0, "prompt": "?", "text": "!"}}
    told = changed_event(12, data=asked["data"])(inserted(12, "sample", 3, 2, 105.2, None)(history))
    journals = told.journals | {(RUN, 1): [*told.journals[RUN, 1], *last, asked]}
    assert check(replace(told, journals=journals)) == []
    before = [row | {"attempt": 1} if row["seq"] == 12 else row for row in told.events]
    still_its_own = replace(told, journals=journals, events=[*before[:10], before[11], before[10], *before[12:]])
    assert {violation.rule for violation in check(replace(still_its_own, events=numbered(still_its_own.events)))} == {
        "what its owner wrote is told"
    }


def with_grad_norm(row: Row) -> Row:
    """The first step measured something else as well."""
    if row["kind"] != "metrics" or row["step"] != 1:
        return row
    return row | {"data": row["data"] | {"values": row["data"]["values"] | {"grad_norm": 3.0}}}


def deaths(history: History) -> list[Death]:
    """Those of the first trainer that were detected."""
    return [death for death in detections(history, stories(history)) if "attempt 1" in death.whose]


def test_how_fast_a_death_was_told_is_measured_from_the_last_look_at_the_living() -> None:
    history = small_history()
    (death,) = deaths(history)
    assert (death.told, death.heard) == pytest.approx((0.5, 0.5 + ARRIVAL_SECONDS))


@pytest.mark.parametrize(
    ("kind", "target", "is_counted"),
    [
        ("postgres.kill", "postgres", False),
        ("postgres.kill_backend", "backend 99", False),
        ("network.host-postgres.cut", "a-postgres", False),
        ("supervisor.freeze", "supervisor-a", False),
        ("host.freeze", "supervisor-a", False),
        ("network.host-postgres.cut", "b-postgres", True),
        ("supervisor.kill", "supervisor-b", True),
        ("network.host-valkey.cut", "a-valkey", True),
        ("web.kill", "web", True),
        ("network.client-web.cut", "client-web", True),
    ],
)
def test_a_death_is_counted_unless_what_sees_and_tells_it_was_struck(kind: str, target: str, is_counted: bool) -> None:
    history = small_history()
    for at, counts in ((KILLED_AT - 1, is_counted), (KILLED_AT - 20, True)):
        struck = replace(history, struck=[Struck(at, 2, 7, kind, "training", target)])
        assert bool(deaths(struck)) == counts


def test_a_death_that_a_client_hears_of_too_late_is_told() -> None:
    history = small_history()
    late = [replace(each, at=KILLED_AT + 6) if each.seq >= 9 else each for each in history.seen]
    (violation,) = check(replace(history, seen=late))
    assert violation.rule == "a dead trainer is shown in time"
    assert violation.what.endswith("was dead for 6.0 s before a client had heard of it")


@pytest.mark.parametrize(
    ("kind", "target", "at", "healed", "is_excused"),
    [
        ("web.kill", "web", KILLED_AT - 0.5, KILLED_AT - 0.2, True),
        ("web.freeze", "web", KILLED_AT + 1, KILLED_AT + 2, True),
        ("network.client-web.silent", "client-web", KILLED_AT - 3, KILLED_AT - 1, True),
        ("network.client-web.silent", "client-web", KILLED_AT - 3, KILLED_AT - 1.5, False),
        ("network.web-postgres.cut", "web-postgres", KILLED_AT - 0.5, KILLED_AT + 3, True),
        ("postgres.freeze", "postgres", KILLED_AT + 0.6, KILLED_AT + 5.5, True),
        ("web.kill", "web", KILLED_AT + 6.5, KILLED_AT + 7, False),
        ("valkey.kill", "valkey", KILLED_AT, KILLED_AT + 1, False),
        ("celery.kill", "celery-a", KILLED_AT, KILLED_AT + 1, False),
    ],
)
def test_that_a_client_hears_late_of_a_death_is_excused_by_what_was_struck_on_the_way_since_it_heard_something(
    kind: str, target: str, at: float, healed: float, is_excused: bool
) -> None:
    """It had heard of step 3 a quarter of a second before the trainer died."""
    history = small_history()
    late = [replace(each, at=KILLED_AT + 6) if each.seq >= 9 else each for each in history.seen]
    strike = Struck(at, 2, 7, kind, "training", target, healed)
    found = check(replace(history, seen=late, struck=[*history.struck, strike]))
    assert (found == []) == is_excused


def test_who_begins_to_follow_after_a_death_hears_nothing_late() -> None:
    history = small_history()
    assert check(replace(history, seen=[replace(each, at=KILLED_AT + 60) for each in history.seen])) == []
    (death,) = deaths(unfollowed(history))
    assert death.heard is None


def test_an_attempt_that_was_given_up_is_no_death_that_was_detected() -> None:
    history = small_history()
    freed = replace(history, attempts=[row | {"cause": "queued"} for row in history.attempts])
    assert detections(freed, stories(freed)) == []


def test_what_was_said_of_an_attempt_before_its_trainer_died_is_no_detection() -> None:
    history = small_history()
    early = [row | {"at": moment(KILLED_AT - 1)} if row["seq"] in (9, 10) else row for row in history.events]
    told = replace(history, events=early)
    assert detections(told, stories(told)) == []


@pytest.mark.parametrize("code", ["out_of_memory", "disk_full", "worker", "no_progress"])
def test_a_run_that_fails_is_excused_by_what_was_done_to_its_host_alone(code: str) -> None:
    history = failed_for(code)(small_history())
    filled = replace(history, struck=[*history.struck, Struck(103.0, 2, 7, "disk.fill", "training", "runs", 103.5)])
    assert {violation.rule for violation in check(history)} == {"no run fails for nothing"}
    assert (check(filled) == []) == (code == "disk_full")


@pytest.mark.parametrize(
    ("at", "healed", "is_excused"),
    [(90.0, 93.0, False), (90.0, 95.0, True), (104.4, 110.0, True), (104.6, 110.0, False)],
)
def test_a_disk_that_was_full_long_before_or_only_afterwards_excuses_no_run_that_fails(
    at: float, healed: float, is_excused: bool
) -> None:
    """Its trainer was seen last at 104, and its failure is told half a second later."""
    history = failed_for("disk_full")(small_history())
    filled = Struck(at, 2, 7, "disk.fill", "training", "runs", healed)
    found = {violation.rule for violation in check(replace(history, struck=[*history.struck, filled]))}
    assert found == (set() if is_excused else {"no run fails for nothing"})


def test_a_run_whose_trainer_nobody_met_may_fail_by_a_disk_that_was_full_since_it_was_taken() -> None:
    history = replace(failed_for("disk_full")(small_history()), is_watched=False)
    unseen = [look for look in history.samples if look.pid != FIRST]
    for at, is_excused in ((104.0, True), (88.0, False)):
        filled = Struck(at, 2, 7, "disk.fill", "training", "runs", at + 1)
        found = check(replace(history, samples=unseen, struck=[*history.struck, filled]))
        assert (found == []) == is_excused


def test_a_run_pauses_of_itself_only_where_it_gets_nowhere_after_ten_attempts() -> None:
    early = failed_for("no_progress", "paused")(small_history())
    assert check(early) == []
    (violation,) = validate(early, LEASE_SECONDS)
    assert "it is paused after 0 attempts without progress" in violation.what
    assert check(failed_for("disk_full", "paused")(small_history())) != []
    assert validate(freed(9), LEASE_SECONDS) == []
    assert validate(freed(10, "no_progress"), LEASE_SECONDS) == []


def test_a_run_that_is_given_back_thirty_times_in_a_row_should_have_been_paused() -> None:
    (violation,) = validate(freed(30), LEASE_SECONDS)
    assert "state queued, attempt 10" in violation.what


def test_a_run_starts_over_on_a_persons_word_alone() -> None:
    history = freed(12)
    tenth = next(row for row in history.events if row["attempt"] == 10 and row["data"]["state"] == "queued")
    said = {"action": "run.start_over", "subject": "owls", "at": tenth["at"]}
    earlier = moment(seconds(tenth["at"]) - 1.5)
    assert validate(replace(history, audit=[said]), LEASE_SECONDS) == []
    for other in ({"at": earlier}, {"subject": "another"}, {"action": "run.resume"}):
        assert validate(replace(history, audit=[said | other]), LEASE_SECONDS) != []


def test_a_run_that_is_brought_back_into_the_queue_is_forgiven_no_death() -> None:
    """Its third trainer in a row dies after that, and with it the run fails."""
    history = brought_back()
    assert validate(history, LEASE_SECONDS) == []
    (violation,) = validate(replace(history, audit=[]), LEASE_SECONDS)
    assert "state failed, attempt 3" in violation.what


def brought_back() -> History:
    """Two of its trainers died; it waits for the third, is discarded, brought back, and its trainer dies too."""
    history = dying(3)
    place = next(row["seq"] for row in history.events if (row["attempt"], row["data"].get("state")) == (2, "queued"))
    between = [event(0, "state", 0, 2, 100.2 + place, "stopped"), event(0, "state", 0, 2, 100.4 + place, "queued")]
    between[0]["data"] |= {"intent": "stop"}
    events = [*history.events[:place], *between, *history.events[place:]]
    events = [row | {"seq": seq} for seq, row in enumerate(events, 1)]
    events[-1]["data"] |= {"state": "failed", "cause": {"code": "crashed"}}
    said = {"action": "run.restore", "subject": "owls", "at": between[1]["at"]}
    return replace(history, events=events, audit=[said])


def test_that_a_run_crashed_is_said_of_deaths_alone() -> None:
    crashed = failed_for("crashed")(small_history())
    assert check(crashed) == []
    (violation,) = validate(crashed, LEASE_SECONDS)
    assert "state failed, attempt 1" in violation.what


@pytest.mark.parametrize("words", ["is damaged: optimizer.pt is missing.", "is not the one that was published."])
def test_a_checkpoint_that_was_found_damaged_must_have_been_torn(words: str) -> None:
    history = found_damaged(small_history(), words=words)
    assert {violation.rule for violation in check(history)} == {"what is published can be read"}
    torn = Struck(103.0, 2, 7, "checkpoint.tear", "training", CHECKPOINT)
    assert check(replace(history, struck=[*history.struck, torn])) == []


def test_a_checkpoint_that_was_read_damaged_before_it_was_replaced_must_have_been_torn() -> None:
    folder = CHECKPOINT.replace("checkpoint-2", "checkpoint-1")
    history = replace(small_history(), read={CHECKPOINT: [], folder: ["optimizer.pt is missing"]})
    (violation,) = check(history)
    assert (violation.rule, violation.what) == ("what is published can be read", f"{folder}: optimizer.pt is missing")
    torn = Struck(103.0, 2, 7, "checkpoint.tear", "training", folder)
    assert check(replace(history, struck=[*history.struck, torn])) == []
    both = replace(history, readable=history.readable | {folder: ["optimizer.pt is missing"]})
    assert len(check(both)) == 1, "what is so to the end is told once"


@pytest.mark.parametrize(
    ("trainer_until", "supervisor_until", "lags"),
    [(105.0, 104.0, [1.0]), (104.0, 104.2, [0.0]), (104.0, 109.0, []), (104.0, 112.0, [])],
    ids=["it outlives it", "it dies with it", "it died long before", "its supervisor goes on"],
)
def test_by_how_much_a_trainer_outlives_its_supervisor_is_measured_where_that_died(
    trainer_until: float, supervisor_until: float, lags: list[float]
) -> None:
    """Looked at until 112."""
    samples = [
        *looks(SUPERVISOR, "supervisor", 99.0, supervisor_until),
        *looks(FIRST, "trainer", 100.5, trainer_until, 1),
        *looks(99, "web", 99.0, 112.0),
    ]
    assert outlived(replace(small_history(), samples=samples)) == pytest.approx(lags)


def test_what_cannot_be_kept_since_it_is_damaged_must_have_been_torn() -> None:
    message = "Nothing is left that could be kept. The checkpoint of step 2 is damaged: optimizer.pt is missing."
    history = failed_for("checkpoint.damaged", message=message)(small_history())
    another = Struck(103.0, 2, 7, "checkpoint.tear", "training", CHECKPOINT.replace("checkpoint-2", "checkpoint-1"))
    assert len(check(history)) == 2, "nothing was torn, and that is no reason to fail"
    assert {each.rule for each in check(replace(history, struck=[*history.struck, another]))} == {
        "what is published can be read"
    }
    torn = replace(another, target=CHECKPOINT)
    assert check(replace(history, struck=[*history.struck, torn])) == []
    later = replace(torn, at=KILLED_AT + 1)
    of_another_run = replace(torn, target=CHECKPOINT.replace(RUN, "run-2"))
    for strike in (later, of_another_run):
        found = {each.rule for each in check(replace(history, struck=[*history.struck, strike]))}
        assert "no run fails for nothing" in found


def test_a_run_that_goes_on_from_an_older_checkpoint_is_excused_by_a_torn_one_and_by_a_persons_word() -> None:
    history = begun_anew(small_history())
    torn = replace(history, struck=[*history.struck, Struck(103.0, 2, 7, "checkpoint.tear", "training", CHECKPOINT)])
    assert check(torn) != [], "people are to be told"
    assert check(found_damaged(torn)) == []
    said = {"action": "run.start_over", "subject": "owls", "at": moment(104.8)}
    assert check(replace(history, audit=[said])) == []
    assert check(replace(history, audit=[said | {"subject": "another"}])) != []
    assert check(replace(history, audit=[said | {"action": "run.resume"}])) != []


@pytest.mark.parametrize(("step", "is_due"), [(4, True), (3, False)])
def test_what_is_measured_where_a_run_is_kept_is_more_than_an_undisturbed_run_has(step: int, is_due: bool) -> None:
    """It is kept at step 4, and a run that goes on is measured at step 9."""
    measured = changed_event(17, data={"values": {"eval_loss": 2.5}, "t": 107.7})
    told = measured(inserted(17, "metrics", step, 2, 107.8, None)(small_history()))
    history = replace(told, runs=[told.runs[0] | {"state": "stopped"}])
    known = replace(history, reference={RUN: [*history.reference[RUN], ("eval_loss", 9, 2.0)]})
    assert (list(curves_are_those_of_an_undisturbed_run(known, stories(known))) == []) == is_due


def test_a_checkpoint_that_only_its_row_calls_replaced_is_still_the_newest() -> None:
    history = begun_anew(small_history())
    replaced = [row | {"replaced_at": moment(104.8)} for row in history.checkpoints]
    assert len(check(replace(history, checkpoints=replaced))) == 1
    newer = checkpoint(1, 3, 104.7)
    torn = Struck(104.75, 2, 7, "checkpoint.tear", "training", newer["folder"])
    told = inserted(10, "checkpoint", 3, 1, 104.5, None)(found_damaged(history, step=3))
    journals = told.journals | {(RUN, 1): list(journal(told.events, 1))}
    struck = [*history.struck, torn]
    assert check(replace(told, struck=struck, journals=journals, checkpoints=[*replaced, newer])) == []


@pytest.mark.parametrize(("stopped_until", "is_excused"), [(0.0, False), (200.0, False), (300.0, True)])
def test_the_dead_are_buried_within_a_minute_in_which_their_parent_is_not_stopped(
    stopped_until: float, is_excused: bool
) -> None:
    history, parent, child = small_history(), 71, 72
    dead = [replace(look, parent=parent, status="zombie") for look in looks(child, "postgres", 110.0, 310.0)]
    living = [
        replace(look, status="stopped") if look.at < stopped_until else look
        for look in looks(parent, "postgres", 90.0, 320.0)
    ]
    found = {violation.rule for violation in check(replace(history, samples=[*history.samples, *living, *dead]))}
    assert found == (set() if is_excused else {"nothing is left over"})


@pytest.mark.parametrize(("pid", "is_excused"), [(SUPERVISOR, True), (FIRST, False)])
def test_a_host_that_stood_still_may_find_its_run_taken_and_a_trainer_alone_may_not(pid: int, is_excused: bool) -> None:
    history = elsewhere(small_history())
    frozen = [replace(look, status="stopped") if look.pid == pid else look for look in history.samples]
    assert (check(replace(history, samples=frozen)) == []) == is_excused


@pytest.mark.parametrize(
    ("link", "healed", "is_excused"),
    [
        ("b-postgres", 115.0, True),
        ("b-postgres", 108.0, False),
        ("b-postgres", None, False),
        ("a-postgres", 115.0, False),
        ("client-web", 115.0, False),
    ],
)
def test_a_host_that_was_cut_off_from_postgres_may_find_its_run_taken_for_as_long_and_no_longer(
    link: str, healed: float | None, is_excused: bool
) -> None:
    """Its trainer worked for 14 seconds beside the next one."""
    history = elsewhere(small_history())
    struck = [*history.struck, Struck(104.5, 2, 7, "network.link.cut", "training", link, healed)]
    assert (check(replace(history, struck=struck)) == []) == is_excused


def test_of_three_trainers_the_first_is_compared_with_the_third_too() -> None:
    history = elsewhere(small_history())
    between = [replace(look, pid=13, attempt=3) for look in looks(SECOND, "trainer", 105.3, 105.4, 2)]
    line = {"kind": "phase", "step": 0, "t": 105.3, "data": {"phase": "loading", "text": ""}}
    journals = history.journals | {(RUN, 3): [line]}
    assert len(check(replace(history, samples=[*history.samples, *between], journals=journals))) == 1


def test_a_trainer_works_from_when_it_loads_and_not_while_it_waits() -> None:
    assert {violation.rule for violation in check(loading_early("")(small_history()))} == {
        "one trainer works on an accelerator"
    }
    assert check(loading_early("Waiting for cpu: another trainer still holds it.")(small_history())) == []


def test_what_is_published_or_told_is_of_who_owned_the_history() -> None:
    rule = "only the owner of the history writes"
    folder = f"runs/{RUN}/attempt-{{}}/checkpoints/checkpoint-4"
    assert check(published_in(folder.format(2))(small_history())) == []
    assert {violation.rule for violation in check(published_in(folder.format(1))(small_history()))} == {rule}
    unwritten = inserted(17, "checkpoint", 4, 2, 107.9, None)(small_history())
    stored = replace(unwritten, checkpoints=[*unwritten.checkpoints, checkpoint(2, 4, 107.9)])
    assert {violation.rule for violation in check(stored)} == {rule}


def test_no_step_follows_a_later_one_though_its_trainer_says_so() -> None:
    rule = "each step is told once as it was trained"
    assert {violation.rule for violation in check(told_twice_by_its_trainer(small_history()))} == {rule}


@pytest.mark.parametrize(
    ("kind", "target", "is_excused"),
    [
        ("trainer.kill", f"trainer 99 of {RUN}/1", True),
        ("trainers.kill", "trainers of a", True),
        ("checkpoint.tear", CHECKPOINT, True),
        ("trainer.kill", f"trainer 99 of {RUN}/2", False),
        ("trainers.kill", "trainers of b", False),
        ("supervisor.kill", "supervisor-a", False),
        ("trainer.freeze", f"trainer 99 of {RUN}/1", False),
        ("trainer.starve", f"trainer 99 of {RUN}/1", False),
    ],
)
def test_a_trainer_that_died_must_have_been_killed_while_it_was_the_runs(
    kind: str, target: str, is_excused: bool
) -> None:
    struck = Struck(KILLED_AT, 1, 7, kind, "training", target)
    history = replace(small_history(), struck=[struck])
    assert (check(history) == []) == is_excused
    assert check(replace(history, struck=[replace(struck, at=KILLED_AT + 1)])) != []


def died_otherwise(words: str) -> History:
    """Its first trainer, of something else."""
    history = changed_event(9, data={"level": "error", "text": f"The trainer died. {words}"})(small_history())
    return replace(history, attempts=[history.attempts[0] | {"cause": words}, *history.attempts[1:]])


@pytest.mark.parametrize(
    ("words", "is_excused"),
    [
        ("It was told to end, had not done so 20 seconds later, and was killed.", True),
        ("It was killed, since nothing had moved in it for 600 seconds.", False),
    ],
)
def test_a_trainer_that_stood_still_may_end_too_late_for_its_supervisor_and_is_killed_for_nothing_else(
    words: str, is_excused: bool
) -> None:
    history = died_otherwise(words)
    for kind in ("trainer.freeze", "trainer.starve"):
        frozen = [Struck(KILLED_AT - 2, 1, 7, kind, "training", f"trainer {FIRST} of {RUN}/1", KILLED_AT - 1)]
        found = {violation.rule for violation in check(replace(history, struck=frozen))}
        assert found == (set() if is_excused else {"no trainer dies for nothing"})


def test_how_ends_are_told_is_what_the_checker_reads() -> None:
    told = (ROOT / "worker" / "holding.py").read_text()
    assert [words for words in (OF_ITSELF, DISOBEYED) if words not in told] == []


def test_a_trainer_that_ended_of_itself_and_without_a_word_is_excused_by_nothing() -> None:
    history = died_otherwise("It ended with code 1 and left no word.")
    assert {violation.rule for violation in check(history)} == {"no trainer dies for nothing"}


def test_steps_that_a_preempted_run_lost_are_excused_by_what_else_was_struck() -> None:
    assert check(preempted(lost=0)(small_history())) == []
    history = preempted(lost=1)(small_history())
    for kind, target, is_excused in (
        ("network.host-postgres.cut", "a-postgres", True),
        ("postgres.kill", "postgres", True),
        ("trainer.starve", f"trainer {FIRST} of {RUN}/1", True),
        ("network.host-postgres.cut", "b-postgres", False),
        ("valkey.kill", "valkey", False),
        ("network.web-postgres.cut", "web-postgres", False),
    ):
        struck = [*history.struck, Struck(KILLED_AT, 2, 7, kind, "training", target)]
        assert (check(replace(history, struck=struck)) == []) == is_excused, kind


def test_who_looked_at_processes_must_have_met_each_trainer_that_wrote_for_a_while() -> None:
    history = small_history()
    blind = replace(history, samples=[look for look in history.samples if look.pid != FIRST])
    assert {violation.rule for violation in check(blind)} == {"nothing happens unseen"}
    assert check(replace(blind, is_watched=False)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_event(11), "attempt 2 writes, 1 is current"),
        (without_event(12), "is stored"),
        (changed_event(11, attempt=3, data={"state": "preparing", "intent": "run", "attempt": 3}), "leads to"),
        (changed_event(7, step=3), "the checkpoint of step 3 is published"),
        (inserted(9, "state", 3, 1, 104.2, "succeeded"), "leads to"),
        (changed_event(12, step=1), ""),
        (stale, "is stored"),
    ],
    ids=[
        "no claim",
        "no rewound",
        "an attempt too many",
        "too early",
        "done in training",
        "no such checkpoint",
        "stale",
    ],
)
def test_a_step_that_the_protocol_does_not_allow_is_named(change: Change, reason: str) -> None:
    (violation,) = validate(change(small_history()), LEASE_SECONDS)
    assert reason in violation.what


def test_a_run_that_is_held_is_taken_only_after_a_lease_of_silence() -> None:
    history = without_event(10)(small_history())
    taken = replace(history, events=[row | {"seq": number} for number, row in enumerate(history.events, start=1)])
    assert validate(taken, lease_seconds=1.4) == []
    (violation,) = validate(taken, lease_seconds=1.6)
    assert "after its holder's last word" in violation.what


def test_a_run_that_is_to_be_kept_and_has_no_checkpoint_ends_with_nothing_before_it_is_trained_again() -> None:
    assert validate(kept_after_its_trainer_died(is_trained_again=False), LEASE_SECONDS) == []
    (violation,) = validate(kept_after_its_trainer_died(is_trained_again=True), LEASE_SECONDS)
    assert "it is done while training" in violation.what


def kept_after_its_trainer_died(*, is_trained_again: bool) -> History:
    """It trained a step and lost its trainer; its next attempt trains another one, or none, and then it is stopped."""
    told: list[tuple[str, int, int, object]] = [
        ("state", 0, 0, "queued"),
        ("state", 0, 1, "preparing"),
        ("state", 0, 1, "training"),
        ("metrics", 1, 1, 3.0),
        ("state", 1, 1, "queued"),
        ("state", 1, 2, "preparing"),
    ]
    if is_trained_again:
        told += [("rewound", 0, 2, None), ("state", 0, 2, "training"), ("metrics", 1, 2, 3.0)]
    told.append(("state", 1, 2, "stopped"))
    events = [event(seq, kind, step, owner, 100.0 + seq, what) for seq, (kind, step, owner, what) in enumerate(told, 1)]
    for row in events[4:]:
        row["data"] |= {"intent": "keep"} if row["kind"] == "state" else {}
    said = event(5, "state", 1, 1, 104.5, "training")
    said["data"] |= {"intent": "keep"}
    events = [row | {"seq": seq} for seq, row in enumerate([*events[:4], said, *events[4:]], 1)]
    attempts = [attempt_row(1, 101.0, 105.0, "It was killed."), attempt_row(2, 106.0, 111.0, "stopped")]
    lines = {(RUN, each["attempt"]): [journal_line(each)] for each in events if each["kind"] == "metrics"}
    return replace(small_history(), events=events, attempts=attempts, journals=lines)


def test_a_run_that_was_just_claimed_is_not_taken_again() -> None:
    told = [("queued", 0, 100.0), ("preparing", 1, 110.0), ("preparing", 2, 110.9)]
    events = [event(seq, "state", 0, attempt, at, state) for seq, (state, attempt, at) in enumerate(told, start=1)]
    history = replace(small_history(), events=events, journals={})
    assert validate(history, lease_seconds=0.8) == []
    (violation,) = validate(history, lease_seconds=1.0)
    assert "it is taken 0.90 s after its holder's last word" in violation.what


def test_a_run_is_not_given_up_at_the_first_death_of_its_trainer() -> None:
    history = small_history()
    early = [row | {"data": row["data"] | {"state": "failed"}} if row["seq"] == 10 else row for row in history.events]
    (violation,) = validate(replace(history, events=early), LEASE_SECONDS)
    assert "event 10" in violation.what


def test_a_run_whose_trainers_die_is_queued_twice_and_no_third_time() -> None:
    assert validate(dying(2), LEASE_SECONDS) == []
    (violation,) = validate(dying(3), LEASE_SECONDS)
    assert "state queued, attempt 3" in violation.what


def test_a_run_belongs_to_the_attempt_whose_trainer_told_a_phase_though_none_of_its_steps_was_stored_yet() -> None:
    """Its successor stores them first, and then takes them back."""
    assert validate(taken_over_unheard(phase_told_by=1), LEASE_SECONDS) == []


def test_a_run_belongs_to_the_attempt_whose_trainer_was_started_though_nothing_of_it_was_stored_yet() -> None:
    """Its successor stores its phases, too, as its own words."""
    history = taken_over_unheard(phase_told_by=2)
    assert validate(history, LEASE_SECONDS) == []
    (violation,) = validate(replace(history, journals={}), LEASE_SECONDS)
    assert "no journal holds this line" in violation.what


def taken_over_unheard(phase_told_by: int) -> History:
    """A run whose first attempt trained a step that its second one stores."""
    told: list[tuple[str, int, int, object]] = [
        ("state", 0, 0, "queued"),
        ("state", 0, 1, "preparing"),
        ("state", 0, 2, "preparing"),
        ("metrics", 1, 2, 3.0),
        ("rewound", 0, 2, None),
    ]
    told.insert(1 + phase_told_by, ("phase", 0, phase_told_by, None))
    events = [
        event(seq, kind, step, owner, 100.0 + 9 * seq, what) for seq, (kind, step, owner, what) in enumerate(told, 1)
    ]
    return replace(small_history(), events=events, journals={(RUN, 1): [journal_line(events[4])]})


def dying(times: int) -> History:
    """A run whose trainers die before their first step."""
    told: list[tuple[str, int, object]] = [("state", 0, "queued")]
    for attempt in range(1, times + 1):
        told += [("state", attempt, "preparing"), *([("rewound", attempt, None)] if attempt > 1 else [])]
        told += [("state", attempt, "training"), ("state", attempt, "queued")]
    events = [event(seq, kind, 0, attempt, 100.0 + seq, what) for seq, (kind, attempt, what) in enumerate(told, 1)]
    attempts = [{"run_id": RUN, "number": number, "cause": "It was killed."} for number in range(1, times + 1)]
    return replace(small_history(), events=events, attempts=attempts, journals={})


def freed(times: int, code: str = "") -> History:
    """A run that is taken and given back before its first step, and is paused at last where a code says so."""
    told: list[tuple[int, object]] = [(0, "queued")]
    for attempt in range(1, times + 1):
        told += [(attempt, "preparing"), (attempt, "queued")]
    events = [event(seq, "state", 0, attempt, 100.0 + seq, what) for seq, (attempt, what) in enumerate(told, 1)]
    if code:
        events[-1]["data"] |= {"state": "paused", "intent": "pause", "cause": {"code": code}}
    attempts = [{"run_id": RUN, "number": number, "cause": "queued"} for number in range(1, times + 1)]
    return replace(small_history(), events=events, attempts=attempts, journals={})


def test_a_history_can_be_kept_and_read_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    history, path = small_history(), tmp_path_factory.mktemp("history") / "kept" / "history.json"
    history.save(path)
    from tests.faults.history import load

    assert load(path) == history
    assert history.of_run("another").events == []
    assert SUPERVISOR in {look.pid for look in history.of_run("another").samples}


def test_what_an_attempt_measures_once_more_at_the_step_that_it_goes_on_from_is_told_once() -> None:
    """Its checkpoint owed the measurement yet, which the attempt before had made up for."""
    told = [("metrics", 1, 1, 3.0), ("rewound", 1, 2, None), ("metrics", 2, 2, 2.5)]
    first, rewound, second = (
        event(seq, kind, step, owner, 100.0 + seq, what) for seq, (kind, step, owner, what) in enumerate(told, 1)
    )
    once_more = journal_line(event(9, "metrics", 1, 2, 102.5, 3.0))
    journals = {(RUN, 1): [journal_line(first)], (RUN, 2): [once_more, journal_line(second)]}
    history = replace(small_history(), events=[first, rewound, second], journals=journals)
    (story,) = stories(replace(history, runs=[row | {"total_steps": 2} for row in history.runs]))
    assert [line.step for line in story.trained] == [line.step for line in story.drawn] == [1, 2]
    assert list(each_step_is_told_once_as_it_was_trained(story)) == []
