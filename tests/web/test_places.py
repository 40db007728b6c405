"""The list of places names every page that the application has: what is looked at, measured and tested is all of it."""

from __future__ import annotations

from fastapi import FastAPI

from tests.support.places import NO_PAGES, PLACES
from tests.support.routes import declared_routes


def test_every_page_is_a_place(app: FastAPI) -> None:
    shown = {path for method, path in declared_routes(app) if method == "GET" and not path.startswith("/api/v1/")}
    assert shown == {place.route for place in PLACES} | NO_PAGES.keys()


def test_no_two_places_share_a_name() -> None:
    assert len({place.name for place in PLACES}) == len(PLACES)
