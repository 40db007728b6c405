"""What a fuzzer found, kept so that it can be repeated, and the figures of what it tried."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".fuzz"
"""Findings and the state of a campaign that goes on over several calls. Git ignores it."""


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
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    """By their words: what is met a hundred times is one finding."""

    def found(self, finding: Finding) -> None:
        self.findings.setdefault(str(finding), finding)

    def add(self, other: Figures) -> None:
        self.cases += other.cases
        self.seconds += other.seconds
        self.kinds += other.kinds
        self.findings |= other.findings

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(self.kinds.items()))
        return f"{self.cases:,} cases in {self.seconds:,.0f} s ({kinds}): {len(self.findings)} findings"


@dataclass
class Progress:
    """How far a campaign has come over all calls: the next one goes on where this one stopped."""

    path: Path
    rounds: int = 0
    cases: int = 0

    @classmethod
    def of(cls, path: Path) -> Progress:
        """The campaign's progress, or the beginning of one."""
        return cls(path, **json.loads(path.read_text())) if path.exists() else cls(path)

    def advance(self, cases: int) -> None:
        self.rounds, self.cases = self.rounds + 1, self.cases + cases
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"rounds": self.rounds, "cases": self.cases}))
