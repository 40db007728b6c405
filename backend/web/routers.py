"""Routers that know from the start all that their routes are, so that the application takes each route as it was built.

`include_router` builds every route once more for the place where it is included, and lazily so again where routers are nested:
a tenth of the cold start.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute

API = "/api/v1"


def api_router(path: str, tag: str) -> APIRouter:
    """For one resource of the API."""
    return APIRouter(prefix=f"{API}{path}", tags=[tag], generate_unique_id_function=operation_id)


def page_router() -> APIRouter:
    """For the pages of one place, which the API's description leaves out."""
    return APIRouter(include_in_schema=False)


def operation_id(route: APIRoute) -> str:
    """`runs_create`: the resource and the function. Clients made from the schema read well."""
    return f"{str(route.tags[0]).replace(' ', '_')}_{route.name}"
