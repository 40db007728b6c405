"""Every page of the studio, and every state of it that has an address, for whoever looks at all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from backend.core import people
from tests.support import gallery
from tests.support.webs import SignedIn, Web


class Stage(StrEnum):
    """How far the studio is that the page is looked at in."""

    NEW = "new"  # nobody has signed in yet
    EMPTY = "empty"  # somebody has, and nothing is there
    FULL = "full"  # it has been worked in


@dataclass(frozen=True)
class Place:
    """A page in one state. `route` is the address as the application declares it."""

    name: str
    route: str
    path: str = ""
    stage: Stage = Stage.FULL
    is_signed_in: bool = True
    status: int = 200

    @property
    def address(self) -> str:
        return self.path or self.route


def run(name: str, story: str) -> Place:
    return Place(name, "/runs/{run}", f"/runs/{quote(story)}")


PLACES = (
    Place("setup", "/setup", stage=Stage.NEW, is_signed_in=False),
    Place("signin", "/signin", stage=Stage.EMPTY, is_signed_in=False),
    Place("home-empty", "/", stage=Stage.EMPTY),
    Place("datasets-empty", "/datasets", stage=Stage.EMPTY),
    Place("models-empty", "/models", stage=Stage.EMPTY),
    Place("new-run-empty", "/runs/new", stage=Stage.EMPTY),
    Place("runs-empty", "/runs", stage=Stage.EMPTY),
    Place("recipes-empty", "/recipes", stage=Stage.EMPTY),
    Place("home", "/"),
    Place("datasets", "/datasets"),
    Place("dataset", "/datasets/{name}", "/datasets/bike-repair"),
    Place("dataset-chats", "/datasets/{name}", "/datasets/workshop-chats"),
    Place("models", "/models"),
    Place("new-run", "/runs/new"),
    Place("new-run-clone", "/runs/new", f"/runs/new?clone={gallery.ENDED}"),
    Place("runs", "/runs"),
    run("run-live", gallery.LIVE),
    run("run-ended", gallery.ENDED),
    run("run-failed", gallery.FAILED),
    run("run-paused", gallery.PAUSED),
    run("run-queued", gallery.QUEUED),
    Place("recipes", "/recipes"),
    Place("people", "/people"),
    Place("settings", "/settings"),
    Place("help", "/help"),
    Place("api-docs", "/api/docs"),
    Place("error", "/runs/{run}", "/runs/nothing-of-that-name", status=404),
)

NO_PAGES = {
    "/healthz": "says that the process lives",
    "/datasets/{name}/preview": "a part of the data set's page",
    "/runs/{run}/status": "a part of the run's page",
    "/runs/{run}/artifacts": "a part of the run's page",
    "/runs/{run}/history": "a part of the run's page",
}
"""What else answers to GET outside of the API, and why nobody looks at it."""


@dataclass(frozen=True)
class Visit:
    """The studio at one stage, and who looks at it."""

    stage: Stage
    web: Web
    setup_link: str
    who: SignedIn | None = None

    @property
    def places(self) -> list[Place]:
        return [place for place in PLACES if place.stage == self.stage]

    def address(self, place: Place) -> str:
        return self.setup_link if place.route == "/setup" else place.address


def visits(web: Web, folder: Path, stages: Collection[Stage] = tuple(Stage)) -> Iterator[Visit]:
    """The same studio before anybody is there, while it is empty, and when it has been worked in. `folder` is for files."""
    with web.session() as session:
        link = people.setup_link(session, web.settings.folder("run")) or ""
        session.commit()
    yield Visit(Stage.NEW, web, link)
    ada = web.sign_in("ada")
    yield Visit(Stage.EMPTY, web, link, ada)
    if Stage.FULL in stages:
        gallery.fill(web, ada, folder)
        yield Visit(Stage.FULL, web, link, ada)
