"""`python -m tests.screenshots`: every page at three widths, light and dark, English and Chinese, into `screenshots/`.

Whatever a page trips over, and whatever does not fit, is listed, and makes the command fail. With `--docs` it takes the few
pictures of the documents instead, into `docs/pictures/`.
"""

from __future__ import annotations

import argparse
import base64
import html
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Error, Page

from tests.support.browsers import running_chromium
from tests.support.places import PLACES, Place, Stage, Visit, visits
from tests.support.trouble import Trouble, misfits, settle
from tests.support.webs import SignedIn, running_web

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "screenshots"
WIDTHS = {1440: 900, 1024: 768, 390: 844}
LANGUAGES = ("en", "zh")
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
BROWSERS = 3
PICTURES = ROOT / "docs" / "pictures"
IN_THE_DOCUMENTS = {"run": "run-rich", "dataset": "dataset", "new-run": "new-run-simple", "compare": "compare"}
"""What a picture of the documents is called, and the place that it shows."""


@dataclass(frozen=True)
class Tour:
    """One language at one width, through the places of one stage."""

    visit: Visit
    language: str
    width: int
    places: Sequence[Place]


@dataclass
class Album:
    """What came of it."""

    target: Path
    pictures: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def take_all(album: Album, names: Sequence[str], sizes: Sequence[tuple[str, int]]) -> None:
    """Browsers side by side, each in a thread of its own, as Playwright wants it."""
    wanted = [place for place in PLACES if not names or place.name in names]
    with tempfile.TemporaryDirectory() as folder, running_web() as web, ThreadPoolExecutor(BROWSERS) as pool:
        for visit in visits(web, Path(folder), {place.stage for place in wanted}):
            places = [place for place in visit.places if place in wanted]
            tours = [Tour(visit, language, width, places) for language, width in sizes] if places else []
            for pictures, complaints in pool.map(lambda tour: travel(album.target, tour), tours):
                album.pictures += pictures
                album.complaints += complaints


def travel(target: Path, tour: Tour) -> tuple[list[str], list[str]]:
    with running_chromium() as browser:
        strangers, residents = Trouble(), Trouble()
        stranger = open_page(browser, tour, None, strangers)
        resident = open_page(browser, tour, tour.visit.who, residents)
        pictures, complaints = [], []
        for place in tour.places:
            page, trouble = (resident, residents) if place.is_signed_in else (stranger, strangers)
            try:
                for picture, complaint in look_at(target, page, place, tour, trouble):
                    pictures.append(picture)
                    complaints += complain(complaint)
            except Error as error:  # the others are looked at all the same
                what = f"{place.name}-{tour.width}-{tour.language}: {error.message.splitlines()[0]}"
                complaints += complain([what])
    return pictures, complaints


def complain(found: list[str]) -> list[str]:
    """At once: the whole takes minutes."""
    for what in found:
        print(what, flush=True)
    return found


def open_page(browser: Browser, tour: Tour, who: SignedIn | None, trouble: Trouble) -> Page:
    context = browser.new_context(
        base_url=tour.visit.web.address,
        viewport={"width": tour.width, "height": WIDTHS[tour.width]},
        reduced_motion="reduce",
        locale="zh-CN" if tour.language == "zh" else "en-GB",
    )
    if who:
        context.add_cookies([{"name": "studio", "value": who.cookie, "url": tour.visit.web.address}])
    trouble.watch(context)
    return context.new_page()


def look_at(target: Path, page: Page, place: Place, tour: Tour, trouble: Trouble) -> Iterator[tuple[str, list[str]]]:
    """Both themes of a place: the page changes its colours as it stands, as it does when evening comes."""
    page.emulate_media(color_scheme=THEMES[0])
    answer = page.goto(tour.visit.address(place))
    waits = settle(page)
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        name = f"{place.name}-{tour.width}-{theme}-{tour.language}.png"
        page.screenshot(path=target / name, full_page=True, animations="disabled")
        found = [what for what in trouble.found if place.status == 200 or f"{place.status}" not in what]
        trouble.found.clear()
        if answer is None or answer.status != place.status:
            found.append(f"answered {answer and answer.status}")
        yield name, [f"{name}: {what}" for what in [*found, *waits, *misfits(page)]]


def illustrate() -> Iterator[Path]:
    """The pictures of the documents: a window's worth of a page, in both languages, as WebP."""
    with tempfile.TemporaryDirectory() as folder, running_web() as web:
        for visit in visits(web, Path(folder)):
            if visit.stage == Stage.FULL:
                yield from take_pictures(visit)


def take_pictures(visit: Visit) -> Iterator[Path]:
    places = {place.name: place for place in visit.places}
    with running_chromium() as browser:
        for language in LANGUAGES:
            page = open_page(browser, Tour(visit, language, 1440, ()), visit.who, Trouble())
            for name, place in IN_THE_DOCUMENTS.items():
                page.goto(visit.address(places[place]))
                settle(page)
                path = PICTURES / f"{name}{'' if language == 'en' else '.zh'}.webp"
                path.write_bytes(as_webp(page))
                yield path


def as_webp(page: Page) -> bytes:
    """What the window shows; a quarter of the size of a PNG."""
    session = page.context.new_cdp_session(page)
    taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": 80})
    return base64.b64decode(taken["data"])


def write_sheet(album: Album) -> None:
    """A page with all of them, grouped by place."""
    groups = {place.name: [one for one in album.pictures if one.rsplit("-", 3)[0] == place.name] for place in PLACES}
    figures = "\n".join(
        f"<h2>{html.escape(name)}</h2><div>"
        + "".join(f'<a href="{one}"><img loading="lazy" src="{one}" alt="{one}"></a>' for one in pictures)
        + "</div>"
        for name, pictures in groups.items()
        if pictures
    )
    style = "body{font:14px system-ui;margin:2rem}div{display:flex;gap:8px;flex-wrap:wrap}img{height:220px;border:1px solid #ccc}"
    complaints = "".join(f"<li>{html.escape(each)}" for each in album.complaints)
    page = f"<!doctype html><meta charset=utf-8><title>Every page</title><style>{style}</style><ul>{complaints}</ul>{figures}"
    (album.target / "index.html").write_text(page, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PAGE", help=f"any of: {', '.join(place.name for place in PLACES)}")
    parser.add_argument("--widths", nargs="*", type=int, choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--languages", nargs="*", choices=LANGUAGES, default=LANGUAGES)
    parser.add_argument("--docs", action="store_true", help="take the pictures of the documents")
    chosen = parser.parse_args()
    if chosen.docs:
        PICTURES.mkdir(exist_ok=True)
        print(*(f"{path.relative_to(ROOT)}: {path.stat().st_size >> 10} KiB" for path in illustrate()), sep="\n")
        return 0
    if not chosen.names:
        shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(exist_ok=True)
    album, began = Album(TARGET), time.monotonic()
    take_all(album, chosen.names, list(product(chosen.languages, chosen.widths)))
    write_sheet(album)
    print(f"{len(album.pictures)} screenshots in {time.monotonic() - began:.0f} s; see {TARGET / 'index.html'}")
    return 1 if album.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
