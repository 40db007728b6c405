"""What holds of every template, script and catalogue of the front end, read as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from string import Formatter

import pytest
from jinja2 import Environment
from pydantic import BaseModel

from backend.core.models import State
from backend.core.recipe import Recipe
from backend.core.strict import models_in

FRONTEND = Path(__file__).resolve().parents[2] / "frontend"
TEMPLATES = sorted([*(FRONTEND / "pages").glob("*.html"), *(FRONTEND / "parts").glob("*.html")])
SCRIPTS = sorted((FRONTEND / "src").glob("*.ts"))
STYLES = sorted((FRONTEND / "styles").glob("*.css"))

BLOCKED_BY_THE_POLICY = {
    "an inline style": r"<style|\sstyle\s*=",
    "an inline handler": r"\son[a-z]+\s*=|hx-on",
    "a script address": r"javascript:|[\"']js:",
    "an evaluated trigger": r"hx-trigger=\"[^\"]*\[",
    "a script without the page's nonce": r"<script(?! nonce=\"\{\{ here\.nonce \}\}\")",
    "something from another host": r"(?:src|href|action)=\"(?:https?:)?//",
}
BY_VARIABLE = {"live", "reconnecting", "signed_out", "gone", "hours", "minutes", "seconds"}
"""Words that scripts say by a variable that holds their key."""
CLASSES_BY_NUMBER = re.compile(r"s[1-6]|n[2-6]|dash[23]")
"""Lines of a chart, and how many runs stand beside each other: templates write the number."""
CLASSES_OF_LIBRARIES = re.compile(r"htmx-request|u-[\w-]+")
NAMES = {
    "Finetune",
    "Studio",
    "LoRA",
    "QLoRA",
    "YAML",
    "SHA",
    "Alpaca",
    "English",
    "openapi",
    "json",
    "JSON",
    "JSONL",
    "CSV",
    "TXT",
    "ShareGPT",
}
"""Words that stand in a template as they are in every language."""


def template_id(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("what", BLOCKED_BY_THE_POLICY)
@pytest.mark.parametrize("path", TEMPLATES, ids=template_id)
def test_no_template_holds_what_the_content_policy_blocks(path: Path, what: str) -> None:
    assert not re.findall(BLOCKED_BY_THE_POLICY[what], path.read_text()), f"{path.name} holds {what}"


@pytest.mark.parametrize("path", TEMPLATES, ids=template_id)
def test_every_word_that_a_person_sees_can_be_translated(path: Path) -> None:
    bare = set(re.findall(r"[A-Za-z]{2,}", " ".join(visible_text(path.read_text())))) - NAMES
    assert not bare, f"{path.name} says {sorted(bare)} outside of _()"


@pytest.mark.parametrize("path", TEMPLATES, ids=template_id)
def test_every_form_that_posts_carries_the_token_against_forgery(path: Path) -> None:
    for form in re.findall(r"<form[^>]*method=\"post\"(?:.|\n)*?</form>", path.read_text()):
        assert "csrf()" in form or 'action="/setup"' in form, f"{path.name}: {form[:80]}"


def test_the_chinese_catalogue_has_every_text_and_no_other() -> None:
    texts, chinese = english_texts(), chinese_catalogue()
    assert {text for text in texts if not chinese.get(text)} == set()
    assert {text for text in chinese if text not in texts} == set()


def test_every_translation_fills_the_same_places() -> None:
    for english, chinese in chinese_catalogue().items():
        assert places(english) == places(chinese), english


def test_scripts_say_the_words_that_the_page_hands_them_and_no_others() -> None:
    handed = set(re.findall(r'^  "(\w+)": _\(', (FRONTEND / "parts" / "words.html").read_text(), re.MULTILINE))
    script = "\n".join(path.read_text() for path in SCRIPTS)
    said = set(re.findall(r'\bword\(\s*"(\w+)"', script)) | BY_VARIABLE
    assert said == {key for key in handed if not key.startswith(("state_", "doing_"))}


def test_every_state_of_a_run_has_a_word() -> None:
    handed = (FRONTEND / "parts" / "words.html").read_text()
    assert [state for state in State if f'"state_{state}": _(' not in handed] == []


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.name)
def test_every_class_that_is_styled_stands_on_some_page(path: Path) -> None:
    unknown = styled_classes(path.read_text()) - known_classes()
    by_rule = {name for name in unknown if CLASSES_BY_NUMBER.fullmatch(name) or CLASSES_OF_LIBRARIES.fullmatch(name)}
    assert unknown - by_rule == set()


def styled_classes(style: str) -> set[str]:
    selectors = re.findall(r"([^{};]*)\{", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))
    return {name for selector in selectors for name in re.findall(r"\.([A-Za-z][\w-]*)", selector)}


@cache
def known_classes() -> set[str]:
    """What stands in class attributes, and every quoted word of Jinja's expressions and of scripts: classes pass through both."""
    known: set[str] = set()
    for path in TEMPLATES:
        template = re.sub(r"\{#.*?#\}", "", path.read_text(), flags=re.DOTALL)
        known |= words_of(re.findall(r'\bclass="([^"]*)"', template))
        for expression in re.findall(r"\{[{%](.*?)[%}]\}", template, flags=re.DOTALL):
            known |= quoted_words(re.sub(r'\b_\("[^"]*"', "", expression))
    return known.union(*(quoted_words(re.sub(r"//.*", "", path.read_text())) for path in SCRIPTS))


def quoted_words(source: str) -> set[str]:
    return words_of(text for quote in "\"'`" for text in re.findall(f"{quote}([^{quote}]*){quote}", source))


def words_of(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[\w-]+", text)}


def english_texts() -> set[str]:
    """What templates say, and the help of every setting, which the form translates when it draws it."""
    return {text for path in TEMPLATES for text in texts_of(path)} | set(help_texts(Recipe, set()))


def texts_of(path: Path) -> Iterator[str]:
    environment = Environment(extensions=["jinja2.ext.i18n"], autoescape=True)
    for _line, _function, texts in environment.extract_translations(path.read_text()):  # type: ignore[attr-defined]
        yield from ([texts] if isinstance(texts, str) else filter(None, texts or ()))


def help_texts(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    seen.add(model)
    for info in model.model_fields.values():
        if info.description:
            yield info.description
        for each in models_in(info.annotation):
            if each not in seen:
                yield from help_texts(each, seen)


def chinese_catalogue() -> dict[str, str]:
    catalogue: dict[str, str] = json.loads((FRONTEND / "locales" / "zh.json").read_text("utf-8"))
    return catalogue


def places(text: str) -> set[str]:
    return {name for _text, name, _spec, _conversion in Formatter().parse(text) if name}


def visible_text(template: str) -> Iterator[str]:
    """Text between tags and in attributes that are read aloud, with everything that Jinja computes taken out."""
    plain = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", " ", template, flags=re.DOTALL)
    plain = re.sub(r"<(code|pre|kbd|script)\b.*?</\1>", " ", plain, flags=re.DOTALL)
    yield from re.findall(r'(?:aria-label|title|alt)="([^"]*)"', plain)
    untagged = re.sub(r"<[^>]*>", " ", plain)
    yield re.sub(r"&\w+;|[\w-]+=(?:\"[^\"]*\"|'[^']*')", " ", untagged)  # some blocks hold only a tag's attributes
