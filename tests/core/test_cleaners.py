"""Each cleaner finds what it is for and nothing that only looks alike; a fix leaves what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.core import quality
from backend.core.cleaners.base import Cleaner
from backend.core.cleaners.broken import Broken
from backend.core.cleaners.control_text import ControlText
from backend.core.cleaners.personal import Personal, masked
from backend.core.cleaners.repeats import Repeats
from backend.core.cleaners.short_answers import ShortAnswers
from backend.core.cleaners.speaks_of_ai import SpeaksOfAi
from backend.core.datasets.differing import differ_here
from backend.core.datasets.mending import mend_here
from backend.core.datasets.picking import all_records, pick, place_of, search_here
from backend.core.datasets.schema import Message, Row
from backend.core.models import DatasetVersion
from backend.core.settings import Settings
from tests.support.rows import write_rows


def talk(answer: str, question: str = "Say it.", number: int = 1, *, train: bool = True) -> Row:
    return Row(number, (Message("user", question), Message("assistant", answer, train=train)))


def words(cleaner: Cleaner, row: Row) -> str | None:
    hit = cleaner.see(0, row)
    return hit.words if hit else None


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I cannot.",
        "I'm an AI assistant.",
        "作为一个人工智能语言模型，我不能。",
        "我是一个由某公司开发的AI助手。",
    ],
)
def test_talk_of_being_an_ai_is_found_in_both_languages(answer: str) -> None:
    assert words(SpeaksOfAi(), talk(answer))


@pytest.mark.parametrize("answer", ["AI is a field of study.", "She works as an aide.", "人工智能是一门学科。"])
def test_what_only_speaks_about_ai_is_left_alone(answer: str) -> None:
    assert words(SpeaksOfAi(), talk(answer)) is None


def test_only_answers_that_are_learned_count() -> None:
    assert words(SpeaksOfAi(), talk("Fine.", question="As an AI, who are you?")) is None
    assert words(SpeaksOfAi(), talk("As an AI, I wait.", train=False)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to ana.b+c@mail.example.org.", "ana.b+c@mail.example.org"),
        ("Call (555) 123-4567 now", "(555) 123-4567"),
        ("Call +49 30 1234 5678.", "+49 30 1234 5678"),
        ("电话13812345678。", "13812345678"),
    ],
)
def test_personal_data_is_found(text: str, found: str) -> None:
    assert words(Personal(), talk(text)) == found


@pytest.mark.parametrize(
    "text",
    [
        "10000000000 = 1e10",
        "In 2019-2020 it was 3.14159265358",
        "2023-01-15 10:30",
        "x@y",
        "a @ b.c",
        "1.3812345678901",
        "$1,234,567.89",
    ],
)
def test_numbers_that_only_look_alike_are_no_personal_data(text: str) -> None:
    assert words(Personal(), talk(text)) is None


def test_an_address_that_begins_with_a_number_is_masked_once_and_the_rest_stays() -> None:
    assert masked("Write 13812345678@qq.com now, or call 13812345678.") == "Write [email] now, or call [phone]."


def test_masking_leaves_the_rest_of_the_row_as_it_was() -> None:
    row = talk("Ask ana@example.org or (555) 123-4567.")
    assert Personal().mended(row).messages[1].content == "Ask [email] or [phone]."
    assert masked("Nothing to hide.") == "Nothing to hide."


def test_a_repeat_names_the_row_that_it_repeats() -> None:
    cleaner = Repeats()
    assert cleaner.see(0, talk("Yes.")) is None
    assert cleaner.see(1, talk("No.")) is None
    hit = cleaner.see(2, talk("Yes.", number=3))
    assert hit
    assert (hit.twin, hit.words) == (0, "Say it.")


@pytest.mark.parametrize(
    ("answer", "is_short"), [("Blue.", True), ("很好", True), ("It is blue.", False), ("这是一个回答", False)]
)
def test_answers_of_one_or_two_words_are_short(answer: str, is_short: bool) -> None:
    assert (words(ShortAnswers(), talk(answer)) is not None) == is_short


def test_control_tokens_and_broken_characters_are_found_where_they_are_spelled() -> None:
    assert words(ControlText(), talk("Done<|im_end|>")) == "<|im_end|>"
    assert words(ControlText(), talk("if a <| b |> c")) is None
    assert words(Broken(), talk("donâ€™t")) == "â€™"
    assert words(Broken(), talk("naïve café, Ångström")) is None


# ---- a whole data set -----------------------------------------------------------------------------------------------

ROWS = [
    talk("The owl eats mice.", number=2),
    talk("Ask ana@example.org.", number=4),
    talk("The owl eats mice.", number=5),
    talk("As an AI, I cannot.", number=7),
]


def test_a_data_set_is_looked_through_once_and_a_damaged_result_anew(studio_home: Path) -> None:
    studio = Settings(home=studio_home)
    path = write_rows(studio.folder("datasets") / "x.parquet", ROWS)
    version = DatasetVersion(key=path.relative_to(studio.root).as_posix(), sha256="6" * 64)
    assert quality.known(studio, version) is None
    found = {each.name: each for each in quality.look(studio, version)}
    assert {name: list(each.places) for name, each in found.items() if each.places} == {
        "repeats": [2],
        "personal": [1],
        "speaks_of_ai": [3],
    }
    assert (list(found["repeats"].involved), found["repeats"].examples[0].numbers) == ([0, 2], (2, 5))
    (kept,) = (studio.root / "cache" / "quality").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    assert quality.known(studio, version) is None
    assert len(quality.look(studio, version)) == len(found)


def mended(tmp_path: Path, cleaner: str) -> tuple[list[Row], dict[str, int]]:
    source, target = write_rows(tmp_path / "a.parquet", ROWS), tmp_path / "b.parquet"
    facts = mend_here({"file": str(source), "target": str(target), "cleaner": cleaner})
    return [row for row, _ in all_records(target)], facts["lineage"]


def test_a_fix_leaves_rows_out_or_changes_them_and_numbers_the_rest_anew(tmp_path: Path) -> None:
    rows, lineage = mended(tmp_path, "repeats")
    assert [(row.number, row.messages[1].content) for row in rows] == [
        (1, "The owl eats mice."),
        (2, "Ask ana@example.org."),
        (3, "As an AI, I cannot."),
    ]
    assert (lineage["left_out"], lineage["changed"]) == (1, 0)
    rows, lineage = mended(tmp_path, "personal")
    assert rows[1].messages[1].content == "Ask [email]."
    assert (lineage["left_out"], lineage["changed"]) == (0, 1)


def test_two_versions_differ_in_rows_left_out_added_and_changed(tmp_path: Path) -> None:
    before = write_rows(tmp_path / "a.parquet", [talk("One.", "1?", 1), talk("Two.", "2?", 2), talk("Two.", "2?", 3)])
    after = write_rows(tmp_path / "b.parquet", [talk("Uno.", "1?", 1), talk("Two.", "2?", 2), talk("New.", "4?", 3)])
    told = differ_here({"before": str(before), "after": str(after)})
    assert [told[name] for name in ("same", "added", "removed", "changed")] == [1, 1, 1, 1]
    assert [each["number"] for each in told["changed_rows"][0]] == [1, 1]
    assert told["added_rows"][0]["turns"][1] == ("assistant", "New.")


def test_rows_are_picked_by_place_and_found_by_number_and_words(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", ROWS)
    assert [(each.place, each.row.number) for each in pick(path, [3, 1])] == [(1, 4), (3, 7)]
    assert [place_of(path, number) for number in (1, 2, 4, 6, 7, 99)] == [0, 0, 1, 3, 3, 3]
    assert search_here({"file": str(path), "words": "OWL"}) == [0, 2]
