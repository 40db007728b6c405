"""Hostile model folders through the real API and the page of models: none is loaded, and each says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.making import ENDLESS_COMPARISON
from tests.hostile.rows import MODELS, Spoiled, proves
from tests.hostile.studio import PREFLIGHT, PREVIEW, Cost, Studio, words_of

TEMPLATES = {
    "reaches for internals": (
        61,
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "The model's chat template cannot be used: it reaches for __class__",
    ),
    "calls a method that is no business of its": (
        61,
        "{{ messages.append(1) }}{{ cycler.next }}",
        "cannot be used",
    ),
    "has no end": (
        62,
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "it timed out",
    ),
    "computes without end": (
        62,
        "{{ 9 ** (9 ** 9) }}",
        "it timed out",
    ),
    "compares without end": (62, ENDLESS_COMPARISON, "it timed out"),
    "takes all memory": (
        62,
        "{% set x = namespace(v='ab' * 999999) %}{% for a in range(99) %}{% set x.v = x.v + x.v %}{% endfor %}",
        "it needs more memory",
    ),
    "writes without end": (62, "{{ 'x' * 20000000 }}", "it writes 20,000,000 characters"),
    "doubles what it writes": (
        62,
        "{% set x = namespace(v='ab') %}{% for a in range(19) %}{% set x.v = x.v + x.v %}{% endfor %}{{ x.v }}",
        "it writes 1,048,576 characters",
    ),
}


PAGE = "/datasets/animals/preview"
TOKENS: dict[str, Any] = {"wait": 1, "view": "tokens"}
INNOCENT = "tiny-qwen3"


def recipe(model: str) -> dict[str, Any]:
    return {"model": model, "data": {"sets": ["animals"]}, "method": "lora"}


def spoiled(studio: Studio, tiny_base: Path, name: str) -> Path:
    return Path(shutil.copytree(tiny_base, studio.models / name))


@proves(*{each.row for each in MODELS})
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_hostile_model_folder_is_refused_in_words(studio: Studio, tiny_base: Path, model: Spoiled) -> None:
    model.spoil(spoiled(studio, tiny_base, model.name))
    with studio.metered(str(model)):
        answer = studio.client.get("/api/v1/models/inspect", params={"path": model.name})
    assert answer.status_code == 422, answer.text
    for words in model.says:
        assert words in words_of(answer)
    with studio.metered(f"{model}, on the page"):
        page = studio.client.get("/models", params={"model": model.name})
    assert page.status_code == 200
    with studio.metered(f"{model}, launched"):
        launched = studio.client.post("/api/v1/runs", json=recipe(model.name))
    assert launched.status_code == 422


def test_a_tokenizer_that_makes_a_book_of_a_letter_is_refused_before_a_run(
    studio: Studio, tiny_base: Path, previewed: Cost, examined: Cost
) -> None:
    folder = spoiled(studio, tiny_base, "tokenizer that doubles")
    told = json.loads((folder / "tokenizer.json").read_text())
    twice = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    told["normalizer"] = {"type": "Sequence", "normalizers": [twice] * 21}
    (folder / "tokenizer.json").write_text(json.dumps(told))
    with studio.metered("a tokenizer that doubles, previewed", innocent=previewed):
        shown = studio.client.get(PREVIEW, params={"model": folder.name})
    assert "more than 1,000 characters of one" in words_of(shown)
    with studio.metered("a tokenizer that doubles, before a run", innocent=examined):
        planned = studio.client.post(PREFLIGHT, json=recipe(folder.name)).json()
    assert any("more than 1,000 characters of one" in each["message"] for each in planned["problems"]), planned
    shutil.rmtree(folder)


@proves(50)
@pytest.mark.parametrize("path", ["/etc", "../..", "tiny-qwen3/../../..", "~root", "a\\..\\b", "file:///etc"])
def test_a_model_outside_of_the_model_folders_is_refused(studio: Studio, path: str) -> None:
    with studio.metered(f"50 {path}"):
        answers = (
            studio.client.get("/api/v1/models/inspect", params={"path": path}),
            studio.client.post(PREFLIGHT, json=recipe(path)),
        )
    for answer in answers:
        assert answer.status_code == 403
        assert "is outside the model folders" in words_of(answer)


@pytest.fixture
def template(request: pytest.FixtureRequest, studio: Studio, tiny_base: Path) -> Iterator[tuple[int, str, str]]:
    """The row of the table, a model with this template, and what is said of it."""
    row, source, words = TEMPLATES[request.param]
    name = f"template that {request.param}".replace(" ", "-")
    folder = spoiled(studio, tiny_base, name)
    (folder / "chat_template.jinja").write_text(source)
    yield row, name, words
    shutil.rmtree(folder)


@pytest.fixture
def shown(studio: Studio) -> Cost:
    """What an innocent page costs, which has the lengths of all rows measured beside it."""
    return studio.innocent("a page", lambda: studio.client.get(PAGE, params=TOKENS | {"model": INNOCENT}))


@proves(61, 62)
@pytest.mark.parametrize("template", TEMPLATES, indirect=True)
def test_a_hostile_template_is_refused_wherever_it_is_rendered(
    studio: Studio, template: tuple[int, str, str], previewed: Cost, shown: Cost, examined: Cost
) -> None:
    row, name, words = template
    with studio.metered(f"{row} {name}, previewed", innocent=previewed):
        answer = studio.client.get(PREVIEW, params={"model": name})
    assert answer.status_code == 422, answer.text
    assert words in words_of(answer)
    with studio.metered(f"{row} {name}, on the page", innocent=shown):
        part = studio.client.get(PAGE, params=TOKENS | {"model": name})
    assert (part.status_code, words in unescape(part.text)) == (200, True), part.text
    with studio.metered(f"{row} {name}, before a run", innocent=examined):
        planned = studio.client.post(PREFLIGHT, json=recipe(name)).json()
    assert any(words in each["message"] for each in planned["problems"]), planned
