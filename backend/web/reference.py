"""The API's own description: the OpenAPI document, and a page that draws it with nothing from outside."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from backend.web.contexts import DocsPage
from backend.web.studio import studio_of

router = APIRouter(include_in_schema=False)

DESCRIPTION = """Fine-tune language models: send data, launch runs, watch them, take what they made.

Send an API token as `Authorization: Bearer fts_…` (Settings, or `studio token create`). Names and ids are
interchangeable in every address. Errors have one shape, `ErrorOut`. An `Idempotency-Key` makes a POST safe to send again.
"""
SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token."},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "studio",
        "description": "The cookie of a signed-in browser (`__Host-studio` over HTTPS); writes add `X-CSRF-Token`.",
    },
}
TAGS = {
    "data sets": "Versioned, immutable, normalised.",
    "uploads": "Resumable uploads by tus 1.0.",
    "operations": "Background work on data.",
    "models": "Base models.",
    "recipes": "Saved recipes.",
    "runs": "The life of a run.",
    "artifacts": "What runs give away.",
    "workers": "Hosts that train.",
    "people": "Accounts and roles.",
    "tokens": "API tokens.",
}


@router.get("/api/v1/openapi.json")
async def openapi(request: Request) -> Response:
    return JSONResponse(document(request.app))


@router.get("/api/docs")
async def docs(request: Request) -> Response:
    return studio_of(request).renderer.page(request, DocsPage())


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document; made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
            tags=[{"name": name, "description": words} for name, words in TAGS.items()],
        )
        made["components"]["securitySchemes"] = SCHEMES
        made["security"] = [{name: []} for name in SCHEMES]
        app.openapi_schema = made
    return app.openapi_schema
