"""What the page of figures says of what was measured."""

from __future__ import annotations

import pytest

from tests.hostile.report import MOST_LOAD, MOST_MB, goals, page, reasons_against_keeping, taken
from tests.hostile.rows import ROWS, WITHOUT
from tests.hostile.studio import IN_A_BROWSER, INNOCENT, SECONDS, Clock, Cost, Studio
from tests.support.figures import CHANGED, all_hold

QUICK = Cost(answer_seconds=0.5, all_mib=100)
WHOLE = {f"{row} an attack": QUICK for row in ROWS if row not in WITHOUT}


def test_a_row_is_as_slow_and_as_large_as_the_worst_of_its_attacks() -> None:
    costs = {
        f"{INNOCENT}a file": Cost(answer_seconds=9),
        "a tokenizer of no row": Cost(answer_seconds=9),
        "5 a bomb, in one": Cost(answer_seconds=1.5, all_mib=100),
        "5 a bomb, in pieces": Cost(answer_seconds=1, all_mib=200),
        f"5 a bomb{IN_A_BROWSER}": Cost(answer_seconds=1.75, all_mib=150),
    }
    [row] = taken(costs)
    assert (row.number, row.attacks, row.seconds, row.browser_seconds) == (5, 3, 1.5, 1.75)
    assert row.memory_mb == pytest.approx(200 * 1.048576)
    assert row.holds


@pytest.mark.parametrize(
    "attack",
    [
        {"5 a bomb": Cost(answer_seconds=SECONDS + 0.1)},
        {f"5 a bomb{IN_A_BROWSER}": Cost(answer_seconds=SECONDS + 0.1)},
        {"5 a bomb": Cost(all_mib=MOST_MB)},
    ],
)
def test_what_took_too_long_or_too_much_is_told_by_its_row(attack: dict[str, Cost]) -> None:
    assert all_hold(goals(taken(WHOLE)))
    [missed] = [row for row in goals(taken(WHOLE | attack)) if row.holds is False]
    assert (missed.what, missed.found) == ("rows over 2 s or 512 MB", "5")
    assert "| 5 | gzip" in page(WHOLE | attack, "abc", 0.1)
    assert page(WHOLE | attack, "abc", 0.1).count("MISSED") == 2


def test_a_row_that_was_left_out_is_missed() -> None:
    some = {what: cost for what, cost in WHOLE.items() if not what.startswith("7 ")}
    [missed] = [row for row in goals(taken(some)) if row.holds is False]
    assert missed.what == "rows measured"


def test_a_page_is_kept_of_a_commit_as_it_is_on_a_quiet_machine_where_no_row_is_missed() -> None:
    slow = WHOLE | {"5 a bomb": Cost(answer_seconds=SECONDS + 0.1)}
    assert reasons_against_keeping(taken(WHOLE), "abc", MOST_LOAD) == []
    for costs, commit, load, why in (
        (WHOLE, f"abc{CHANGED}", 0.1, "changed since abc"),
        (WHOLE, "abc", MOST_LOAD + 0.1, "a load of 1.1"),
        (slow, "abc", 0.1, "over 2 s or 512 MB: 5"),
        (dict(list(WHOLE.items())[1:]), "abc", 0.1, "rows measured: 78 of 80"),
    ):
        [told] = reasons_against_keeping(taken(costs), commit, load)
        assert why in told


def test_no_two_attacks_are_measured_by_one_name(studio: Studio) -> None:
    """The figure of the second would take the place of the first's."""
    with studio.measured("an attack of no row"):
        pass
    with pytest.raises(AssertionError, match="measured already"), studio.measured("an attack of no row"):
        pass


def test_an_answer_is_timed_from_the_last_byte_that_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "send_request_body.started": 9.0,
        "send_request_body.complete": 10.0,
        "receive_response_headers.complete": 11.0,
        "response_closed.complete": 13.0,
    }
    answered = list[float]()
    clock = Clock(answered)
    for event, seconds in told.items():
        monkeypatch.setattr("time.monotonic", lambda seconds=seconds: seconds)
        clock(f"http11.{event}", {})
    assert answered == [3.0]
