"""The web application. Importing it is light: no torch, no transformers, and connections only when it starts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from backend.core.errors import StudioError
from backend.core.settings import Settings, settings
from backend.web import reference
from backend.web.api import ROUTERS
from backend.web.pages import PAGES
from backend.web.render import STATIC
from backend.web.repeats import Repeated
from backend.web.security import Guard
from backend.web.studio import Studio, studio_of

API_VERSION = "1.0.0"


class HashedFiles(StaticFiles):
    """Scripts and styles: their names carry a hash of their content, so they never change."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path == "manifest.json":
            raise HTTPException(404)
        return await super().get_response(path, scope)


def create_app(here: Settings | None = None) -> FastAPI:
    """The application for these settings; those of the environment by default."""
    studio = Studio(here or settings())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with studio.running():
            yield

    app = FastAPI(
        title="Finetune Studio",
        version=API_VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.studio = studio
    for each in (*ROUTERS, reference.router, *(page.router for page in PAGES)):
        app.router.routes.extend(each.routes)
    app.mount("/static", GZipMiddleware(HashedFiles(directory=STATIC, check_dir=False)), name="static")
    app.add_middleware(Guard, keeper=studio)
    for kind in (StudioError, HTTPException, RequestValidationError, Repeated):
        app.add_exception_handler(kind, refuse)
    return app


async def refuse(request: Request, error: Exception) -> Response:
    return await studio_of(request).refuse(request, error)
