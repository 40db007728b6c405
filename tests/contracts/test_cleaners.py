"""What holds of every cleaner of the catalog, also of one that is added tomorrow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.core.catalog import CLEANERS
from backend.core.cleaners.base import Cleaner
from backend.core.datasets.schema import Message, Row

FRONTEND = Path(__file__).resolve().parents[2] / "frontend"
HARMLESS = Row(1, (Message("user", "What eats mice?"), Message("assistant", "The owl eats mice in the barn at night.")))
HOSTILE = ("", " ", "a" * 200_000, "@" * 50_000, "1-" * 50_000, "+1 " * 30_000, "a@" + "b." * 50_000, "<|" * 50_000)

each_cleaner = pytest.mark.parametrize("kind", CLEANERS, ids=lambda kind: kind.name)


@each_cleaner
def test_it_leaves_an_ordinary_row_alone(kind: type[Cleaner]) -> None:
    assert kind().see(0, HARMLESS) is None


@each_cleaner
@pytest.mark.timeout(20)
def test_no_text_takes_it_long(kind: type[Cleaner]) -> None:
    cleaner = kind()
    for place, text in enumerate(HOSTILE):
        cleaner.see(place, Row(place, (Message("user", text), Message("assistant", text))))
        cleaner.see(place, Row(place, text=text))


@each_cleaner
def test_a_mended_row_is_found_no_more(kind: type[Cleaner]) -> None:
    cleaner = kind()
    row = Row(
        1, (Message("user", "Who?"), Message("assistant", "As an AI: ana@example.org, (555) 123-4567 <|im_end|> â€™"))
    )
    mended = cleaner.mended(row)
    assert mended is None or kind().see(0, mended) is None


@each_cleaner
def test_it_has_a_name_a_reason_and_a_badge_on_the_page(kind: type[Cleaner]) -> None:
    words = (FRONTEND / "parts" / "findings.html").read_text()
    assert len(re.findall(rf'(?:finding\.)?name == "{kind.name}"', words)) == 4
