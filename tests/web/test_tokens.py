"""The colours of both themes: whatever may be read on a surface is told apart from it, by WCAG's own formula."""

from __future__ import annotations

import re
from itertools import product

import pytest

from tests.conftest import ROOT

TOKENS = (ROOT / "frontend" / "styles" / "tokens.css").read_text()
THEMES = ("light", "dark")
SURFACES = ("paper", "sheet", "well", "raised", "hover")
TEXTS = ("text", "text-2", "text-3", "ink", "ink-strong", "pencil", "good", "warn", "bad")
ON_WASHES = [
    ("on-ink", "ink"), ("on-ink", "ink-strong"), ("ink", "ink-wash"), ("ink-strong", "ink-wash"), ("text", "ink-wash"),
    ("text-2", "ink-wash"), ("good", "good-wash"), ("warn", "warn-wash"), ("bad", "bad-wash"), ("text", "good-wash"),
    ("text", "warn-wash"), ("text", "bad-wash"), ("text-2", "warn-wash"), ("text-2", "bad-wash"),
]  # fmt: skip
LINES = [("edge", surface) for surface in ("paper", "sheet", "well")] + [
    (f"series-{number}", surface) for number in range(1, 7) for surface in ("sheet", "paper")
]


def colours(theme: str) -> dict[str, str]:
    pairs = re.findall(r"--([\w-]+): light-dark\(#(\w{6})\w*, #(\w{6})\w*\);", TOKENS)
    return {name: (light, dark)[THEMES.index(theme)] for name, light, dark in pairs}


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_that_of_the_standard() -> None:
    assert contrast("000000", "ffffff") == pytest.approx(21)
    assert contrast("767676", "ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("text", "surface"), [*product(TEXTS, SURFACES), *ON_WASHES])
def test_a_text_can_be_read_on_its_surface(theme: str, text: str, surface: str) -> None:
    known = colours(theme)
    assert contrast(known[text], known[surface]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("line", "surface"), LINES)
def test_what_can_be_operated_and_what_is_drawn_stands_out(theme: str, line: str, surface: str) -> None:
    known = colours(theme)
    assert contrast(known[line], known[surface]) >= 3
