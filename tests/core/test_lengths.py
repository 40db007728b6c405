"""Lengths are measured by the trainer's own code, and every cut is told as the trainer would make it."""

from __future__ import annotations

import random
import shutil
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from backend.core import lengths
from backend.core.assignment import DataFile
from backend.core.datasets.schema import Message, Row
from backend.core.errors import Invalid, StudioError
from backend.core.lengths import BARS, TALLIES, Lengths, Lens, Outcome, Steps, Truncation, save
from backend.core.models import DatasetVersion
from backend.core.recipe import Recipe
from backend.core.rendering.measure import Ruler
from backend.core.rendering.prepare import prepare
from backend.core.rendering.tokenizer import load_tokenizer
from backend.core.rendering.types import Prepared, Report
from backend.core.settings import Settings
from tests.support.rows import write_rows

LIMITS = (8, 9, 10, 17, 24, 33, 48, 64, 100, 180, 256, 300)


def mixed_rows() -> list[Row]:
    """Single and several turns, some that are only read, some very long, some with a long question and a short answer."""
    draw = random.Random(1)
    rows = []
    for number in range(1, 61):
        turns: list[Message] = []
        if number % 7 == 0:
            turns.append(Message("system", "Be brief. " * draw.randint(1, 4)))
        for _ in range(1 + number % 3):
            turns.append(Message("user", "What eats hay? " * draw.randint(1, 9)))
            turns.append(Message("assistant", "The cow. " * draw.randint(1, 12), train=number % 5 != 0))
        rows.append(Row(number, tuple(turns)))
    return rows


def text_rows() -> list[Row]:
    return [Row(number, text="The owl eats mice. " * number) for number in range(1, 25)]


@dataclass(frozen=True)
class Measured:
    file: DataFile
    prepared: Prepared
    whole: Lengths


def measured(tmp_path: Path, base: Path, rows: list[Row], *, answers_only: bool = True) -> Measured:
    from backend.core.rendering.measure import measure_here

    path, target = write_rows(tmp_path / "rows.parquet", rows), tmp_path / "lengths.z"
    measure_here(
        {
            "file": str(path),
            "target": str(target),
            "model_folder": str(base),
            "chat_template": "auto",
            "assistant_only_loss": answers_only,
        }
    )
    found = lengths.KEPT.load(target)
    assert found
    prepared = load_tokenizer(base, "auto", conversations=rows[0].text is None)
    return Measured(DataFile(name="rows", version=1, path=path), prepared, found)


def trainers_report(given: Measured, max_length: int, truncation: Truncation, *, answers_only: bool = True) -> Report:
    data = {"max_length": max_length, "truncation": truncation, "assistant_only_loss": answers_only}
    body = {"model": "tiny", "data": {"sets": ["rows"], **data}, "evaluation": {"eval_share": 0}}
    return prepare([given.file], given.prepared, Recipe.model_validate(body), seed=1).report


@pytest.mark.parametrize("truncation", ["drop", "cut_end", "cut_start"])
@pytest.mark.parametrize("kind", ["answers", "everything", "text"])
def test_every_cut_is_told_as_the_trainer_makes_it(
    tmp_path: Path, tiny_base: Path, kind: str, truncation: Truncation
) -> None:
    rows = text_rows() if kind == "text" else mixed_rows()
    given = measured(tmp_path, tiny_base, rows, answers_only=kind == "answers")
    for limit in LIMITS:
        told = given.whole.at(limit, truncation)
        try:
            report = trainers_report(given, limit, truncation, answers_only=kind == "answers")
        except Invalid:
            assert told.rows == 0  # nothing would be trained
            continue
        assert counts(told) == {
            "rows": report.train_rows,
            "over": report.over.total,
            "cut": report.cut.total,
            "dropped": report.dropped.total,
            "tokens": report.tokens,
            "trained_tokens": report.trained_tokens,
        }, limit
        ends_cut = next((each.message for each in report.warnings if each.code == "rows.end_cut"), None)
        if truncation == "cut_end":
            used_without_end = told.rows - told.ends_learned
            assert (ends_cut is None) == (used_without_end == 0)
            assert ends_cut is None or ends_cut.startswith(f"{used_without_end} row")


def counts(told: Outcome) -> dict[str, int]:
    names = ("rows", "over", "cut", "dropped", "tokens", "trained_tokens")
    return {name: told.as_json()[name] for name in names}


def test_a_refusal_counts_the_rows_that_are_too_long_as_the_trainer_does(tmp_path: Path, tiny_base: Path) -> None:
    given = measured(tmp_path, tiny_base, mixed_rows())
    told = given.whole.at(48, "refuse")
    with pytest.raises(Invalid) as refusal:
        trainers_report(given, 48, "refuse")
    assert refusal.value.problems[0].message.startswith(f"{told.over} of {given.whole.rows} rows are longer")
    assert f"the longest is {given.whole.longest}, " in refusal.value.problems[0].message


def test_the_model_reads_no_more_than_its_context(tmp_path: Path, tiny_base: Path) -> None:
    given = measured(tmp_path, tiny_base, text_rows())
    assert given.whole.context_length == 256
    assert given.whole.at(100_000, "cut_end").as_json() == given.whole.at(256, "cut_end").as_json()


def test_the_rows_that_are_longer_are_named_and_found_in_turn(tmp_path: Path, tiny_base: Path) -> None:
    whole = measured(tmp_path, tiny_base, text_rows()).whole
    longer = list(whole.longer(60))
    assert longer == [place for place, length in enumerate(whole.tokens) if length > 60]
    assert whole.next_longer(60, longer[0]) == longer[1]
    assert whole.next_longer(60, longer[-1]) == longer[0]
    assert of_lengths([20, 30]).next_longer(512, 0) is None


def test_a_histogram_counts_every_row_and_one_giant_does_not_press_the_others_into_a_bar() -> None:
    whole = of_lengths([*range(20, 220), 50_000])
    bars = whole.histogram()
    assert sum(rows for _, _, rows in bars) == 201
    assert len(bars) <= BARS
    assert sum(rows > 0 for _, _, rows in bars) > 10
    assert bars[-1][2] >= 1


def test_a_hundred_thousand_rows_are_cut_in_far_less_than_thirty_milliseconds() -> None:
    draw = random.Random(3)
    whole = of_lengths([draw.randint(20, 4000) for _ in range(100_000)])
    whole.at(512, "cut_end")  # the running sums are made once
    started = time.perf_counter()
    for limit in range(64, 4096, 64):
        for truncation in get_args(Truncation):
            whole.at(limit, truncation)
    assert (time.perf_counter() - started) / 252 < 0.03


def test_quantiles_are_lengths_of_rows() -> None:
    steps = Steps(Counter([1, 2, 3, 4, 100]))
    assert [steps.quantile(share) for share in (0.2, 0.5, 0.8, 0.95, 1.0)] == [1, 3, 4, 100, 100]
    assert Steps({}).quantile(0.5) == 0


def of_lengths(tokens: list[int]) -> Lengths:
    """Rows that learn all but their first 10 tokens."""
    ruler = Ruler()
    for length in tokens:
        ruler._note(length, length - 10, length - 1, 0)
        ruler.tallies["all"][length] += 1
        ruler._teach(length, [(10, length)], length - 1, length - 10)
    return Lengths(
        rows_in_all=len(tokens),
        context_length=None,
        end_token="<|im_end|>",
        template_source="model",
        notes=(),
        problems=(),
        tallies=ruler.tallies,
        **ruler.arrays,
    )


# ---- kept on disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def studio(studio_home: Path, tiny_base: Path) -> Settings:
    return Settings(home=studio_home, model_roots=(tiny_base.parent,))


def stored(studio: Settings, rows: list[Row]) -> DatasetVersion:
    path = write_rows(studio.folder("datasets") / "x.parquet", rows)
    return DatasetVersion(key=path.relative_to(studio.root).as_posix(), sha256="5" * 64)


def test_what_was_measured_is_known_from_then_on(studio: Settings, tiny_base: Path) -> None:
    version, lens = stored(studio, mixed_rows()), Lens(tiny_base.name)
    assert lengths.known(studio, version, lens) is None
    told: list[dict[str, int]] = []
    found = lengths.measure(studio, version, lens, on_progress=told.append)
    assert told[-1] == {"done": 60, "of": 60}
    again = lengths.known(studio, version, lens)
    assert again
    assert again.at(64, "cut_end") == found.at(64, "cut_end")
    assert lengths.known(studio, version, Lens(tiny_base.name, assistant_only_loss=False)) is None
    assert [path.suffix for path in (studio.root / "cache" / "lengths").iterdir()] == [".z"]


def test_a_damaged_file_is_measured_anew(studio: Settings, tiny_base: Path) -> None:
    version, lens = stored(studio, text_rows()), Lens(tiny_base.name)
    whole = lengths.measure(studio, version, lens)
    (kept,) = (studio.root / "cache" / "lengths").iterdir()
    for damaged in (kept.read_bytes()[:-20], b"", b"not zlib at all"):
        kept.write_bytes(damaged)
        assert lengths.known(studio, version, lens) is None
        assert lengths.measure(studio, version, lens).longest == whole.longest


def test_a_changed_tokenizer_is_another_lens(studio: Settings, tiny_base: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, studio.folder("models") / "copy"))
    version, lens = stored(studio, text_rows()), Lens("copy")
    lengths.measure(studio, version, lens)
    (copy / "tokenizer_config.json").write_text((copy / "tokenizer_config.json").read_text() + "\n")
    assert lengths.known(studio, version, lens) is None


def test_a_model_that_is_not_there_is_told_so(studio: Settings) -> None:
    version = stored(studio, text_rows())
    assert lengths.known(studio, version, Lens("../etc")) is None
    with pytest.raises(StudioError):
        lengths.measure(studio, version, Lens("no-such-model"))


def test_rows_that_the_template_refuses_are_counted_with_the_reason(tmp_path: Path, tiny_base: Path) -> None:
    bad = Row(2, (Message("user", "Hi"), Message("assistant", "Ho", tool_calls="no json")))
    whole = measured(tmp_path, tiny_base, [*mixed_rows()[:1], bad]).whole
    assert (whole.rows, whole.refused, whole.problems[0]["where"]) == (2, 1, "row 2")


def test_a_saved_file_holds_all_that_was_measured(tmp_path: Path) -> None:
    whole = of_lengths([30, 40, 50])
    save(whole, tmp_path / "x.z")
    again = lengths.KEPT.load(tmp_path / "x.z")
    assert again
    assert again.tokens == array("I", [30, 40, 50])
    assert {name: dict(again.tallies[name]) for name in TALLIES} == {
        name: dict(whole.tallies[name]) for name in TALLIES
    }
