"""Every page of the studio, and every state of it that has an address, for whoever looks at all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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


NEW_RUN = f"/runs/new?dataset=bike-repair&model={gallery.MODEL}&truncation=drop"
PLACES = (
    Place("setup", "/setup", stage=Stage.NEW, is_signed_in=False),
    Place("signin", "/signin", stage=Stage.EMPTY, is_signed_in=False),
    Place("home-empty", "/", stage=Stage.EMPTY),
    Place("datasets-empty", "/datasets", stage=Stage.EMPTY),
    Place("models-empty", "/models", stage=Stage.EMPTY),
    Place("new-run-empty", "/runs/new", stage=Stage.EMPTY),
    Place("runs-empty", "/runs", stage=Stage.EMPTY),
    Place("recipes-empty", "/recipes", stage=Stage.EMPTY),
    Place("compare-empty", "/compare", stage=Stage.EMPTY),
    Place("search-empty", "/search", "/search?q=nothing", stage=Stage.EMPTY),
    Place("home", "/"),
    Place("datasets", "/datasets"),
    Place("dataset", "/datasets/{name}", "/datasets/bike-repair"),
    Place("dataset-chats", "/datasets/{name}", "/datasets/workshop-chats"),
    Place("versions", "/datasets/{name}/compare", "/datasets/bike-repair/compare?before=1&after=2"),
    Place("models", "/models"),
    Place("new-run", "/runs/new"),
    Place("new-run-simple", "/runs/new", NEW_RUN),
    Place("new-run-advanced", "/runs/new", f"{NEW_RUN}&view=advanced"),
    Place("new-run-yaml", "/runs/new", f"{NEW_RUN}&view=yaml"),
    Place("new-run-stop", "/runs/new", f"/runs/new?dataset=bike-repair&model={gallery.MODEL}&view=advanced"),
    Place("new-run-clone", "/runs/new", f"/runs/new?clone={gallery.ENDED}"),
    Place("runs", "/runs"),
    run("run-live", gallery.LIVE),
    run("run-ended", gallery.ENDED),
    run("run-failed", gallery.FAILED),
    run("run-paused", gallery.PAUSED),
    run("run-queued", gallery.QUEUED),
    run("run-rich", gallery.RICH),
    Place("compare", "/compare", f"/compare?run={gallery.ENDED}&run={gallery.FIRST}&run={gallery.LIVE}"),
    Place("recipes", "/recipes"),
    Place("recipe", "/recipes/{recipe}", "/recipes/mechanic"),
    Place("search", "/search", "/search?q=repair"),
    Place("settings", "/settings"),
    Place("settings-you", "/settings/you"),
    Place("settings-sessions", "/settings/sessions"),
    Place("settings-tokens", "/settings/tokens"),
    Place("settings-people", "/settings/people"),
    Place("settings-workers", "/settings/workers"),
    Place("settings-storage", "/settings/storage"),
    Place("settings-audit", "/settings/audit"),
    Place("invitation", "/invitation", is_signed_in=False),
    Place("help", "/help"),
    Place("api-docs", "/api/docs"),
    Place("error", "/runs/{run}", "/runs/nothing-of-that-name", status=404),
)

NO_PAGES = {
    "/healthz": "says that the process lives",
    "/people": "leads to the people among the settings",
    "/datasets/{name}/preview": "a part of the data set's page",
    "/datasets/{name}/measured": "a part of the data set's page",
    "/datasets/{name}/verdict": "a part of the data set's page",
    "/datasets/{name}/quality": "a part of the data set's page",
    "/runs/new/row": "a part of the form of a new run",
    "/runs/{run}/status": "a part of the run's page",
    "/runs/{run}/artifacts": "a part of the run's page",
    "/runs/{run}/history": "a part of the run's page",
    "/runs/{run}/log": "a part of the run's page",
    "/runs/{run}/note": "a part of the run's page",
    "/runs/{run}/memory": "a part of the run's page",
}
"""What else answers to GET outside of the API, and why nobody looks at it."""


@dataclass(frozen=True)
class Visit:
    """The studio at one stage, and who looks at it."""

    stage: Stage
    web: Web
    links: Mapping[str, str]
    """Addresses that hold a secret, by route."""
    who: SignedIn | None = None

    @property
    def places(self) -> list[Place]:
        return [place for place in PLACES if place.stage == self.stage]

    def address(self, place: Place) -> str:
        return self.links.get(place.route) or place.address


def visits(web: Web, folder: Path, stages: Collection[Stage] = tuple(Stage)) -> Iterator[Visit]:
    """The same studio before anybody is there, while it is empty, and when it has been worked in. `folder` is for files."""
    with web.session() as session:
        links = {"/setup": people.setup_link(session, web.settings.folder("run")) or ""}
        session.commit()
    yield Visit(Stage.NEW, web, links)
    ada = web.sign_in("ada")
    yield Visit(Stage.EMPTY, web, links, ada)
    if Stage.FULL in stages:
        links["/invitation"] = gallery.fill(web, ada, folder)
        with gallery.beating(web):
            yield Visit(Stage.FULL, web, links, ada)
