"""Lengths and findings on the page of a data set: begun once, told how far they are, and kept on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backend.core import lengths, quality
from backend.core.lengths import Lengths, Lens, Outcome, Truncation
from backend.core.models import DatasetVersion
from backend.core.quality import Finding
from backend.core.settings import Settings
from backend.web.failures import problem_out
from backend.web.looking import Look
from backend.web.shapes.common import ProblemOut
from backend.web.weighing import Histogram, Verdict, costs_of, histogram_of, verdict_of
from backend.web.works import Work

if TYPE_CHECKING:
    from backend.web.deps import Edge

SOON_SECONDS = 0.4
"""What is done by then is shown at once; what is not, with its progress."""


@dataclass(frozen=True)
class Measured:
    """What a cut costs; or how far the measuring is; or why there is none."""

    whole: Lengths | None = None
    cut_at: int = 0
    done: int = 0
    of: int = 0
    error: ProblemOut | None = None
    has_model: bool = True

    @property
    def is_waiting(self) -> bool:
        return self.whole is None and self.error is None and self.has_model

    @property
    def limit(self) -> int:
        """Where rows are cut: never beyond what the model can read."""
        return self.whole.limit(self.cut_at) if self.whole else self.cut_at

    def verdict(self, truncation: Truncation) -> Verdict:
        assert self.whole is not None
        return verdict_of(self.whole, self.limit, truncation)

    @property
    def histogram(self) -> Histogram:
        assert self.whole is not None
        return histogram_of(self.whole, self.limit)

    @property
    def costs(self) -> list[Outcome]:
        assert self.whole is not None
        return costs_of(self.whole, self.limit)


def measured(settings: Settings, version: DatasetVersion, look: Look) -> Measured:
    """What is known by now. Looks at the disk alone."""
    if look.lens is None:
        return Measured(has_model=False)
    whole = lengths.known(settings, version, look.lens)
    return Measured(whole, look.cut_at(whole.context_length) if whole else 0, of=version.rows)


async def measure(edge: Edge, version: DatasetVersion, look: Look, seconds: float | None = SOON_SECONDS) -> Measured:
    """The same; what is not known is begun, and waited for a while."""
    found = await asyncio.to_thread(measured, edge.settings, version, look)
    if found.whole or look.lens is None:
        return found
    standing = await _measuring(edge, version, look.lens, seconds)
    if standing is None:
        return await asyncio.to_thread(measured, edge.settings, version, look)
    failure = standing.failure
    return replace(
        found, done=standing.done, of=standing.of or version.rows, error=problem_out(failure) if failure else None
    )


async def _measuring(edge: Edge, version: DatasetVersion, lens: Lens, seconds: float | None) -> Work | None:
    def work(standing: Work) -> Any:
        return lengths.measure(
            edge.settings, version, lens, on_progress=standing.progress, cancelled=lambda: standing.is_stopped
        )

    return await edge.studio.works.soon((version.sha256, lens), work, seconds, edge.who.id)


async def lengths_of(edge: Edge, version: DatasetVersion, lens: Lens) -> Lengths:
    """The lengths, however long they take. Raises `StudioError` where they are not to be had."""
    known = await asyncio.to_thread(lengths.known, edge.settings, version, lens)
    if known is not None:
        return known
    standing = await _measuring(edge, version, lens, None)
    if standing and standing.failure:
        raise standing.failure
    return await asyncio.to_thread(lengths.measure, edge.settings, version, lens)


@dataclass(frozen=True)
class Found:
    """The findings; or how far the search for them is."""

    findings: list[Finding] | None = None
    done: int = 0
    of: int = 0
    error: ProblemOut | None = None


async def find(edge: Edge, version: DatasetVersion, seconds: float | None = SOON_SECONDS) -> Found:
    """The findings; what has not been looked for is begun, and waited for a while."""
    known = await asyncio.to_thread(quality.known, edge.settings, version)
    if known is not None:
        return Found(known)
    standing = await _looking(edge, version, seconds)
    if standing is None:
        return Found(await asyncio.to_thread(quality.known, edge.settings, version))
    failure = standing.failure
    return Found(None, standing.done, standing.of or version.rows, problem_out(failure) if failure else None)


async def _looking(edge: Edge, version: DatasetVersion, seconds: float | None) -> Work | None:
    def work(standing: Work) -> Any:
        return quality.look(
            edge.settings, version, on_progress=standing.progress, cancelled=lambda: standing.is_stopped
        )

    return await edge.studio.works.soon((version.sha256, "quality"), work, seconds, edge.who.id)


async def findings_of(edge: Edge, version: DatasetVersion) -> list[Finding]:
    """The findings, however long they take. Raises `StudioError` where they are not to be had."""
    known = await asyncio.to_thread(quality.known, edge.settings, version)
    if known is not None:
        return known
    standing = await _looking(edge, version, None)
    if standing and standing.failure:
        raise standing.failure
    return await asyncio.to_thread(quality.look, edge.settings, version)
