"""What looks hostile and is taken all the same: as text, with a warning, or in a form that harms nobody."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tests.hostile import making
from tests.hostile.making import GOOD, MIB
from tests.hostile.rows import proves
from tests.hostile.studio import MEMORY_MIB, PREFLIGHT, SPECIAL, Cost, Studio, recipe, said, taken

FORMULA = '=HYPERLINK("http://x","y")'


def preflight(studio: Studio, what: str, innocent: Cost, asked: dict[str, Any]) -> dict[str, Any]:
    with studio.metered(what, innocent=innocent):
        answer = studio.client.post(PREFLIGHT, json=asked)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


@proves(24)
def test_a_byte_order_mark_is_taken_off(studio: Studio, taught: Cost) -> None:
    with studio.metered("24 a byte order mark", innocent=taught):
        taken(studio, "marked", b"\xef\xbb\xbf" + GOOD.encode())
    [row] = studio.client.get("/api/v1/datasets/marked/rows").json()["rows"]
    assert row["messages"][0]["content"] == "Q?"


@proves(26)
def test_one_line_of_a_gigabyte_is_streamed_and_refused_as_soon_as_it_has_come(studio: Studio, taught: Cost) -> None:
    with studio.measured("26 a line of 1 GB arrives") as cost:
        body = making.endless_line(1024 * MIB)
        answer = studio.client.put("/api/v1/datasets/endless?filename=a.jsonl", content=body)
        with studio.metered("26 a line of 1 GB is read", innocent=taught):
            ended = studio.operation(answer)
    assert (answer.status_code, ended["state"]) == (202, "failed")
    assert "The line is too long" in said(ended["error"])
    assert "line 1" in said(ended["error"])
    assert cost.memory_mib < MEMORY_MIB
    assert not list(studio.web.settings.folder("uploads").iterdir()), "nothing of it is kept"


@proves(32)
def test_a_formula_is_text_here_and_in_every_table_that_leaves(studio: Studio, taught: Cost) -> None:
    """Rows leave as JSON lines, which no program computes. The one table is the audit, whose cells people can write."""
    content = json.dumps({"instruction": FORMULA, "output": "@SUM(1)"}) + "\n"
    with studio.metered("32 formulas", innocent=taught):
        taken(studio, "formulas", content)
    assert FORMULA in studio.client.get("/api/v1/datasets/formulas/download").json()["messages"][0]["content"]
    assert studio.client.delete("/api/v1/datasets/formulas").status_code == 204
    with studio.web.session() as session:
        from backend.core import people

        people.audit(session, None, "dataset.delete", FORMULA)
        session.commit()
    with studio.metered("32 a formula in the audit"):
        table = list(csv.reader(io.StringIO(studio.client.get("/api/v1/audit/download").text)))
    assert any("'" + FORMULA in line for line in table)
    assert not any(cell[:1] in ("=", "+", "-", "@") for line in table for cell in line)


@proves(37)
def test_rows_that_are_all_too_long_leave_nothing_to_learn_and_say_so(studio: Studio, examined: Cost) -> None:
    taken(studio, "long", json.dumps({"instruction": "Q " * 300, "output": "A " * 300}) + "\n")
    refused = preflight(studio, "37 rows too long", examined, recipe("long", max_length=16))
    assert any("too long" in each["code"] or "too_long" in each["code"] for each in refused["problems"]), refused
    for way in ("drop", "cut_end"):
        asked = recipe("long", max_length=16, truncation=way)
        [problem] = preflight(studio, f"37 rows too long, {way}", examined, asked)["problems"]
        assert problem["code"] == "rows.nothing_trained"
        assert "none of the 1 rows holds a token to learn" in problem["message"]


@proves(38)
def test_a_special_token_that_is_spelled_out_is_warned_of_and_read_as_text(
    studio: Studio, previewed: Cost, examined: Cost
) -> None:
    taken(studio, "control", json.dumps({"instruction": f"Q? {SPECIAL}", "output": "A."}) + "\n")
    with studio.metered("38 special tokens, previewed", innocent=previewed):
        preview = studio.client.get("/api/v1/datasets/control/preview", params={"model": "tiny-qwen3"}).json()
    [row] = preview["rows"]
    assert "<|im_end|>" in row["control_text"]
    specials = [piece["text"] for piece in row["pieces"] if piece["special"]]
    assert sum("<|im_end|>" in text for text in specials) == 2, "the ends of the two turns, and not that of the data"
    warnings = preflight(studio, "38 special tokens", examined, recipe("control"))["report"]["warnings"]
    assert any("special tokens spelled out" in each["message"] for each in warnings)
    found = studio.client.get("/api/v1/datasets/control/findings").json()
    assert [each["rows"] for each in found if each["cleaner"] == "control_text"] == [1]


@proves(39)
def test_rows_to_measure_on_are_never_rows_that_are_trained(studio: Studio, examined: Cost) -> None:
    """Which rows are held back hangs on what they say: the same row in two sets is held back in both, or in neither.
    So there is no overlap to count, and a data set that stands twice in a recipe is refused."""
    rows = "".join(json.dumps({"instruction": f"Q{n}?", "output": f"A{n}."}) + "\n" for n in range(60))
    for name in ("one", "two"):
        taken(studio, name, rows)
    alone = preflight(studio, "39 one set", examined, recipe("one") | {"evaluation": {"eval_share": 0.2}})["report"]
    both = recipe("one") | {"data": {"sets": ["one", "two"]}, "evaluation": {"eval_share": 0.2}}
    together = preflight(studio, "39 the same rows twice", examined, both)["report"]
    assert alone["eval_rows"] > 0
    assert (together["eval_rows"], together["train_rows"]) == (2 * alone["eval_rows"], 2 * alone["train_rows"])
    twice = studio.client.post("/api/v1/preflight", json=recipe("one") | {"data": {"sets": ["one", "one"]}})
    assert (twice.status_code, "stands here twice" in twice.text) == (422, True)


@proves(41)
@pytest.mark.parametrize("filename", ["a.svg", "a.txt", "a.html"])
def test_a_picture_with_a_script_is_rows_of_text_and_leaves_as_a_file(
    studio: Studio, taught: Cost, filename: str
) -> None:
    content = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>\n'
    with studio.metered(f"41 {filename}", innocent=taught):
        taken(studio, "picture", content, filename)
    with studio.metered(f"41 {filename} leaves"):
        left = studio.client.get("/api/v1/datasets/picture/download")
    assert left.headers["content-disposition"].startswith("attachment;")
    assert left.headers["content-type"] == "application/jsonl"
    assert left.headers["x-content-type-options"] == "nosniff"
    assert json.loads(left.text)["text"] == content.strip()
