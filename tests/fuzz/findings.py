"""What a fuzzer found, kept so that it can be repeated, and the figures of what it tried."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One thing that must not be. `where` and `what` name it; `how` repeats it."""

    where: str
    what: str
    how: str

    def keep(self, folder: Path) -> Path:
        """Write it down under a name of its own, so that the same finding is one file however often it is met."""
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(f"{self.where}\0{self.what}".encode("utf-8", "replace")).hexdigest()[:12]
        path = folder / f"{name}.txt"
        path.write_text(f"{self.where}\n{self.what}\n\n{self.how}\n", encoding="utf-8", errors="backslashreplace")
        return path

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Figures:
    """How much was tried, in kinds that matter to the fuzzer, and what came of it."""

    cases: int = 0
    steps: int = 0
    """Where a case takes several."""
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    """By their words: what is met a hundred times is one finding."""

    def found(self, finding: Finding) -> None:
        self.findings.setdefault(str(finding), finding)

    def __str__(self) -> str:
        return f"{told(self.cases, self.steps, self.seconds, self.kinds)}: {len(self.findings)} findings"


def told(cases: int, steps: int, seconds: float, kinds: Counter[str]) -> str:
    """`1,500 cases, 233 steps in 27 s (200 1,490, 404 10)`."""
    words = f" ({in_words(kinds)})" if kinds else ""
    return f"{cases:,} cases{f', {steps:,} steps' if steps else ''} in {seconds:,.0f} s{words}"


def in_words(kinds: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(kinds.items()))
