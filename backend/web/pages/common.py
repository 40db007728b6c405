"""What the routes of pages share: forms in, pages and redirects out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request
from starlette.responses import RedirectResponse, Response

from backend.core.errors import StudioError
from backend.web.contexts.page import Page
from backend.web.failures import headers_of
from backend.web.security import form_fields
from backend.web.studio import studio_of


def draw(request: Request, page: Page, *, status: int | None = None, error: StudioError | None = None) -> Response:
    """With the status and the headers of the error, where the page tells one."""
    renderer = studio_of(request).renderer
    if error:
        return renderer.page(request, page, status=error.status, headers=headers_of(error))
    return renderer.page(request, page, status=status)


def go(address: str) -> Response:
    """A redirect after a form, so that a reload does not send it again."""
    return RedirectResponse(address, 303)


def path_to(place: str, name: str) -> str:
    """`/runs/two%20words`."""
    return f"/{place}/{quote(name, safe='')}"


async def form_pairs(request: Request) -> list[tuple[str, str]]:
    return form_fields(request.headers, await request.body())


Pairs = Annotated[list[tuple[str, str]], Depends(form_pairs)]


def form_of(pairs: Pairs) -> Mapping[str, str]:
    """A form with one value a name; the last wins."""
    return dict(pairs)


Form = Annotated[Mapping[str, str], Depends(form_of)]
