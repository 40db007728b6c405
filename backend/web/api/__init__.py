"""The resources of `/api/v1`, one file each."""

from __future__ import annotations

from backend.web.api import (
    artifacts,
    datasets,
    events,
    me,
    models,
    operations,
    people,
    preflight,
    recipes,
    runs,
    tokens,
    uploads,
    workers,
)

ROUTERS = (
    datasets.router,
    uploads.router,
    models.router,
    preflight.router,
    runs.router,
    events.router,
    artifacts.router,
    recipes.router,
    operations.router,
    workers.router,
    me.router,
    tokens.router,
    people.router,
)
