"""What the checker says of people's words: which were lost, not obeyed, or forgotten by who took the run over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.checker import check
from tests.faults.history import History, Row, Said, Struck
from tests.faults.small import EVENTS, RATE, RUN, event, journal_line, moment, small_history
from tests.faults.story import seconds, stories
from tests.faults.words import (
    HEARD_SECONDS,
    a_change_is_made_and_holds,
    no_accepted_word_is_lost,
    put_to_the_test,
    who_was_told_to_end_trains_no_longer,
)

PAUSED_AT = 101.2
OTHER = "run-2"


def said(action: str, at: float) -> Row:
    return {"action": action, "subject": "owls", "at": moment(at), "data": {}}


def paused(history: History) -> History:
    """The run was told to pause while its first trainer was at work, before that one's first step."""
    events = list(history.events)
    events.insert(4, event(5, "state", 0, 1, PAUSED_AT, "training"))
    events[4]["data"]["intent"] = "pause"
    events = [row | {"seq": number} for number, row in enumerate(events, start=1)]
    row = history.runs[0] | {"seq": len(events)}
    words = [Said(RUN, "run.pause")]
    told = replace(history, events=events, runs=[row], words=words, audit=[said("run.pause", PAUSED_AT)])
    return replace(told, seen=[], is_followed=False)


def with_a_step_at(at: float, history: History) -> History:
    """The first trainer trains a step at that time, which is told no more."""
    line = journal_line(event(0, "metrics", 4, 1, at + 0.1, 2.0))
    return replace(history, journals=history.journals | {(RUN, 1): [*history.journals[RUN, 1], line]})


def changed(rates: dict[int, float], made_at: int | None = 3, value: float = 2 * RATE) -> History:
    """Two runs of four steps: one as it was launched, and one whose learning rate is changed at its second step. Its first
    trainer is killed after step 2, the second one trains the others. `made_at`: the step from which somebody said that the
    change holds."""
    told = [
        event(1, "state", 0, 1, 100.5, "preparing"),
        event(2, "metrics", 1, 1, 101.5, 3.0),
        event(3, "amendment", 1, 1, 101.6, None),
        event(4, "metrics", 2, 1, 102.5, 2.5),
        event(5, "state", 2, 2, 105.0, "preparing"),
        event(6, "rewound", 2, 2, 105.5, None),
        event(7, "amended", made_at or 0, 2, 106.0, None),
        event(8, "metrics", 3, 2, 106.5, 2.25),
        event(9, "metrics", 4, 2, 107.5, 2.0),
    ]
    told[2]["data"] = {"sequence": 1, "field": "training.learning_rate", "value": value}
    told[6]["data"] = {"sequence": 1}
    if made_at is None:
        told[6] |= {"kind": "facts"}
    for row in told:
        if row["kind"] == "metrics":
            row["data"]["values"]["learning_rate"] = rates[row["step"]]
    plain = [event(number, "metrics", number, 1, 100.0 + number, 1.0) | {"run_id": OTHER} for number in (1, 2, 3, 4)]
    for row in plain:
        row["data"]["values"]["learning_rate"] = RATE * (5 - row["step"]) / 4
    journals = {
        (RUN, attempt): [journal_line(row) for row in told if row["kind"] == "metrics" and row["attempt"] == attempt]
        for attempt in (1, 2)
    }
    small = small_history()
    runs = [small.runs[0], small.runs[0] | {"id": OTHER, "name": "mice"}]
    journals[OTHER, 1] = [journal_line(row) for row in plain]
    return replace(small, runs=runs, events=[*told, *plain], journals=journals, attempts=small.attempts)


HALF = {step: RATE * (5 - step) / 4 for step in (1, 2)}
HELD = HALF | {step: 2 * RATE * (5 - step) / 4 for step in (3, 4)}
FORGOTTEN = {step: RATE * (5 - step) / 4 for step in (1, 2, 3, 4)}


def on_changes(history: History) -> list[str]:
    return list(a_change_is_made_and_holds(history, stories(history)))


def test_a_word_that_was_taken_told_and_obeyed_breaks_no_rule() -> None:
    assert check(paused(small_history())) == []


@pytest.mark.parametrize("lost", ["audit", "words"])
def test_an_accepted_word_that_is_written_down_nowhere_is_lost(lost: str) -> None:
    history = replace(small_history(), words=[Said(RUN, "run.pause")])
    (violation,) = check(history if lost == "audit" else replace(history, words=[Said("run-9", "run.pause")]))
    assert (violation.rule, "run.pause was accepted 1 times, and 0" in violation.what) == (
        "no accepted word is lost",
        True,
    )


def test_a_word_that_no_event_tells_is_lost() -> None:
    """The next state is told with another intent."""
    (violation,) = check(replace(small_history(), audit=[said("run.pause", PAUSED_AT)]))
    assert (violation.rule, "nothing tells of run.pause" in violation.what) == ("no accepted word is lost", True)


def test_a_change_that_no_event_tells_is_lost() -> None:
    (violation,) = check(replace(small_history(), audit=[said("run.amend", PAUSED_AT)]))
    assert (violation.rule, "nothing tells of run.amend" in violation.what) == ("no accepted word is lost", True)


def test_each_of_two_words_is_told_by_an_event_of_its_own() -> None:
    """Two pauses are written down, and one state tells of them."""
    history = paused(small_history())
    (violation,) = check(replace(history, audit=[*history.audit, said("run.pause", PAUSED_AT - 0.1)]))
    assert (violation.rule, "nothing tells of run.pause" in violation.what) == ("no accepted word is lost", True)


@pytest.mark.parametrize(("values", "lost"), [([2 * RATE], []), ([3 * RATE], ["0.006"]), ([2 * RATE] * 2, ["0.004"])])
def test_a_change_is_told_with_the_value_that_was_asked_for(values: list[float], lost: list[str]) -> None:
    history = changed(HELD)
    audit = [said("run.amend", 101.55)] * len(values)
    words = [Said(RUN, "run.amend", value) for value in values]
    found = list(no_accepted_word_is_lost(replace(history, words=words, audit=audit), stories(history)))
    assert [each for each in found if "learning rate" in each] == [
        f"run run-1: a learning rate of {value} was accepted, and no event tells it" for value in lost
    ]


@pytest.mark.parametrize(
    ("total_steps", "struck", "count"),
    [
        (1000, [], 1),
        (4, [], 0),
        (1000, [Struck(102.0, 1, 7, "postgres.kill", "training", "postgres", healed=103.0)], 0),
        (1000, [Struck(101.0, 1, 7, "postgres.kill", "training", "postgres", healed=101.8)], 0),
        (1000, [Struck(102.0, 1, 7, "web.kill", "training", "web", healed=103.0)], 1),
    ],
    ids=["long before the end", "at the end", "Postgres away", "Postgres away before", "the web away"],
)
def test_words_that_had_to_be_obeyed_at_once_are_counted(total_steps: int, struck: list[Struck], count: int) -> None:
    """The run is paused after its second step, and whoever holds it reads that when its checkpoint is stored."""
    history = small_history()
    events = list(history.events)
    events.insert(6, event(7, "state", 2, 1, 102.55, "training"))
    events[6]["data"]["intent"] = "pause"
    events = [row | {"seq": number} for number, row in enumerate(events, start=1)]
    row = history.runs[0] | {"total_steps": total_steps}
    audit = [said("run.pause", 102.54), said("run.resume", 103.0)]
    told = replace(history, runs=[row], events=events, audit=audit, struck=struck)
    assert put_to_the_test(told, stories(told)) == count


def test_a_trainer_that_goes_on_long_after_its_pause_was_read_is_told() -> None:
    read_at = seconds(moment(EVENTS[4][3]))
    in_time, late = (with_a_step_at(read_at + HEARD_SECONDS + by, paused(small_history())) for by in (-0.5, 0.5))
    assert [list(who_was_told_to_end_trains_no_longer(each, stories(each))) for each in (in_time, late)] == [
        [],
        ["run run-1: step 4 was trained after run.pause had been read"],
    ]


def test_one_that_stood_still_or_whose_pause_was_taken_back_is_no_deaf_trainer() -> None:
    late = with_a_step_at(EVENTS[4][3] + HEARD_SECONDS + 0.5, paused(small_history()))
    frozen = Struck(103.0, 1, 7, "trainer.freeze", "training", "trainer 11 of run-1/1", healed=106.5)
    cut = Struck(101.3, 1, 7, "network.host-postgres.cut", "training", "a-postgres", healed=106.5)
    resumed = replace(late, audit=[*late.audit, said("run.resume", 102.0)])
    for history in (replace(late, struck=[frozen]), replace(late, struck=[cut]), resumed):
        assert list(who_was_told_to_end_trains_no_longer(history, stories(history))) == []


@pytest.mark.parametrize(
    "other",
    [
        Struck(103.0, 1, 7, "network.host-postgres.cut", "training", "b-postgres", healed=106.5),
        Struck(90.0, 1, 7, "trainer.freeze", "training", "trainer 11 of run-1/1", healed=95.0),
        Struck(103.0, 1, 7, "web.kill", "training", "web", healed=106.5),
        Struck(103.0, 1, 7, "trainer.freeze", "training", "trainer 99 of run-7/1", healed=106.5),
        Struck(103.0, 1, 7, "trainer.starve", "training", "trainer 99 of run-1/2", healed=106.5),
        Struck(103.0, 1, 7, "host.freeze", "training", "supervisor-b", healed=106.5),
        Struck(96.0, 1, 7, "postgres.kill", "training", "postgres", healed=PAUSED_AT - 2),
    ],
)
def test_what_was_struck_elsewhere_or_long_before_is_no_excuse(other: Struck) -> None:
    late = with_a_step_at(EVENTS[4][3] + HEARD_SECONDS + 0.5, paused(small_history()))
    history = replace(late, struck=[other])
    assert len(list(who_was_told_to_end_trains_no_longer(history, stories(history)))) == 1


def test_who_was_taken_to_train_and_is_told_to_keep_while_it_prepares_may_have_trained() -> None:
    history = small_history()
    events = list(history.events)
    events.insert(2, event(3, "state", 0, 1, 100.8, "preparing"))
    events[2]["data"]["intent"] = "keep"
    kept = replace(history, events=[row | {"seq": number} for number, row in enumerate(events, start=1)])
    assert list(who_was_told_to_end_trains_no_longer(kept, stories(kept))) == []
    events[1]["data"]["intent"] = "keep"
    (told,) = who_was_told_to_end_trains_no_longer(kept, stories(kept))
    assert told == "run run-1: attempt 1 was to keep what is there, and trained step 1"


def test_a_clock_that_is_ahead_makes_nobody_deaf() -> None:
    late = with_a_step_at(EVENTS[4][3] + HEARD_SECONDS + 0.5, paused(small_history()))
    ahead = replace(late, clocks={"a": 3600.0})
    assert list(who_was_told_to_end_trains_no_longer(ahead, stories(ahead))) == []


def test_a_change_that_is_made_by_who_takes_the_run_over_and_holds_breaks_no_rule() -> None:
    assert on_changes(changed(HELD)) == []


def test_a_change_that_nobody_makes_is_told() -> None:
    assert on_changes(changed(FORGOTTEN, made_at=None)) == [
        "run run-1: attempt 2 trained step 3, and change 1 was not made"
    ]


def test_a_change_that_is_acknowledged_and_not_made_is_told() -> None:
    (told,) = on_changes(changed(FORGOTTEN))
    assert told == "run run-1: step 3 was trained with a rate of 0.001, where 0.002 is due"


def test_a_change_holds_no_earlier_than_is_told() -> None:
    (told,) = on_changes(changed(HELD, made_at=4))
    assert told == "run run-1: step 3 was trained with a rate of 0.002, where 0.001 is due"
