"""The list of data sets, and one of them with its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.datasets.examples import Example
from backend.core.datasets.store import Narrowed
from backend.core.models import Dataset
from backend.web.contexts.page import Page
from backend.web.shapes.common import Json
from backend.web.shapes.datasets import DatasetOut, OperationOut, UploadOut
from backend.web.shapes.models import BaseOut

if TYPE_CHECKING:
    from backend.core.datasets.differing import Difference
    from backend.web.inspecting import Panel
    from backend.web.lineages import VersionLine
    from backend.web.looking import Look
    from backend.web.measuring import Found, Measured


@dataclass(frozen=True)
class DatasetsPage(Page):
    """GET /datasets?q=&shape=&sort=&offset=, and ?removed=1 for those that were deleted.

    Uploads go by script: PUT /api/v1/datasets/{name}, or tus at /api/v1/uploads with metadata `dataset`, `filename`.
    POST /datasets/example (`example`), /datasets/{name}/delete and /datasets/{name}/restore (undo).
    """

    template = "datasets.html"
    datasets: list[DatasetOut]
    total: int
    """How many the list would hold without an end."""
    wanted: Narrowed
    formats: list[str]
    """The shapes that there are, to narrow the list by."""
    next_offset: int | None
    operations: list[OperationOut]
    """Uploads that are being read, and one's own that failed lately."""
    uploads: list[UploadOut]
    """One's own uploads of which nothing became as yet."""
    some_broke_off: bool
    removed: list[Dataset]
    shows_removed: bool
    is_empty: bool
    """There is no data set at all: the page teaches."""
    examples: Mapping[str, Example]
    deleted: str = ""
    """A data set that was just deleted and can be brought back."""


@dataclass(frozen=True)
class DatasetPage(Page):
    """All that is looked at stands in the address (`look`). What is not known yet is asked for by parts of the page:
    `/datasets/{name}/preview`, `/measured` and `/quality`, with the same query.

    POST /datasets/{name}/mend (`version`, `cleaner`) makes a new version; POST /datasets/{name}/delete.
    """

    template = "dataset.html"
    dataset: DatasetOut
    look: Look
    version: VersionLine
    """The version that is shown."""
    history: list[VersionLine]
    models: list[BaseOut]
    """Whose tokenizer the preview can use."""
    panel: Panel
    measured: Measured
    found: Found
    skipped: list[Json]
    """The first rows that were left out when the file was read, each with the reason."""
    made: bool = False
    """The version was just made by mending."""


@dataclass(frozen=True)
class PreviewPart(Page):
    """GET /datasets/{name}/preview: the rows in ink."""

    template = "parts/preview.html"
    look: Look
    panel: Panel
    measured: Measured
    found: Found


@dataclass(frozen=True)
class MeasuredPart(Page):
    """GET /datasets/{name}/measured: verdict and lengths, or how far the measuring is; then it asks again by itself."""

    template = "parts/measured.html"
    look: Look
    measured: Measured


@dataclass(frozen=True)
class VerdictPart(Page):
    """GET /datasets/{name}/verdict: what changes while the cut is moved by hand."""

    template = "parts/verdict.html"
    look: Look
    measured: Measured


@dataclass(frozen=True)
class QualityPart(Page):
    """GET /datasets/{name}/quality: the findings, or how far the search for them is."""

    template = "parts/quality.html"
    look: Look
    found: Found
    skipped: list[Json]
    skipped_rows: int


@dataclass(frozen=True)
class VersionsPage(Page):
    """GET /datasets/{name}/compare?before=&after=: what two versions differ in."""

    template = "dataset-versions.html"
    dataset: DatasetOut
    before: VersionLine
    after: VersionLine
    history: list[VersionLine]
    difference: Difference
