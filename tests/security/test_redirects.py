"""Where an answer sends a browser: whatever an address or a form names, it stays with the studio.

Gradio CVE-2026-59806, Jupyter CVE-2020-26232.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.security.world import PASSWORD, World

AWAY = (
    "//evil.test",
    "///evil.test",
    "////evil.test",
    "//evil.test/runs?x=1",
    "//a@evil.test",
    "/\\evil.test",
    "\\\\evil.test",
    "\\/evil.test",
    "/\t/evil.test",
    "\t//evil.test",
    "/\r\n/evil.test",
    " //evil.test",
    "\0//evil.test",
    "/%09/evil.test",
    "/%5Cevil.test",
    "/%2Fevil.test",
    "/.//evil.test",
    "/runs/..//evil.test",
    "/\u3002\uff0f/evil.test",
    "http://evil.test",
    "https:evil.test",
    "HTTPS:\\\\evil.test",
    "/runs\r\nLocation: http://evil.test",
    "evil.test",
    "@evil.test",
    ".evil.test",
    "javascript:alert(1)",
    "data:text/html,x",
)
"""Other places, as a link or a form of somebody else's may spell them. Browsers drop tabs and breaks of lines, and take each
backslash for a slash."""
HOME = "/runs?q=owls"
LANDED = "([place, base]) => { const there = new URL(place, base); return there.origin + there.pathname; }"


def by_signing_in(world: World, target: str) -> httpx.Response:
    with world.client("anonymous") as stranger:
        return stranger.post("/signin", data={"name": "the admin", "password": PASSWORD, "next": target})


def by_a_link_to_the_sign_in(world: World, target: str) -> httpx.Response:
    """Of somebody who has signed in before."""
    with world.client("admin") as admin:
        return admin.get("/signin", params={"next": target})


def by_an_act_on_several_runs(world: World, target: str) -> httpx.Response:
    with world.client("admin") as admin:
        words = {"act": "pause", "back": target}
        return admin.post("/runs/several", params=words, data={"run": world.things("admin").run})


WAYS: dict[str, Callable[[World, str], httpx.Response]] = {
    "signing in": by_signing_in,
    "a link to the sign-in": by_a_link_to_the_sign_in,
    "an act on several runs": by_an_act_on_several_runs,
}
"""All that redirects to where it was told to."""


@pytest.fixture(scope="module")
def blank(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def landed(page: Page, answer: httpx.Response) -> str:
    """Where a browser goes with such an answer, as the browser itself reads it."""
    assert answer.status_code == 303, answer.text
    found: str = page.evaluate(LANDED, [answer.headers["location"], str(answer.request.url)])
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", AWAY, ids=ascii)
def test_no_redirect_leads_to_another_site(world: World, blank: Page, way: str, target: str) -> None:
    answer = WAYS[way](world, target)
    assert landed(blank, answer).startswith(f"{world.web.address}/")
    assert answer.headers.get_list("location") == [answer.headers["location"]]
    assert "refresh" not in answer.headers


@pytest.mark.parametrize("way", WAYS)
def test_a_redirect_leads_to_the_page_that_was_named(world: World, blank: Page, way: str) -> None:
    """Or the test above would pass of ways that go home whatever they are told."""
    answer = WAYS[way](world, HOME)
    assert landed(blank, answer) == f"{world.web.address}/runs"
    assert "q=owls" in answer.headers["location"]


@pytest.mark.parametrize("target", ["//evil.test", "http://evil.test"])
def test_a_browser_would_follow_where_the_test_looks(blank: Page, target: str) -> None:
    """Or nothing could be seen to lead away."""
    request = httpx.Request("GET", "http://127.0.0.1:1/signin")
    answer = httpx.Response(303, headers={"location": target}, request=request)
    assert landed(blank, answer) == "http://evil.test/"
