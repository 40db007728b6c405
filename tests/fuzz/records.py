"""What each round of a campaign has tried and found: a line a round, so that the next call goes on behind the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.findings import Figures
from tests.fuzz.reach import End, Reach
from tests.support.figures import ROOT, keep, kept_in

KEPT = ROOT / "build" / "fuzz"
"""Findings, and the rounds of a campaign that goes on over several calls."""


@dataclass(frozen=True)
class Record:
    """One round: `fuzzer` and `seed` name its campaign, `what` and `who` what it was about."""

    fuzzer: str
    seed: int
    what: str
    """The phase over the API, the machine, or the reader."""
    who: str = ""
    """As whom the API was asked."""
    cases: int = 0
    steps: int = 0
    """Steps of a state machine, or sequences over the API in which one answer led to the next request."""
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    findings: tuple[str, ...] = ()
    commit: str = ""
    end: End = End.ITSELF
    reach: Reach = field(default_factory=Reach)
    """Over the API."""

    @property
    def was_cut(self) -> bool:
        """Whether time ended it: what it asked was asked, but what it was about was not tried to the end."""
        return self.end is End.CLOCK

    @classmethod
    def of(cls, fuzzer: str, seed: int, what: str, figures: Figures, who: str = "") -> Record:
        """What was seen just now."""
        found = tuple(figures.findings)
        return cls(fuzzer, seed, what, who, figures.cases, figures.steps, figures.seconds, figures.kinds, found)


@dataclass(frozen=True)
class Records:
    """The rounds of all calls, in a file."""

    path: Path = KEPT / "rounds.jsonl"

    def load(self) -> list[Record]:
        return kept_in(self.path, Record)

    def add(self, record: Record) -> None:
        keep(self.path, record)

    def of(self, fuzzer: str, seed: int) -> list[Record]:
        """The rounds of one campaign."""
        return [each for each in self.load() if (each.fuzzer, each.seed) == (fuzzer, seed)]


def cases(records: Sequence[Record]) -> int:
    return sum(each.cases for each in records)
