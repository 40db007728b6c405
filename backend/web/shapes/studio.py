"""The studio itself: what a search finds, its workers, its disk."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from backend.web.shapes.common import Json, Out
from backend.web.shapes.runs import StateName


class HitOut(Out):
    """Something whose name holds the words that were searched for."""

    kind: Literal["run", "dataset", "model", "recipe"]
    name: str = Field(examples=["support-answers"])
    note: str | None = Field(None, examples=["training"], description="The state of a run.")
    address: str = Field(examples=["/datasets/support-answers"], description="Its page.")


class DeviceOut(Out):
    name: str = Field(examples=["cuda:0"])
    title: str
    memory_bytes: int
    run: str | None = Field(None, description="The run that holds it now.")
    held_gib: float | None = Field(None, description="What that run's trainer last said it holds, at its peak.")


class WorkerOut(Out):
    name: str
    place: str
    facts: Json
    devices: list[DeviceOut]
    runs: list[str] = Field(description="Names of the runs that it holds.")
    started_at: datetime
    seen_at: datetime
    drained_at: datetime | None = Field(None, description="Since when it takes no further run.")
    is_alive: bool = Field(description="Whether it was heard of lately.")


class RunBytesOut(Out):
    id: UUID
    name: str | None = Field(None, description="Null where the run is gone.")
    owner: str | None = None
    state: StateName | None = None
    bytes: int


class WasteOut(Out):
    """What a clean-up deletes: nothing that a row names or an act can bring back."""

    uploads: int = Field(description="Uploads that nobody went on with for a day.")
    upload_bytes: int
    artifacts: int = Field(description="Artifacts that a later end of their run replaced.")
    artifact_bytes: int
    runs: int = Field(description="Discarded runs whose time to be brought back is over.")
    run_bytes: int
    total_bytes: int


class StorageOut(Out):
    """The disk under the home. It is measured now and then in the background; null figures are not known yet."""

    at: datetime | None = None
    is_measuring: bool
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    kinds: dict[str, int] = Field(default_factory=dict, examples=[{"models": 9663676416, "checkpoints": 1048576}])
    runs: list[RunBytesOut] = Field(default_factory=list, description="The largest runs.")
    waste: WasteOut | None = None
