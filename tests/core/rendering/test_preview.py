from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.core.datasets.schema import Message, Row
from backend.core.errors import Invalid
from backend.core.forecast import steps_of
from backend.core.limited import run_limited
from backend.core.rendering import IGNORE_INDEX
from backend.core.rendering.prepare import prepare
from backend.core.rendering.tokenizer import load_tokenizer
from tests.core.rendering.data import recipe, store, talk, talks
from tests.core.rendering.families import CHATML, FAMILIES, save

PREVIEW = "backend.core.rendering.preview:preview"
PREFLIGHT = "backend.core.rendering.preview:preflight"
ANSWER = "Paris, of course. 巴黎"


def ask(folder: Path, rows: Sequence[Row], tmp_path: Path, **more: Any) -> dict[str, Any]:
    files = [store(tmp_path, rows).model_dump(mode="json")]
    answer: dict[str, Any] = run_limited(PREVIEW, {"model_folder": str(folder), "files": files, **more})
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), FAMILIES["qwen2.5"])


def test_a_row_is_shown_token_by_token(folder: Path, tmp_path: Path) -> None:
    answer = ask(folder, [*talks(4), talk(5, "What of France?", ANSWER)], tmp_path, offset=4, limit=3)
    (row,) = answer["rows"]
    pieces = row["pieces"]
    whole = "".join(piece["text"] for piece in pieces)
    assert whole.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
    assert "".join(piece["text"] for piece in pieces if piece["trained"]) == f"{ANSWER}<|im_end|>"
    assert "".join(piece["text"] for piece in pieces if piece["role"] == "user") == "What of France?"
    assert [piece["text"] for piece in pieces if piece["special"]][:2] == ["<|im_start|>", "<|im_end|>"]
    assert row["number"] == 5
    assert row["tokens"] == len(pieces)
    assert row["trained_tokens"] == sum(piece["trained"] for piece in pieces)
    assert answer["lengths"]["rows"] == 5


def test_what_would_be_cut_is_marked(folder: Path, tmp_path: Path) -> None:
    settings = {"max_length": 40, "truncation": "cut_end"}
    answer = ask(folder, [talk(1, "More?", "more " * 50)], tmp_path, data=settings)
    (row,) = answer["rows"]
    assert [piece["cut"] for piece in row["pieces"]] == [False] * 40 + [True] * (row["tokens"] - 40)
    assert row["over"]
    assert answer["lengths"]["over"] == 1


def test_what_is_shown_as_learned_is_what_the_trainer_learns(folder: Path, tmp_path: Path) -> None:
    rows = talks(30)
    shown = ask(folder, rows, tmp_path, limit=30)["rows"]
    dataset = prepare([store(tmp_path, rows)], load_tokenizer(folder), recipe(), seed=1)
    trained = {tuple(example.labels.tolist()) for example in dataset.train}
    assert len(trained) == 30
    assert trained == {
        tuple(piece["id"] if piece["trained"] else IGNORE_INDEX for piece in row["pieces"]) for row in shown
    }


def test_a_page_of_rows_starts_in_any_set(folder: Path, tmp_path: Path) -> None:
    files = [store(tmp_path, talks(600), "a"), store(tmp_path, talks(3), "b")]
    payload = {"model_folder": str(folder), "files": [each.model_dump(mode="json") for each in files]}
    rows = run_limited(PREVIEW, {**payload, "offset": 598, "limit": 4})["rows"]
    assert [(row["set"], row["number"]) for row in rows] == [("a", 599), ("a", 600), ("b", 1), ("b", 2)]


def test_wrong_settings_are_told_at_their_place(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        ask(folder, talks(1), tmp_path, data={"max_length": 2, "trunkation": "drop"})
    assert {each.where for each in refusal.value.problems} == {"max_length", "trunkation"}


def test_a_row_that_cannot_be_rendered_says_why_beside_the_others(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", FAMILIES["gemma"])
    system = Row(1, messages=(Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho")))
    first, second = ask(folder, [system, talk(2, "Hi", "Ho")], tmp_path)["rows"]
    assert "System role not supported" in first["problem"]["message"]
    assert second["trained_tokens"] > 0


def test_a_preflight_reports_and_tells_how_far_it_is(folder: Path, tmp_path: Path) -> None:
    files = [store(tmp_path, talks(40)).model_dump(mode="json")]
    body = recipe(eval_share=0.1).model_dump(mode="json")
    told: list[dict[str, Any]] = []
    payload = {"model_folder": str(folder), "files": files, "recipe": body}
    answer = run_limited(PREFLIGHT, payload, on_progress=told.append)
    assert told == [{"rows": 40, "of": 40}]
    assert answer["problems"] == []
    assert answer["report"]["train_rows"] + answer["report"]["eval_rows"] == 40


def test_a_preflight_lists_the_refusals_as_problems(folder: Path, tmp_path: Path) -> None:
    files = [store(tmp_path, [talk(4, "More?", "more " * 3000)]).model_dump(mode="json")]
    payload = {"model_folder": str(folder), "files": files, "recipe": recipe().model_dump(mode="json")}
    answer = run_limited(PREFLIGHT, payload)
    assert [(each["code"], each["where"]) for each in answer["problems"]] == [("rows.too_long", "row 4")]
    assert answer["report"] is None


def test_steps_are_counted_from_packed_rows_and_batches_from_documents(folder: Path, tmp_path: Path) -> None:
    prepared = load_tokenizer(folder)
    asked = recipe(packing=True, max_length=512)
    report = prepare([store(tmp_path, talks(2000))], prepared, asked, seed=1).report
    assert report.train_rows == 2000
    counted = {"train_rows": report.train_rows, "examples": report.examples, "max_length": report.max_length}
    steps = steps_of(asked, **counted)
    assert steps.rows == 16  # two epochs of 2,000 documents leave 150 steps of 16 and not of 32
    assert steps.per_epoch == math.ceil(report.examples / 16)
    assert steps.total == 2 * steps.per_epoch
    limited = asked.model_copy(update={"training": asked.training.model_copy(update={"max_steps": 5})})
    assert steps_of(limited, **counted).total == 5


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "timed out"),
        ("{{ 'a' * 10**9 }}{{ 'b' * 10**9 }}", "memory"),
        ("{{ messages.__class__ }}{{ messages.__class__.__base__.__subclasses__() }}", "reaches for __class__"),
    ],
)
def test_a_hostile_template_ends_in_words(tmp_path: Path, template: str, words: str) -> None:
    folder = save(tmp_path / "model", replace(FAMILIES["gpt2-chatml"], template=template))
    files = [store(tmp_path, talks(1)).model_dump(mode="json")]
    with pytest.raises(Invalid) as refusal:
        run_limited(PREVIEW, {"model_folder": str(folder), "files": files}, timeout_seconds=60)
    assert refusal.value.code == "template"
    assert words in str(refusal.value)


def test_neither_torch_nor_the_network_is_touched(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", replace(FAMILIES["gpt2-chatml"], template=CHATML))
    files = [store(tmp_path, talks(3)).model_dump(mode="json")]
    code = (
        "import socket, sys, json\n"
        "def refuse(*a, **k): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import backend.core.rendering\n"
        "assert not {'transformers', 'torch', 'numpy'} & set(sys.modules)\n"
        "from backend.core.rendering.preview import preview\n"
        "print(len(preview(json.load(sys.stdin))['rows']), sys.modules['torch'])\n"
    )
    payload = json.dumps({"model_folder": str(folder), "files": files})
    done = subprocess.run([sys.executable, "-c", code], input=payload, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "None"]


@pytest.mark.shared
def test_real_rows_that_a_small_model_cannot_hold_are_refused_unless_cutting_was_chosen(
    shared: Path, tmp_path: Path
) -> None:
    source = json.loads((shared / "data/alpaca_en_demo.json").read_text())
    rows = [
        talk(number, "\n".join(filter(None, (each["instruction"], each["input"]))), each["output"])
        for number, each in enumerate(source, start=1)
        if each["output"]
    ]
    payload: dict[str, Any] = {
        "model_folder": str(shared / "models/stories260k"),
        "files": [store(tmp_path, rows).model_dump(mode="json")],
        "recipe": recipe().model_dump(mode="json"),
    }
    (problem,) = run_limited(PREFLIGHT, payload)["problems"]
    assert problem["message"].startswith("400 of 999 rows are longer than 512 tokens")
    payload["recipe"] = recipe(truncation="drop").model_dump(mode="json")
    report = run_limited(PREFLIGHT, payload)["report"]
    assert (report["train_rows"], report["dropped"]["total"]) == (599, 400)
