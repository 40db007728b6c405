"""Every route of an application, for tests that leave none out."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

WRITES = ("POST", "PUT", "PATCH", "DELETE")


def routes_of(app: FastAPI) -> Iterator[tuple[str, APIRoute]]:
    """Every route, and its whole path as it was declared."""
    return ((route.path, route) for route in app.routes if isinstance(route, APIRoute))


def declared_routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every (method, path) that the application answers to."""
    for path, route in routes_of(app):
        yield from ((method, path) for method in sorted(route.methods or ()))


def questions_of(route: APIRoute) -> list[str]:
    """The names of everything that a route takes in its query."""

    def walk(dependant: Dependant) -> Iterator[str]:
        yield from (field.alias for field in dependant.query_params)
        for each in dependant.dependencies:
            yield from walk(each)

    return list(dict.fromkeys(walk(route.dependant)))
