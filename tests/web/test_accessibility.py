"""Every page in both themes, looked at by axe; and what it loads before it can be used.

One studio for the file: it is walked through once, and each test reads what was found at its page.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page

from backend.web.render import STATIC
from tests.conftest import ROOT
from tests.support.browsers import running_chromium
from tests.support.places import PLACES, Place, Visit, visits
from tests.support.trouble import settle
from tests.support.webs import running_web

pytestmark = pytest.mark.browser

AXE = ROOT / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
SCRIPT_KIB = 120
RUN_AXE = """
async (rules) => {
  const only = rules.length ? { runOnly: { type: "rule", values: rules } } : {};
  const { violations } = await axe.run(document, { ...only, resultTypes: ["violations"] });
  return violations.flatMap(({ id, impact, help, nodes }) =>
    nodes.map((node) => ({ id, impact, help, where: node.target.join(" "), why: node.failureSummary })));
}
"""
SCRIPTS = """
() => performance.getEntriesByType("resource").map((each) => new URL(each.name).pathname).filter((path) => path.endsWith(".js"))
"""
Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Seen:
    """What was found at one place."""

    findings: Mapping[Theme, list[dict[str, Any]]]
    scripts: frozenset[str]


@pytest.fixture(scope="module")
def seen(chromium_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    assert AXE.exists(), "axe-core is not installed: run `python hatch_build.py tools`"
    found: dict[str, Seen] = {}
    with running_chromium(chromium_path) as browser, running_web() as web:
        for visit in visits(web, tmp_path_factory.mktemp("files")):
            found |= look_around(browser, visit)
    return found


def look_around(browser: Browser, visit: Visit) -> dict[str, Seen]:
    """At every place of this stage of the studio. Axe is a stranger there, so the content policy is off."""
    pages = {is_signed_in: open_page(browser, visit, is_signed_in) for is_signed_in in (False, True)}
    found = {place.name: look_at(pages[place.is_signed_in], visit.address(place)) for place in visit.places}
    for page in pages.values():
        page.context.close()
    return found


def open_page(browser: Browser, visit: Visit, is_signed_in: bool) -> Page:
    context = browser.new_context(base_url=visit.web.address, bypass_csp=True, reduced_motion="reduce")
    context.add_init_script(path=AXE)
    if is_signed_in and visit.who:
        context.add_cookies([{"name": "studio", "value": visit.who.cookie, "url": visit.web.address}])
    return context.new_page()


def look_at(page: Page, address: str) -> Seen:
    """Everything in the light, and in the dark what may differ there."""
    page.emulate_media(color_scheme="light")
    page.goto(address)
    assert settle(page) == [], address
    light = page.evaluate(RUN_AXE, [])
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(RUN_AXE, ["color-contrast", "link-in-text-block"])
    return Seen({"light": light, "dark": dark}, frozenset(page.evaluate(SCRIPTS)))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_axe_finds_nothing_serious(seen: dict[str, Seen], place: Place, theme: Theme) -> None:
    serious = [each for each in seen[place.name].findings[theme] if each["impact"] in ("serious", "critical")]
    assert not serious, "\n".join(f"{each['id']} at {each['where']}: {each['help']}\n{each['why']}" for each in serious)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_page_loads_little_script(seen: dict[str, Seen], place: Place) -> None:
    files = [STATIC / Path(script).name for script in seen[place.name].scripts]
    packed = {file.name: len(gzip.compress(file.read_bytes())) for file in files}
    assert packed, "the page loads its scripts"
    assert sum(packed.values()) <= SCRIPT_KIB * 1024, packed
