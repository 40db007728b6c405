from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.core.datasets.schema import Message, Row
from backend.core.errors import Invalid
from backend.core.recipe import Evaluation
from backend.core.rendering import IGNORE_INDEX, Dataset, Prepared
from backend.core.rendering.prepare import has_conversations, histogram, prepare
from backend.core.rendering.tokenizer import load_tokenizer
from tests.core.rendering.data import recipe, store, talk, talks
from tests.core.rendering.families import CHATML, FAMILIES, save

SEED = 42


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return load_tokenizer(save(tmp_path_factory.mktemp("model"), FAMILIES["qwen2.5"]))


def ids(dataset: Dataset) -> list[tuple[int, ...]]:
    return [tuple(example.input_ids.tolist()) for example in dataset.train]


def fingerprint(dataset: Dataset) -> str:
    parts = [part.tobytes() for each in (*dataset.train, *dataset.eval) for part in (each.input_ids, each.labels)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_labels_are_the_learned_ids_and_nothing_else(tmp_path: Path, prepared: Prepared) -> None:
    dataset = prepare([store(tmp_path, [talk(1, "Hi?", "Ho.")])], prepared, recipe(), seed=SEED)
    (example,) = dataset.train
    assert example.position_ids is None
    taught = example.labels[example.labels != IGNORE_INDEX]
    assert prepared.tokenizer.decode(taught) == "Ho.<|im_end|>"
    assert dataset.report.trained_tokens == len(taught)
    assert dataset.report.tokens == len(example.input_ids)


def test_without_weights_every_row_is_drawn_once(tmp_path: Path, prepared: Prepared) -> None:
    files = [store(tmp_path, talks(30), "a"), store(tmp_path, talks(7, first=100), "b")]
    dataset = prepare(files, prepared, recipe(sets=("a", "b")), seed=SEED)
    assert set(Counter(ids(dataset)).values()) == {1}
    assert [(each.rows, each.drawn) for each in dataset.report.sets] == [(30, 30), (7, 7)]


def test_weights_are_shares_of_the_rows_drawn(tmp_path: Path, prepared: Prepared) -> None:
    files = [store(tmp_path, talks(30), "a", weight=1), store(tmp_path, talks(10, first=100), "b", weight=3)]
    report = prepare(files, prepared, recipe(sets=("a", "b")), seed=SEED).report
    assert [each.drawn for each in report.sets] == [10, 30]
    assert report.trained_tokens == sum(each.trained_tokens for each in report.sets)


def test_the_rows_held_back_stay_held_back_when_the_set_grows(tmp_path: Path, prepared: Prepared) -> None:
    few = prepare([store(tmp_path, talks(60))], prepared, recipe(eval_share=0.2), seed=SEED)
    more = prepare([store(tmp_path, talks(120))], prepared, recipe(eval_share=0.2), seed=SEED)
    held, held_later = ({each.input_ids.tobytes() for each in dataset.eval} for dataset in (few, more))
    assert held < held_later
    assert few.report.eval_rows + few.report.train_rows == 60
    assert 4 <= len(held) <= 20


def test_equal_rows_are_never_on_both_sides(tmp_path: Path, prepared: Prepared) -> None:
    doubled = [replace(row, number=n) for n, row in enumerate(talks(40) * 3, start=1)]
    dataset = prepare([store(tmp_path, doubled)], prepared, recipe(eval_share=0.3), seed=SEED)
    train, measured = ({each.input_ids.tobytes() for each in side} for side in (dataset.train, dataset.eval))
    assert train
    assert measured
    assert not train & measured


def test_one_row_is_left_to_train_on(tmp_path: Path, prepared: Prepared) -> None:
    for count in (1, 2, 3):
        for seed in range(8):
            file = store(tmp_path, talks(count))
            assert prepare([file], prepared, recipe(eval_share=0.5), seed=seed).train


def test_the_same_seed_gives_the_same_rows_in_another_process(tmp_path: Path, prepared: Prepared) -> None:
    folder = save(tmp_path / "model", FAMILIES["qwen2.5"])
    file = store(tmp_path, talks(50))
    here = prepare([file], load_tokenizer(folder), recipe(eval_share=0.1, packing=True), seed=SEED)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from backend.core.rendering.prepare import prepare\n"
        "from backend.core.rendering.tokenizer import load_tokenizer\n"
        "from backend.core.assignment import DataFile\n"
        "from tests.core.rendering.data import recipe\n"
        "from tests.core.rendering.test_prepare import fingerprint\n"
        f"file = DataFile.model_validate_json({file.model_dump_json()!r})\n"
        f"prepared = load_tokenizer(Path({str(folder)!r}))\n"
        f"print(fingerprint(prepare([file], prepared, recipe(eval_share=0.1, packing=True), seed={SEED})))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": "."}
    command = [sys.executable, "-c", code]
    there = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert there.stdout.strip() == fingerprint(here)
    other = prepare([file], prepared, recipe(eval_share=0.1, packing=True), seed=SEED + 1)
    assert fingerprint(other) != fingerprint(here)


class TestPacking:
    def test_every_document_is_in_one_row_whole_with_positions_of_its_own(
        self, tmp_path: Path, prepared: Prepared
    ) -> None:
        file = store(tmp_path, talks(200))
        alone = prepare([file], prepared, recipe(max_length=256), seed=SEED)
        packed = prepare([file], prepared, recipe(max_length=256, packing=True), seed=SEED)
        documents: list[tuple[int, ...]] = []
        for example in packed.train:
            assert len(example.input_ids) <= 256
            assert example.position_ids is not None
            starts = np.flatnonzero(example.position_ids == 0)
            assert (example.labels[starts] == IGNORE_INDEX).all()
            for part, positions in zip(
                np.split(example.input_ids, starts[1:]), np.split(example.position_ids, starts[1:]), strict=True
            ):
                assert positions.tolist() == list(range(len(part)))
                documents.append(tuple(part.tolist()))
        assert Counter(documents) == Counter(ids(alone))
        assert packed.report.trained_tokens == alone.report.trained_tokens
        assert packed.report.examples == len(packed.train) < len(alone.train) / 2

    def test_it_learns_the_same_tokens(self, tmp_path: Path, prepared: Prepared) -> None:
        file = store(tmp_path, talks(50))
        sides = [prepare([file], prepared, recipe(packing=packing), seed=SEED).train for packing in (False, True)]
        taught = [sorted(np.concatenate([each.labels for each in side]).tolist()) for side in sides]
        assert taught[0] == taught[1]


def test_the_end_of_a_text_that_lost_its_beginning_is_not_missed(tmp_path: Path, prepared: Prepared) -> None:
    file = store(tmp_path, [Row(1, text="Once upon a time " * 20)])
    warned = {}
    for truncation in ("cut_start", "cut_end"):
        report = prepare([file], prepared, recipe(max_length=32, truncation=truncation), seed=SEED).report
        warned[truncation] = [each.code for each in report.warnings]
    assert warned == {"cut_start": [], "cut_end": ["rows.end_cut"]}


class TestRefusals:
    def test_longer_rows_are_refused_with_the_cost_of_each_way_out(self, tmp_path: Path, prepared: Prepared) -> None:
        file = store(tmp_path, [*talks(5), talk(6, "More?", "more " * 400), talk(7, "More?", "more " * 300)])
        with pytest.raises(Invalid) as refusal:
            prepare([file], prepared, recipe(max_length=256), seed=SEED)
        (problem,) = refusal.value.problems
        assert problem.code == "rows.too_long"
        assert problem.where == "row 6, row 7"
        assert "2 of 7 rows are longer than 256 tokens" in problem.message
        for way in ("max_length ", "drop", "cut_end", "cut_start"):
            assert way in problem.hint

    def test_no_longer_row_is_offered_than_the_model_can_read(self, tmp_path: Path, prepared: Prepared) -> None:
        file = store(tmp_path, [talk(1, "More?", "more and more of it " * 2000)])
        with pytest.raises(Invalid, match="the model's context is 4,096") as refusal:
            prepare([file], prepared, recipe(), seed=SEED)
        assert "max_length" not in refusal.value.problems[0].hint

    @pytest.mark.parametrize("packing", [False, True])
    def test_a_max_length_above_the_context_does_not_let_longer_rows_in(
        self, tmp_path: Path, prepared: Prepared, packing: bool
    ) -> None:
        file = store(tmp_path, [*talks(30), talk(31, "More?", "more and more of it " * 2000)])
        with pytest.raises(Invalid, match="longer than 4,096 tokens"):
            prepare([file], prepared, recipe(max_length=65_536, packing=packing), seed=SEED)

    def test_a_set_with_nothing_to_learn_is_refused(self, tmp_path: Path, prepared: Prepared) -> None:
        read_only = Row(3, messages=(Message("user", "Hi?"), Message("assistant", "Ho.", train=False)))
        with pytest.raises(Invalid, match="Nothing would be trained") as refusal:
            prepare([store(tmp_path, [read_only])], prepared, recipe(), seed=SEED)
        assert refusal.value.problems[0].where == "row 3"

    def test_an_end_token_that_would_be_masked_is_refused(self, tmp_path: Path) -> None:
        endless = CHATML.replace("<|im_end|>", "")
        folder = save(tmp_path / "model", replace(FAMILIES["gpt2-chatml"], template=endless))
        with pytest.raises(Invalid) as refusal:
            prepare([store(tmp_path, talks(3))], load_tokenizer(folder), recipe(), seed=SEED)
        assert [each.code for each in refusal.value.problems] == ["rows.end_masked"]
        assert refusal.value.problems[0].where == "row 1, row 2, row 3"

    def test_every_row_that_a_template_refuses_is_told_at_once(self, tmp_path: Path) -> None:
        prepared = load_tokenizer(save(tmp_path / "model", FAMILIES["gemma"]))
        system = [replace(row, messages=(Message("system", "Be brief."), *row.messages)) for row in talks(50)]
        with pytest.raises(Invalid) as refusal:
            prepare([store(tmp_path, [*system, *talks(2, first=60)])], prepared, recipe(), seed=SEED)
        assert [each.where for each in refusal.value.problems[:3]] == ["row 1", "row 2", "row 3"]
        assert refusal.value.problems[-1].message == "and 30 more rows that cannot be used."

    def test_a_prompt_that_leaves_no_room_to_answer_is_refused(self, tmp_path: Path, prepared: Prepared) -> None:
        asked = Evaluation(eval_share=0, prompts=("Hi?", "wh? " * 2000))
        body = recipe().model_copy(update={"evaluation": asked})
        with pytest.raises(Invalid, match="the model's context is 4,096") as refusal:
            prepare([store(tmp_path, talks(3))], prepared, body, seed=SEED)
        assert [each.where for each in refusal.value.problems] == ["evaluation.prompts.1"]

    def test_an_empty_set_is_refused(self, tmp_path: Path, prepared: Prepared) -> None:
        with pytest.raises(Invalid, match="no rows"):
            prepare([store(tmp_path, [])], prepared, recipe(), seed=SEED)


class TestLongerRows:
    ROWS = (talk(1, "Hi?", "Ho."), talk(2, "More?", "more " * 100), talk(3, "why " * 200, "So."))

    def test_drop_leaves_them_out_and_counts_them(self, tmp_path: Path, prepared: Prepared) -> None:
        report = prepare(
            [store(tmp_path, self.ROWS)], prepared, recipe(max_length=64, truncation="drop"), seed=SEED
        ).report
        assert (report.rows, report.train_rows, report.dropped.rows) == (3, 1, ("row 2", "row 3"))

    def test_cut_end_counts_what_is_cut_and_what_is_left_with_nothing(self, tmp_path: Path, prepared: Prepared) -> None:
        report = prepare(
            [store(tmp_path, self.ROWS)], prepared, recipe(max_length=64, truncation="cut_end"), seed=SEED
        ).report
        assert report.cut.rows == ("row 2", "row 3")
        assert report.dropped.rows == ("row 3",)
        assert report.train_rows == 2
        assert [each.where for each in report.warnings if each.code == "rows.end_cut"] == ["row 2"]

    def test_cut_start_keeps_the_ends_of_answers(self, tmp_path: Path, prepared: Prepared) -> None:
        dataset = prepare(
            [store(tmp_path, self.ROWS)], prepared, recipe(max_length=64, truncation="cut_start"), seed=SEED
        )
        assert dataset.report.train_rows == 3
        assert all(prepared.stop_token_ids[0] in example.labels for example in dataset.train)
        assert max(len(example.input_ids) for example in dataset.train) == 64


def test_rows_that_teach_nothing_are_left_out_with_a_warning(tmp_path: Path, prepared: Prepared) -> None:
    silent = Row(9, messages=(Message("user", "Anyone?"),))
    report = prepare([store(tmp_path, [*talks(3), silent])], prepared, recipe(), seed=SEED).report
    assert report.train_rows == 3
    assert [(each.code, each.where) for each in report.warnings] == [("rows.barren", "row 9")]


def test_rows_of_several_sets_are_named_with_their_set(tmp_path: Path, prepared: Prepared) -> None:
    files = [store(tmp_path, talks(3), "a"), store(tmp_path, [Row(1, messages=(Message("user", "Hm?"),))], "b")]
    report = prepare(files, prepared, recipe(sets=("a", "b")), seed=SEED).report
    assert report.warnings[0].where == "b, row 1"


def test_whether_a_set_holds_conversations_is_seen(tmp_path: Path) -> None:
    plain = store(tmp_path, [Row(1, text="Once upon a time")], "plain")
    assert not has_conversations([plain])
    assert has_conversations([plain, store(tmp_path, talks(1))])


def test_the_bars_of_a_histogram_hold_every_row() -> None:
    lengths = [1, 1, 47, 48, 1000]
    bars = histogram(lengths)
    assert sum(rows for _, _, rows in bars) == len(lengths)
    assert all(bars[n][1] == bars[n + 1][0] for n in range(len(bars) - 1))
    assert histogram([]) == ()
