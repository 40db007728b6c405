"""Worker hosts and their accelerators."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import Field, StrictBool
from sqlalchemy.orm import Session

from backend.core import people, runs
from backend.core.people import Identity
from backend.core.strict import Strict
from backend.web import reading
from backend.web.deps import Admin, AnEdge
from backend.web.routers import api_router
from backend.web.shapes.studio import WorkerOut

router = api_router("/workers", "workers")


@router.get("")
async def list_workers(edge: AnEdge) -> list[WorkerOut]:
    """Every worker host that was ever heard of, with what it holds now."""
    return await edge.read(reading.workers)


class ChangeWorker(Strict):
    drained: StrictBool = Field(examples=[True], description="It finishes what it holds and takes no further run.")


@router.patch("/{worker}")
async def change(
    worker: Annotated[str, Path(max_length=255, description="The worker's name.", examples=["gpu-box"])],
    body: ChangeWorker,
    edge: AnEdge,
    admin: Admin,
) -> WorkerOut:
    """Drain a worker before its machine is looked after, and let it go again. For administrators."""

    def work(session: Session) -> WorkerOut:
        drain(session, worker, admin, is_drained=body.drained)
        return next(each for each in reading.workers(session) if each.name == worker)

    return await edge.write(work)


def drain(session: Session, worker: str, admin: Identity, *, is_drained: bool) -> None:
    runs.drain(session, worker, is_drained=is_drained)
    session.flush()
    people.audit(session, admin.id, "worker.drain" if is_drained else "worker.release", worker)
