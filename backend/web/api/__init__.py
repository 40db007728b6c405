"""The resources of `/api/v1`, one file each."""

from __future__ import annotations

from backend.web.api import (
    artifacts,
    audit,
    compare,
    dataset,
    datasets,
    events,
    me,
    models,
    operations,
    people,
    preflight,
    recipes,
    runs,
    search,
    storage,
    tokens,
    uploads,
    workers,
)

ROUTERS = (
    datasets.router,
    dataset.router,
    uploads.router,
    models.router,
    preflight.router,
    runs.router,
    compare.router,
    events.router,
    artifacts.router,
    recipes.router,
    search.router,
    operations.router,
    workers.router,
    storage.router,
    audit.router,
    me.router,
    tokens.router,
    people.router,
)
