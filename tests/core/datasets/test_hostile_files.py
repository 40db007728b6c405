"""Each file that is no good is refused in words, at its place, and quickly."""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.core.datasets.ingest import Order, ingest
from backend.core.errors import Conflict
from tests.core.datasets.files import LIMIT, Folder, alpaca, jsonl, packed

GOOD = '{"instruction": "Q?", "output": "A."}\n'


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a"])
def test_an_empty_file_is_called_empty(folder: Folder, name: str) -> None:
    assert folder.read(name, b"").error.message == "The file is empty."


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a"])
def test_spaces_are_no_rows(folder: Folder, name: str) -> None:
    assert folder.read(name, b"  \n \r\n\t ").error.message == "The file has no rows."


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "instruction,output\n"), ("a.json", "[]"), ("a.json", " [ ] ")]
)
def test_a_header_alone_or_an_empty_list_is_no_rows(folder: Folder, name: str, content: str) -> None:
    assert folder.read(name, content).error.message == "The file has no rows."


def test_a_cut_off_archive_is_called_damaged(folder: Folder) -> None:
    whole = packed(jsonl(alpaca(5000)))
    for content in (whole[: len(whole) // 2], whole[:-3], whole[:30] + b"\0\0\0" + whole[33:]):
        assert "archive is damaged" in folder.read("a.jsonl.gz", content).error.message


def test_a_small_parquet_that_decodes_to_gigabytes_is_refused(folder: Folder) -> None:
    sink = io.BytesIO()
    text = pa.array(["a" * 1000] * 100_000)
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for _ in range(3):
            writer.write_table(pa.table({"text": text}, schema=schema))
    assert len(sink.getvalue()) < 1_000_000
    error = folder.read("a.parquet", sink.getvalue(), limited=True).error
    assert error.code == "file.expands"
    assert "decoded size" in error.message


@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_whose_dictionary_repeats_one_text_a_million_times_is_refused(folder: Folder, nested: bool) -> None:
    """Arrow keeps such a column as numbers, and would count the text once."""
    rows = 1_000_000
    text: Any = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 4000]))
    column = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32)), text) if nested else text
    content = parquet(pa.table({"text": column}), compression="zstd")
    assert len(content) < 1_000_000
    assert folder.read("a.parquet", content, limited=True).error.code == "file.expands"


def test_a_damaged_parquet_is_called_damaged(folder: Folder) -> None:
    whole = parquet(pa.table({"text": ["words " * 50] * 500}))
    for content in (
        whole[: len(whole) // 2],
        b"PAR1" + b"\0" * 100 + struct.pack("<I", 0x7FFFFFFF) + b"PAR1",
        b"PAR1" + b"\0" * 8 + b"PAR1",
    ):
        assert "damaged Parquet" in folder.read("a.parquet", content, limited=True).error.message


def test_a_parquet_with_a_forged_count_of_values_is_called_invalid(folder: Folder) -> None:
    whole = parquet(pa.table({"text": ["a"] * 100}), compression="none", use_dictionary=False, write_statistics=False)
    count = bytes([0xC8, 0x01])  # 100 as a zigzag varint
    forged = whole.replace(count, b"\xfe\xff\xff\xff\x0f", 1)
    assert forged != whole
    error = folder.read("a.parquet", forged, limited=True).error
    assert "Parquet" in error.message
    assert error.code == "file.damaged_parquet"


def test_every_flipped_byte_of_a_parquet_is_survived(folder: Folder) -> None:
    """Some flips change text alone; whatever they do, an answer comes back in words or the rows do."""
    whole = parquet(pa.table({"text": ["some words"] * 20}))
    for position in range(8, len(whole) - 8, len(whole) // 8):
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        reading = folder.read("a.parquet", bytes(flipped), limited=True)
        assert reading.rows or reading.error.status in (413, 422)
        (folder.path / "normalised.parquet").unlink(missing_ok=True)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused_by_line(folder: Folder, opening: str) -> None:
    reading = folder.read("a.jsonl", GOOD + '{"instruction": "Q?", "output": ' + opening * 100_000 + "\n")
    assert reading.problems == ["line 2 json.nesting"]
    assert "nested too deeply" in reading.error.problems[0].message


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("NaN", "json.constant"),
        ("-Infinity", "json.constant"),
        ("1e999", "json.range"),
        ("1" * 5000, "json.long_number"),
        ('{"role": "user", "role": "system"}', "json.duplicate_key"),
        ('"\\ud800"', "rows.unicode"),
        ('"a\\u0000b"', "rows.nul"),
        ("nonsense", "json.syntax"),
    ],
)
def test_what_json_does_not_allow_is_refused_in_lines_and_in_arrays(folder: Folder, value: str, code: str) -> None:
    bad = '{"instruction": "Q?", "output": ' + value + "}"
    reading = folder.read("a.jsonl", GOOD + bad + "\n" + GOOD)
    assert [problem.split()[2] for problem in reading.problems] == [code]
    assert "2" in reading.problems[0]
    reading = folder.read("a.json", f"[{GOOD}, {bad}, {GOOD}]")
    assert reading.problems == [f"row 2 {code}"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"no end', "Unterminated string starting at character 33."),
        ('"a\tb"}', "Invalid control character at character 35."),
    ],
)
def test_where_a_line_is_broken_is_said_in_one_sentence(folder: Folder, value: str, said: str) -> None:
    reading = folder.read("a.jsonl", GOOD + '{"instruction": "Q?", "output": ' + value + "\n")
    assert reading.error.problems[0].message == f"is not valid JSON: {said}"


def test_an_array_goes_on_after_a_bad_element(folder: Folder) -> None:
    content = f'[{GOOD}, {{"instruction": NaN, "output": "A"}}, 7, {GOOD}, {{"instruction": "Q", "output": ""}}]'
    assert folder.read("a.json", content).problems == [
        "row 2 json.constant",
        "row 3 rows.no_object",
        "row 5 rows.empty_answer",
    ]


def test_a_byte_order_mark_is_stripped(folder: Folder) -> None:
    for name, content in (("a.jsonl", GOOD), ("a.csv", "text\nhello\n"), ("a.json", f"[{GOOD}]"), ("a.txt", "hello")):
        assert folder.read(name, b"\xef\xbb\xbf" + content.encode()).facts["rows"] == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(folder: Folder, encoding: str) -> None:
    error = folder.read("a.jsonl", GOOD.encode(encoding)).error
    assert error.code == "file.encoding"
    assert error.hint == "Save it as UTF-8."


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_latin_1_is_refused_at_the_byte_however_far_in(folder: Folder, name: str) -> None:
    start = "text\n" + "naïve words\n" * 30_000
    content = start.encode() + "caf\u00e9 au lait\n".encode("latin-1")
    if name == "a.jsonl":
        content = b'{"text": "good"}\n' * 20_000 + b'{"text": "caf\xe9"}\n'
    error = folder.read(name, content).error
    assert error.where == f"byte {content.index(0xE9)}"


def test_a_character_cut_off_at_the_end_is_refused(folder: Folder) -> None:
    content = b"text\nna\xc3"
    assert folder.read("a.csv", content).error.where == f"byte {len(content) - 1}"


def test_an_endless_line_is_refused(folder: Folder) -> None:
    error = folder.read("a.jsonl", GOOD + '{"instruction": "' + "x" * (17 << 20)).error
    assert error.code == "file.long_line"
    assert error.where == "line 2"


@pytest.mark.parametrize("name", ["a", "a.json"])
def test_a_bracket_alone_is_a_list_that_was_cut_off(folder: Folder, name: str) -> None:
    assert folder.read(name, " [\n").problems == ["row 1 file.incomplete"]


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", GOOD + GOOD[:20]), ("a.json", f"[{GOOD}, {GOOD[:20]}")])
def test_half_a_last_row_is_called_incomplete(folder: Folder, name: str, content: str) -> None:
    reading = folder.read(name, content)
    assert reading.problems == [f"{'line' if name == 'a.jsonl' else 'row'} 2 file.incomplete"]


def test_a_field_whose_type_differs_is_refused_by_row(folder: Folder) -> None:
    rows = [*alpaca(2), {"instruction": "Q?", "output": 42}, {"instruction": ["Q?"], "output": "A."}]
    assert folder.read("a.jsonl", jsonl(rows)).problems == ["row 3 rows.type", "row 4 rows.type"]


def test_ragged_rows_are_refused_by_number(folder: Folder) -> None:
    reading = folder.read("a.csv", "instruction,output\nQ,A\nQ,A,extra\nQ\nQ,A\n")
    assert reading.problems == ["row 2 csv.ragged", "row 3 csv.ragged"]
    assert "has 3 columns" in reading.error.problems[0].message


def test_a_cell_that_is_too_long_is_refused(folder: Folder) -> None:
    error = folder.read("a.csv", 'instruction,output\nQ,A\nQ,"' + "x" * 200_000 + '"\n').error
    assert "cell is too long" in error.message
    assert error.where == "row 2"


def test_a_quote_that_is_never_closed_is_refused(folder: Folder) -> None:
    assert folder.read("a.csv", 'instruction,output\nQ,"A\nQ,A\n').error.where == "row 1"


def test_a_missing_column_lists_those_found(folder: Folder) -> None:
    error = folder.read("a.csv", "id,completion\n1,A\n").error
    assert "Found: id, completion" in error.message
    assert "prompt_completion (prompt, completion)" in error.hint


def test_a_column_named_twice_is_refused(folder: Folder) -> None:
    assert "names text twice" in folder.read("a.csv", "text,text\na,b\n").error.message


def test_an_unknown_role_lists_those_allowed(folder: Folder) -> None:
    turns = [{"role": "wizard", "content": "hm"}, {"role": "assistant", "content": "A"}]
    reading = folder.read("a.jsonl", jsonl([{"messages": turns}]))
    assert reading.problems == ["row 1 rows.role"]
    assert "system, user, assistant, tool" in reading.error.problems[0].hint


def test_rows_without_an_answer_are_refused_by_number(folder: Folder) -> None:
    question, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    rows = [[question, answer], [question], [question, {**answer, "weight": 0}], [question, {**answer, "content": " "}]]
    reading = folder.read("a.jsonl", jsonl({"messages": row} for row in rows))
    assert reading.problems == ["row 2 rows.no_answer", "row 3 rows.no_answer", "row 4 rows.empty_answer"]


def test_all_problems_are_counted_and_the_first_hundred_told(folder: Folder) -> None:
    error = folder.read("a.jsonl", GOOD + '{"instruction": "Q?", "output": ""}\n' * 250).error
    assert error.message == "250 of 251 rows cannot be used."
    assert len(error.problems) == 100
    assert error.problems[-1].where == "row 101"


def test_a_file_of_nothing_but_bad_rows_is_refused_even_when_they_may_be_skipped(folder: Folder) -> None:
    assert folder.read("a.jsonl", "nonsense\n" * 3, skip_bad_rows=True).problems == [
        f"line {n} json.syntax" for n in (1, 2, 3)
    ]


def test_what_ends_the_reading_is_told_with_the_rows_found_bad_before_it(folder: Folder) -> None:
    reading = folder.read("a.json", f'[{{"instruction": "Q", "output": ""}}, {GOOD} {GOOD}]', skip_bad_rows=True)
    assert reading.problems == ["row 1 rows.empty_answer", "row 2 json.syntax"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [("a.jsonl", b"PK\x03\x04rest", "zip"), ("a.csv", b"%PDF-1.7", "PDF"), ("a", b"\x80\x04\x95\x00", "pickle")],
)
def test_other_kinds_of_files_are_named(folder: Folder, name: str, content: bytes, word: str) -> None:
    assert word in folder.read(name, content).error.message


def test_bad_rows_at_the_start_do_not_hide_the_shape(folder: Folder) -> None:
    facts = folder.read("a.jsonl", "nonsense\n" * 300 + GOOD * 2, skip_bad_rows=True).facts
    assert (facts["format"], facts["rows"], facts["skipped"]) == ("alpaca", 2, 300)


def test_column_names_that_no_table_can_hold_are_told_in_printable_form(folder: Folder) -> None:
    odd = '"\\u0000\\ud800": 1'
    assert folder.read("a.jsonl", f'{{"text": "a", {odd}}}\n').facts["columns"] == ["text", "\\0\\ud800"]
    assert "Found: \\0\\ud800." in folder.read("a.jsonl", f"{{{odd}}}\n").error.message


@pytest.mark.parametrize("content", ['{\n "data": [\n', '{"rows":\n [1]\n}'])
def test_one_object_is_no_list_of_rows(folder: Folder, content: str) -> None:
    assert "one JSON object" in folder.read("a.json", content).error.message


INSERTED = (
    b"null",
    b"[",
    b"{}",
    b'"',
    b",",
    b"7",
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"\r",
    b"\n",
    b"\xef\xbb\xbf",
    b"\0",
    b"\xe9",
)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A few bytes of it changed, removed, put in or repeated."""
    made = bytearray(content)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(made)) if made else 0
        change = chance.randrange(4)
        if change == 0:
            made[at : at + 1] = bytes([chance.randrange(256)])
        elif change == 1:
            del made[at : at + chance.randint(1, 10)]
        elif change == 2:
            made[at:at] = chance.choice(INSERTED)
        else:
            start = chance.randrange(len(made)) if made else 0
            made[at:at] = made[start : start + chance.randint(1, 30)]
    return bytes(made)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a", "a.json.gz"])
def test_whatever_bytes_come_the_answer_is_rows_or_words(folder: Folder, name: str) -> None:
    turns = [{"from": "human", "value": "é"}, {"from": "function_call", "value": '{"name": "f", "arguments": "{}"}'}]
    messages = [{"role": "user", "content": "é"}, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]
    whole = (
        json.dumps([{**row, "history": [["a", "b"]]} for row in alpaca(2)]),
        jsonl([{"messages": messages, "tools": [{"a": 1}]}] * 2),
        jsonl([{"conversations": turns}] * 2),
        'instruction,output\n"a, b",c\nd,"e\n f"\n',
    )
    chance = random.Random(name)
    for _ in range(60):
        content = damaged(chance.choice(whole).encode(), chance)
        reading = folder.read(name, packed(content) if name.endswith(".gz") else content)
        assert reading.rows or reading.error.status in (413, 422), content


def test_reading_leaves_nothing_but_the_result(folder: Folder, tmp_path: Path) -> None:
    folder.read("a.jsonl.gz", packed(GOOD), limited=True)
    assert sorted(path.name for path in folder.path.iterdir()) == ["normalised.parquet", "upload"]
    assert tmp_path.exists()


def test_a_packed_parquet_that_is_cancelled_while_it_is_read_leaves_no_unpacked_copy(folder: Folder) -> None:
    upload, begun = folder.path / "upload", Event()
    upload.write_bytes(packed(parquet(pa.Table.from_pylist(alpaca(200_000)))))
    order = Order(str(upload), str(folder.path / "normalised.parquet"), "a.parquet.gz", LIMIT)
    with pytest.raises(Conflict):
        ingest(order, timeout_seconds=60, on_progress=lambda _: begun.set(), cancelled=begun.is_set)
    assert list(folder.path.iterdir()) == [upload]
