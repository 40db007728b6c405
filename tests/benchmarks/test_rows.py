"""What benchmarks found out is judged, kept and told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, Benchmark, chosen, main
from benchmarks.rows import LATEST, MOST_GROWTH, Asked, Row, growth, keep, missed, row, table
from tests.conftest import ROOT

REQUIRED = {"id", "what", "ours", "peer", "unit", "ratio", "goal", "holds"}
SHAPE = REQUIRED | {"beside", "date", "commit"}
NOT_EVERYWHERE = {"1d", "1e", "5a-large"}
"""They need an accelerator, or 32 GB of disk."""


def test_a_cost_is_better_where_it_is_less_and_a_rate_where_it_is_more() -> None:
    assert row("1c", "memory", "MiB", 50, 600, least_ratio=10).ratio == 12
    assert row("1a", "speed", "tokens/s", 3000, 1000, more_is_better=True, least_ratio=2.5).ratio == 3


def test_a_row_holds_where_every_goal_is_met_and_both_sides_did_the_same() -> None:
    assert row("2a", "call", "µs", 4, 44, least_ratio=8, most=5).holds
    assert row("2a", "call", "µs", 6, 66, least_ratio=8, most=5).holds is False
    assert row("2a", "call", "µs", 4, 8, least_ratio=8, most=5).holds is False
    assert row("5a", "merge", "s", 1, 2, least_ratio=1.3, equal=False).holds is False
    assert row("1d", "speed", "t/s", 14_000, least=13_500).holds
    assert row("1d", "speed", "t/s", 13_000, least=13_500).holds is False
    assert row("pages", "first paint", "ms", 80).holds is None


def test_what_grows_from_any_size_to_a_larger_one_is_told_though_the_first_was_dear() -> None:
    grown = growth("2c-growth", "work", [100, 10, 14], at=(1, 10, 100), of="readers", unit="µs", digits=0)
    assert (grown.ours, grown.holds) == (1.4, False)
    assert grown.beside == "1, 10, 100 readers: 100 → 10 → 14 µs"
    assert growth("2c-growth", "work", [10, 10, 11], at=(1, 10, 100), of="readers", unit="µs").holds


def test_new_rows_replace_those_of_their_id_and_leave_the_others(tmp_path: Path) -> None:
    file = tmp_path / "latest.json"
    keep([row("1a", "speed", "t/s", 1), row("10b", "old", "s", 1)], file)
    keep([row("2a", "call", "µs", 1.23456, 44), row("1a", "speed", "t/s", 2)], file)
    kept = json.loads(file.read_text())
    assert [(each["id"], each["ours"]) for each in kept] == [("1a", 2), ("2a", 1.235), ("10b", 1)]
    assert all(each.keys() == SHAPE for each in kept)
    assert all(date.fromisoformat(each["date"]) for each in kept)
    assert all(re.fullmatch(r"([0-9a-f]{12}\+?)?", each["commit"]) for each in kept)


def test_a_missed_goal_is_told_as_such() -> None:
    slow = row("1a", "speed", "t/s", 1, 1, least_ratio=2, beside="losses 1 and 1")
    assert "[≥ 2×: MISSED]" in table([slow])
    assert "losses 1 and 1" in table([slow])
    assert missed([slow, row("1b", "speed", "t/s", 3, 1, more_is_better=True, least_ratio=2), slow]) == "missed: 1a"
    assert missed([row("pages", "first paint", "ms", 80)]) == "no goal was missed"


def test_benchmarks_are_chosen_by_name_or_by_the_id_of_a_row() -> None:
    assert [each.module for each in chosen(["1b", "merging"])] == ["training", "merging"]
    assert chosen([]) == list(BENCHMARKS)
    with pytest.raises(ValueError, match="there is no benchmark 9z"):
        chosen(["9z"])
    assert Asked(frozenset({"1a"})).wants("1a")
    assert not Asked(frozenset({"1a"})).wants("1b")


def test_a_benchmark_that_breaks_takes_no_others_figures_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(benchmark: Benchmark, _asked: Asked) -> list[Row]:
        if benchmark.module == "merging":
            raise OSError("no index answers")
        return [row(each, "told", "s", 1) for each in benchmark.ids]

    kept: list[list[Row]] = []
    monkeypatch.setattr(Benchmark, "measure", measure)
    monkeypatch.setattr("benchmarks.__main__.keep", kept.append)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "5a", "7d"])
    assert main() == 1
    assert [each.id for rows in kept for each in rows] == ["7d"]
    assert capsys.readouterr().out.endswith("not measured: merging\n")


def test_every_module_that_measures_is_listed_with_the_ids_of_its_rows() -> None:
    sources = {path.stem: path.read_text() for path in (ROOT / "benchmarks").glob("*.py")}
    assert {each.module for each in BENCHMARKS} == {name for name, text in sources.items() if "\ndef measure(" in text}
    for each in BENCHMARKS:
        assert {row_id for row_id in each.ids if f'"{row_id}"' not in sources[each.module]} == set(), each.module


def test_what_a_file_of_results_holds_is_what_benchmarks_tell() -> None:
    kept = json.loads(LATEST.read_text())
    told = {row_id for each in BENCHMARKS for row_id in each.ids}
    assert {each["id"] for each in kept} - NOT_EVERYWHERE == told - NOT_EVERYWHERE
    assert all(REQUIRED <= each.keys() <= SHAPE for each in kept)


def test_a_growth_that_was_kept_is_held_to_todays_goal() -> None:
    """The goals of the other rows stand where each is measured."""
    kept = [each for each in json.loads(LATEST.read_text()) if each["unit"].startswith("×")]
    assert {each["id"] for each in kept} - NOT_EVERYWHERE == set(MOST_GROWTH) - NOT_EVERYWHERE
    for each in kept:
        most, unit = MOST_GROWTH[each["id"]], each["unit"]
        assert unit in ("× the time", "× as much"), each["id"]
        assert (each["goal"], each["holds"]) == (f"≤ {most:g} {unit}", each["ours"] <= most), each["id"]


def test_a_growth_that_was_kept_is_the_worst_between_the_costs_that_stand_beside_it() -> None:
    for each in json.loads(LATEST.read_text()):
        if each["unit"].startswith("×"):
            told = each["beside"].partition(";")[0].partition(": ")[2].split(" → ")
            costs = [float(cost.split()[0].replace(",", "")) for cost in told]
            worst = growth(each["id"], "", costs, at=(), of="", unit="").ours
            assert each["ours"] == pytest.approx(worst, rel=0.01), each["id"]  # the costs are told with few digits


def test_the_script_for_accelerators_runs_without_one() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.accelerator", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "1d " in done.stdout
    assert "1e " in done.stdout
    assert done.stdout.count("; loss ") == 2


@pytest.mark.parametrize(("loss", "holds"), [(11.75, True), (11.7, False)])
def test_a_step_that_learns_something_else_than_the_peers_does_not_hold(loss: float, holds: bool) -> None:
    from benchmarks.accelerator import one_row

    side = {"tokens": 14_000.0, "gib": 30.0, "matmul_tflops": 700.0, "loss": 11.75}
    assert one_row("lora", {"ours": side, "trl": side | {"loss": loss}}, 14_000, "NVIDIA H100").holds is holds
