"""Every page of the studio, and every state of it that has an address, for whoever looks at all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

from tests.support import gallery


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
