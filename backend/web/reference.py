"""The API's own description: the OpenAPI document, and a page that draws it with nothing from outside."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from backend.web.contexts.rooms import DocsPage
from backend.web.routers import page_router
from backend.web.shapes.common import ErrorOut
from backend.web.studio import studio_of

router = page_router()

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


ERRORS = {
    "400": "The request is malformed.",
    "401": "Nobody is signed in, or the token does not hold.",
    "403": "Your role does not allow it, or the request came from another site.",
    "404": "There is no such thing.",
    "405": "The address exists, but not for this method.",
    "409": "It is not in a state in which this can be done.",
    "413": "Too large.",
    "422": "What was sent cannot be used; `problems` lists everything wrong with it.",
    "423": "Somebody else is writing to it at this moment.",
    "429": "Too many at once; `Retry-After` says when to try again.",
    "500": "Our own fault; `incident` finds it in the log.",
    "503": "A service that this needs cannot be reached now.",
    "507": "The disk is full, or takes no file.",
}
WORD: dict[str, Any] = {"type": "string"}
WAIT: dict[str, Any] = {"required": True, "schema": {"type": "integer"}, "description": "Seconds to wait."}
HEADERS: dict[str, Any] = {
    "401": {"WWW-Authenticate": {"required": True, "schema": WORD, "description": "`Bearer`."}},
    "405": {"Allow": {"required": True, "schema": WORD, "description": "The methods that are possible."}},
    "429": {"Retry-After": WAIT},
    "503": {"Retry-After": WAIT},
}
"""What comes beside the error itself."""
COMPONENT = "#/components/schemas/{model}"


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
        describe_errors(made)
        describe_repeats(made)
        made["components"]["securitySchemes"] = SCHEMES
        made["security"] = [{name: []} for name in SCHEMES]
        app.openapi_schema = made
    return app.openapi_schema


def describe_errors(document: dict[str, Any]) -> None:
    """Every operation may answer with any of the errors. They are written into the document, since declaring them on each
    route would build hundreds of validators at the start that never validate anything.
    """
    schema = ErrorOut.model_json_schema(ref_template=COMPONENT, mode="serialization")
    shapes = document["components"]["schemas"]
    shapes |= {**schema.pop("$defs"), "ErrorOut": schema}
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's own 422, which is never sent
        shapes.pop(name, None)
    content = {"application/json": {"schema": {"$ref": COMPONENT.format(model="ErrorOut")}}}
    refusals = {
        status: {"description": words, "content": content} | ({"headers": HEADERS[status]} if status in HEADERS else {})
        for status, words in ERRORS.items()
    }
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"] |= refusals


def describe_repeats(document: dict[str, Any]) -> None:
    """The key that makes a request safe to send again says something with POST alone. One dependency of all routes reads
    it, so the framework describes it everywhere."""
    for path in document["paths"].values():
        for method, operation in path.items():
            if method != "post":
                parameters = operation.pop("parameters", [])
                kept = [each for each in parameters if each["name"] != "idempotency-key"]
                operation |= {"parameters": kept} if kept else {}
