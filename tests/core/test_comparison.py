"""What can be said of several runs beside each other."""

from __future__ import annotations

from typing import Any

import pytest

from backend.core.comparison import Subject, Verdict, setting_rows, short_names, verdict
from backend.core.recipe import read_recipe

RECIPE: dict[str, Any] = {"model": "tiny", "data": {"sets": ["letters"]}, "method": "lora"}


def recipe(**changes: Any) -> dict[str, Any]:
    return read_recipe(RECIPE | changes).recipe.model_dump(mode="json")


def subject(name: str, loss: float | None, version: int = 1, **changes: Any) -> Subject:
    return Subject(name, recipe(**changes), [("letters", version)], loss)


def test_the_lowest_loss_leads_by_its_distance_to_the_next() -> None:
    found = verdict([subject("a", 1.5), subject("b", 1.25), subject("c", None), subject("d", 2.0)])
    assert found == Verdict("b", 0.25, (), 3)


def test_nobody_leads_where_one_alone_was_measured_or_two_are_equal() -> None:
    assert verdict([subject("a", 1.5), subject("b", None)]).best is None
    assert verdict([subject("a", 1.5), subject("b", 1.5)]) == Verdict(None, 0.0, (), 2)


@pytest.mark.parametrize(
    ("other", "obstacle"),
    [
        (subject("b", 1.0, version=2), "data"),
        (subject("b", 1.0, model="other"), "model"),
        (subject("b", 1.0, training={"seed": 7}), "held_back"),
        (subject("b", 1.0, evaluation={"eval_share": 0.3}), "held_back"),
        (subject("b", 1.0, data={"sets": ["letters"], "assistant_only_loss": False}), "learned"),
        (subject("b", 1.0, data={"sets": ["letters"], "truncation": "drop"}), "length"),
    ],
)
def test_losses_that_do_not_measure_the_same_are_not_ranked(other: Subject, obstacle: str) -> None:
    found = verdict([subject("a", 1.5), other])
    assert (found.best, found.obstacles) == (None, (obstacle,))


def test_other_rates_ranks_and_batches_stand_in_nobodys_way() -> None:
    other = subject("b", 1.0, training={"learning_rate": 1e-3}, method={"kind": "lora", "r": 64})
    assert verdict([subject("a", 1.5), other]).best == "b"


def test_settings_are_told_against_the_first_run() -> None:
    rows = {row.name: row for row in setting_rows([recipe(), recipe(method={"kind": "lora", "r": 4}), recipe()])}
    assert rows["method.r"].differs == (False, True, False)
    assert rows["method.r"].values[1] == 4
    assert not any(rows["training.learning_rate"].differs)


def test_a_setting_that_a_run_does_not_have_is_none() -> None:
    rows = {row.name: row for row in setting_rows([recipe(method="full"), recipe()])}
    assert rows["method.r"].values[0] is None
    assert rows["method.r"].differs == (False, True)


def test_short_names_leave_out_the_words_that_all_begin_with() -> None:
    assert short_names(["support-r8", "support-r16", "support-dora-r16"]) == ["r8", "r16", "dora-r16"]
    assert short_names(["a", "a 2"]) == ["a", "a 2"]
    assert short_names(["one", "other"]) == ["one", "other"]
    assert short_names(["x lora", "x lora 2"]) == ["lora", "lora 2"]
