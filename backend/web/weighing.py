"""What the rows of a data set teach and what every cut of them costs, as a page draws it."""

from __future__ import annotations

from dataclasses import dataclass

from backend.core.lengths import Lengths, Outcome, Truncation

USUAL_CUTS = (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Verdict:
    """What a run on these rows would learn. `told` is what the trainer would do as things are chosen, `ways` what each
    choice costs where rows are too long."""

    tone: str
    told: Outcome
    dropping: Outcome
    cutting: Outcome
    share: float
    needs_choice: bool
    fits_context: bool


def verdict_of(whole: Lengths, limit: int, truncation: Truncation) -> Verdict:
    told, dropping, cutting = whole.at(limit, truncation), whole.at(limit, "drop"), whole.at(limit, "cut_end")
    needs_choice = truncation == "refuse" and told.over > 0
    is_stopped = bool(whole.refused or whole.endless or not told.rows)
    tone = "bad" if is_stopped else "warn" if needs_choice else "good"
    learned = cutting.trained_tokens if needs_choice else told.trained_tokens
    tokens = cutting.tokens if needs_choice else told.tokens
    fits = whole.context_length is None or whole.longest <= whole.context_length
    return Verdict(tone, told, dropping, cutting, learned / tokens if tokens else 0.0, needs_choice, fits)


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    height: float
    first: int
    last: int
    rows: int
    is_over: bool
    is_open: bool
    """Holds everything longer too."""


@dataclass(frozen=True)
class Histogram:
    """Bars in percent of the drawing. `top` is the length at its right edge."""

    bars: list[Bar]
    top: int
    step: int
    """What an arrow key moves the cut by."""
    lines: list[tuple[float, int]]
    ticks: list[tuple[float, int]]
    cut: float


BAR_GAP = 0.5
HEIGHT = 90.0
"""The highest bar's, in percent: the grip of the cut stands above."""


def histogram_of(whole: Lengths, limit: int) -> Histogram:
    bins = whole.histogram()
    if not bins:
        return Histogram([], 1, 1, [], [], 0.0)
    width, top = bins[0][1], bins[-1][1]
    most = max(rows for _, _, rows in bins)
    scale = 100 / top
    bars = [
        Bar(
            x=first * scale + BAR_GAP / 2,
            width=(last - first) * scale - BAR_GAP,
            height=max(HEIGHT * rows / most, 0.6) if rows else 0.0,
            first=first,
            last=last - 1,
            rows=rows,
            is_over=first >= limit,
            is_open=last == top and whole.longest >= top,
        )
        for first, last, rows in bins
    ]
    every = nice(top / 5)
    lines = [(100 - HEIGHT * rows / most, rows) for rows in range(nice(most / 4), most + 1, nice(most / 4))]
    ticks = [(at * scale, at) for at in range(0, top + 1, every)]
    return Histogram(bars, top, max(1, width // 4), lines, ticks, min(100.0, limit * scale))


def nice(least: float) -> int:
    """1, 2, 5, 10, 20, 50 …: the first that is not below."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10


def costs_of(whole: Lengths, limit: int) -> list[Outcome]:
    """What some cuts cost: round lengths below the longest row, the one that is chosen, and none at all."""
    below = [each for each in USUAL_CUTS if each < whole.longest and whole.at(each, "cut_end").trained_tokens]
    near = sorted(below, key=lambda each: abs(each - limit))[:3]
    most = whole.limit(whole.longest)
    return [
        whole.at(each, "cut_end") for each in sorted({whole.limit(each) for each in (*near, min(limit, most), most)})
    ]
