"""Every known shape is recognised and becomes the one internal form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.core.catalog import FORMATS
from backend.core.datasets import writer
from backend.core.datasets.schema import Message, Row
from tests.core.datasets.files import Folder, Reading, alpaca, jsonl, packed


def one(folder: Folder, record: dict[str, Any], **choices: Any) -> Row:
    reading = folder.read("a.jsonl", jsonl([record]), **choices)
    assert reading.facts["rows"] == 1
    return reading.rows[0]


def in_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def in_table(rows: list[dict[str, str]], mark: str, end: str = "\n") -> str:
    return end.join([mark.join(rows[0]), *(mark.join(row.values()) for row in rows), ""])


FILES: dict[str, Any] = {
    "a.jsonl": jsonl(alpaca()),
    "a.json": json.dumps(alpaca(), indent=2),
    "a.csv": in_table(alpaca(), ","),
    "semicolons.csv": in_table(alpaca(), ";"),
    "windows.csv": in_table(alpaca(), ",", "\r\n"),
    "old-mac.csv": in_table(alpaca(), ",", "\r"),
    "stray-return.csv": in_table(alpaca(), ",", "\n").replace("output\n", "output\r\r\n"),
    "a.tsv": in_table(alpaca(), "\t"),
    "a.parquet": in_parquet(alpaca()),
    "lines-named.json": jsonl(alpaca()),
    "json-named.txt": json.dumps(alpaca()),
    "nameless-lines": jsonl(alpaca()),
    "nameless-array": json.dumps(alpaca(), indent=1),
    "nameless-table": in_table(alpaca(), ","),
    "parquet-named.csv": in_parquet(alpaca()),
    "blank-lines.jsonl": jsonl(alpaca()).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("gzipped", [False, True])
def test_the_same_rows_are_read_from_any_file(folder: Folder, name: str, gzipped: bool) -> None:
    content = FILES[name].encode() if isinstance(FILES[name], str) else FILES[name]
    reading = folder.read(name + (".gz" if gzipped else ""), packed(content) if gzipped else content)
    assert reading.facts["format"] == "alpaca"
    assert reading.facts["mapping"] == {"instruction": "instruction", "input": "input", "output": "output"}
    assert reading.rows == [
        Row(n, messages=(Message("user", f"Question {n}?"), Message("assistant", f"Answer {n}."))) for n in (1, 2, 3)
    ]


def test_the_same_rows_give_the_same_bytes(folder: Folder) -> None:
    digests = {folder.read(name, FILES[name]).facts["sha256"] for name in ("a.jsonl", "a.json", "a.csv", "a.parquet")}
    assert len(digests) == 1


def test_a_text_file_is_one_document_a_line(folder: Folder) -> None:
    reading = folder.read("a.txt", "First, with a comma.\n\nSecond.\r\n")
    assert [(row.number, row.text) for row in reading.rows] == [(1, "First, with a comma."), (3, "Second.")]
    assert reading.facts["kind"] == "text"


def test_alpaca_takes_system_and_history_and_joins_the_input(folder: Folder) -> None:
    row = one(
        folder,
        {
            "instruction": "Translate.",
            "input": "cat",
            "output": "Katze",
            "system": "Be brief.",
            "history": [["a", "b"]],
        },
    )
    assert [(m.role, m.content) for m in row.messages] == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "Translate.\ncat"),
        ("assistant", "Katze"),
    ]


def test_openai_messages_keep_tools_calls_names_and_weights(folder: Folder) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    turns = [
        {"role": "developer", "content": "Help."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look "}, {"type": "text", "text": "up."}],
            "name": "Ann",
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "blue"},
        {"role": "assistant", "content": "Hm.", "weight": 0},
        {"role": "assistant", "content": "Blue.", "weight": 1},
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    row = one(folder, {"messages": turns, "tools": tools})
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "tool", "assistant", "assistant"]
    assert row.messages[1] == Message("user", "Look up.", name="Ann")
    assert json.loads(row.messages[2].tool_calls or "") == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    ]
    assert [m.train for m in row.messages[4:]] == [False, True]
    assert json.loads(row.tools or "") == tools


def test_sharegpt_turns_function_calls_into_tool_calls(folder: Folder) -> None:
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"in": "Rome"}}'},
        {"from": "observation", "value": "sun"},
        {"from": "gpt", "value": "Sunny."},
    ]
    row = one(folder, {"conversations": turns, "system": "Help.", "tools": '[{"name": "weather"}]'})
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(row.messages[2].tool_calls or "")[0]["function"]["arguments"] == {"in": "Rome"}
    assert json.loads(row.tools or "") == [{"name": "weather"}]


@pytest.mark.parametrize("record", [{"Question": "Q", "answer": "A"}, {"prompt": "Q", "response": "A"}])
def test_questions_and_answers_are_recognised_by_other_names(folder: Folder, record: dict[str, str]) -> None:
    assert one(folder, record).messages == (Message("user", "Q"), Message("assistant", "A"))


def test_conversational_prompt_and_completion_are_joined(folder: Folder) -> None:
    prompt, completion = [{"role": "user", "content": "Q"}], [{"role": "assistant", "content": "A"}]
    row = one(folder, {"prompt": prompt, "completion": completion})
    assert row.messages == (Message("user", "Q"), Message("assistant", "A"))


def test_messages_are_read_from_nested_parquet_and_from_json_in_a_cell(folder: Folder) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    for name, content in (
        ("a.parquet", in_parquet([{"messages": turns}])),
        ("a.csv", 'messages\n"' + json.dumps(turns).replace('"', '""') + '"\n'),
    ):
        assert folder.read(name, content).rows[0].messages == (Message("user", "Q"), Message("assistant", "A"))


def test_a_person_may_overrule_the_shape_and_the_columns(folder: Folder) -> None:
    record = {"task": "Add.", "canonical_solution": "a + b", "text": "not this"}
    assert one(folder, record).text == "not this"
    row = one(
        folder, record, format="prompt_completion", columns={"prompt": "task", "completion": "canonical_solution"}
    )
    assert row.messages == (Message("user", "Add."), Message("assistant", "a + b"))
    refused = folder.read("a.jsonl", jsonl([record]), format="alpaca").error
    assert "needs the columns instruction, output. Found: task, canonical_solution, text" in refused.message
    assert "Known: messages" in folder.read("a.jsonl", jsonl([record]), format="excel").error.hint


def test_preference_data_is_refused_by_its_name(folder: Folder) -> None:
    pairs = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    verdict = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "label": True}
    assert "DPO" in folder.read("a.jsonl", jsonl([pairs])).error.message
    assert "KTO" in folder.read("a.jsonl", jsonl([verdict])).error.message
    assert one(folder, verdict, format="messages").messages[1].content == "A"


def test_bad_rows_are_skipped_only_when_asked_and_are_told(folder: Folder) -> None:
    content = jsonl([*alpaca(2), {"instruction": "Q?", "output": ""}, *alpaca(1)])
    assert folder.read("a.jsonl", content).problems == ["row 3 rows.empty_answer"]
    facts = folder.read("a.jsonl", content, skip_bad_rows=True).facts
    assert (facts["rows"], facts["skipped"], facts["problems"][0]["where"]) == (3, 1, "row 3")


def test_equal_rows_are_counted_exactly(folder: Folder) -> None:
    rows = [*alpaca(700), *alpaca(40), *alpaca(3)]
    facts = folder.read("a.jsonl", jsonl(rows)).facts
    assert (facts["rows"], facts["duplicates"]) == (743, 43)


def test_equal_rows_are_counted_exactly_when_they_no_longer_fit_in_memory(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SPILL_ROWS", 100)
    rows = [*alpaca(700), *alpaca(40), *alpaca(3)]
    assert folder.read("a.jsonl", jsonl(rows)).facts["duplicates"] == 43


def test_the_facts_count_and_show_the_rows(folder: Folder) -> None:
    facts = folder.read("a.jsonl", jsonl(alpaca(1200))).facts
    assert (facts["rows"], facts["turns"], facts["learned_turns"]) == (1200, 2400, 1200)
    assert facts["characters"] == sum(len(row["instruction"]) + len(row["output"]) for row in alpaca(1200))
    assert [row["number"] for row in facts["sample"]] == [1, 2, 3, 4, 5]
    assert facts["columns"] == ["instruction", "input", "output"]


def test_an_array_larger_than_the_window_is_read_whole(folder: Folder) -> None:
    rows = [{"text": f"{n} " + "å" * (n * 997 % 90_000)} for n in range(60)]
    assert [row.text for row in folder.read("a.json", json.dumps(rows, indent=3)).rows] == [row["text"] for row in rows]


@pytest.mark.parametrize("format_", FORMATS, ids=lambda each: each.name)
def test_every_shape_explains_itself(format_: Any) -> None:
    assert format_.title
    assert format_.needs()
    assert format_.kind in ("messages", "text")
    assert len({part.name for part in format_.parts}) == len(format_.parts)
    assert FORMATS.index(format_) == [each.name for each in FORMATS].index(format_.name)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "format_", "rows"),
    [
        ("alpaca_en_demo.json", "alpaca", 999),
        ("alpaca_zh_demo.json", "alpaca", 1000),
        ("identity.json", "alpaca", 91),
        ("glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("c4_demo.jsonl", "text", 300),
        ("wiki_demo.txt", "text", 30),
    ],
)
def test_real_files_are_read(folder: Folder, shared: Path, name: str, format_: str, rows: int) -> None:
    facts = folder.read(name, (shared / "data" / name).read_bytes(), limited=True).facts
    assert (facts["format"], facts["rows"], facts["skipped"]) == (format_, rows, 0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dpo_en_demo.json", "preference pairs"),
        ("kto_en_demo.json", "verdict"),
        ("HumanEval.jsonl.gz", "Found: task_id, prompt, entry_point, canonical_solution, test"),
    ],
)
def test_real_files_of_other_kinds_are_refused_in_words(folder: Folder, shared: Path, name: str, words: str) -> None:
    reading: Reading = folder.read(name, (shared / "data" / name).read_bytes(), limited=True)
    assert words in reading.error.message
