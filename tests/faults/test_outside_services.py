"""What a studio leans on is stopped, stands still or forgets while a run trains: it goes on, and everybody is told plainly.

One studio and one long run for all of it. Its init is frozen where a service is to stay away: it would bring it back at once.
`FAULT_AWAY_SECONDS=300` is the long form.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from playwright.sync_api import Browser, Page, expect

from backend.commands.client import Client, Refused
from backend.embedded.postgres import Postgres
from backend.embedded.valkey import Valkey
from tests.faults.campaign import ended_early
from tests.faults.checker import check
from tests.faults.history import Watcher, collect
from tests.faults.people import Follower
from tests.faults.story import RESTS
from tests.faults.trace import validate
from tests.journeys.curves import assert_stored, painted, points_reach, stored_steps
from tests.journeys.materials import Material, write_alpaca
from tests.support.figures import Note
from tests.support.processes import is_alive, wait_until
from tests.support.studios import FAST, Studio, first_admin, running_studio
from tests.support.trouble import signed_in

pytestmark = pytest.mark.browser

AWAY_SECONDS = float(os.environ.get("FAULT_AWAY_SECONDS", "15"))
ANSWER_SECONDS = 30
"""How long any request may take, whatever its services do."""
SECONDS, BROWSER_MS = 240.0, 60_000
OFFLINE_SECONDS, COMPLETE_SECONDS = 30.0, 3.0


@pytest.fixture(scope="module")
def studio(tiny_base: Path) -> Iterator[Studio]:
    with running_studio(tiny_base) as running:
        yield running
        running.stop()


@pytest.fixture(scope="module", autouse=True)
def watcher(studio: Studio) -> Watcher:
    """It looks at every process from the start on."""
    watcher = Watcher(studio.home)
    watcher.start()
    return watcher


@pytest.fixture(scope="module")
def followers() -> Iterator[list[Follower]]:
    """Who follows the runs that were launched, in the order of the answers."""
    following: list[Follower] = []
    yield following
    for each in following:
        each.is_closed = True


def launch(client: Client, recipe: dict[str, Any], followers: list[Follower]) -> None:
    """A run whose launch was answered, and somebody who follows it from its first event on, whatever breaks."""
    made = client.launch(recipe)
    followers.append(Follower(client, str(made.id), made.name))
    followers[-1].start()


@pytest.fixture(scope="module")
def person(studio: Studio) -> httpx.Client:
    """Somebody with a browser's cookie."""
    return first_admin(studio)


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[Client]:
    with studio.client() as client:
        yield client


@pytest.fixture(scope="module")
def material(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(tiny_base, write_alpaca(tmp_path_factory.mktemp("rows") / "rows.json"), rows=60)


@pytest.fixture(scope="module")
def run(client: Client, material: Material, followers: list[Follower]) -> Iterator[str]:
    """A run that goes on until everything here is over. Steps are slow, so that its curve is painted whole at the end."""
    client.put_dataset("rows", material.file, on_bytes=lambda _count: None)
    recipe = material.recipe("rows", "long")
    recipe["training"] |= {"max_steps": 100_000, "gradient_accumulation_steps": 48}
    recipe["evaluation"] |= {"eval_steps": 5000, "sample_steps": 5000}
    recipe["saving"] |= {"save_steps": 5000}
    launch(client, recipe, followers)
    wait_until(lambda: client.run("long").step > 1, seconds=SECONDS, what="the first steps")
    yield "long"
    with suppress(Refused):  # the last test may have stopped it
        client.tell("long", "stop", keep=False)


@pytest.fixture
def page(browser: Browser, studio: Studio, person: httpx.Client, run: str) -> Iterator[Page]:
    """The run's page, with some of its curve."""
    with signed_in(browser, studio.address, str(person.cookies["studio"])) as context:
        page = context.new_page()
        page.goto(f"/runs/{run}")
        points_reach(page, 2, seconds=60)
        yield page


def written_steps(studio: Studio) -> int:
    """How many losses the trainer of the long run has written, whoever has read them."""
    journal = min((studio.home / "runs").glob("*/attempt-*/events.jsonl"))  # ids sort by time
    return journal.read_bytes().count(b'"grad_norm"')


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """They stand still, with everything that they started where it is a server's."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextmanager
def stopped(studio: Studio, name: str, number: signal.Signals) -> Iterator[None]:
    """A service is ended by a signal, and is brought back by the studio itself when this ends."""
    service = studio.children(name)[0]
    with frozen(psutil.Process(studio.process.pid)):
        service.send_signal(number)
        wait_until(lambda: not is_alive(service), seconds=60, what=f"the end of {name}")
        yield


def told_in_words(person: httpx.Client, part: str) -> None:
    """Page, API and health check say what is the matter, and answer in time."""
    person.timeout = httpx.Timeout(ANSWER_SECONDS)
    page = person.get("/runs")
    assert (page.status_code, page.headers["retry-after"]) == (503, "5")
    assert "The database cannot be reached now." in page.text
    assert "Traceback" not in page.text
    answer = person.get("/api/v1/runs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert person.get("/healthz").json() == {"status": "degraded", "away": [part]}
    assert person.get("/healthz?all=1").status_code == 503


def goes_on(studio: Studio, since: int) -> None:
    wait_until(lambda: written_steps(studio) > since + 1, seconds=SECONDS, what="more steps")


def is_whole(studio: Studio, person: httpx.Client, page: Page, run: str) -> None:
    """Everything has healed by itself: the history has every step that was trained, and the page shows it."""
    wait_until(lambda: person.get("/runs").status_code == 200, seconds=SECONDS, what="an answer")
    expect(page.locator("#away")).to_be_hidden(timeout=BROWSER_MS)
    count = written_steps(studio)
    wait_until(lambda: stored_steps(studio, run) >= count, seconds=SECONDS, what="the history")
    points_reach(page, count, seconds=SECONDS)
    assert_stored(painted(page), studio, run, is_whole=False)


def test_while_postgres_is_stopped_training_goes_on_and_everybody_is_told(
    studio: Studio, client: Client, person: httpx.Client, run: str, page: Page, figure: Note
) -> None:
    attempt, gone = client.run(run).attempt, time.monotonic()
    with stopped(studio, "bin/postgres", signal.SIGINT):
        before = written_steps(studio)
        expect(page.locator("#away")).to_contain_text("database does not answer", timeout=BROWSER_MS)
        told_in_words(person, "database")
        time.sleep(AWAY_SECONDS)
        goes_on(studio, before)
    figure("Postgres was away", time.monotonic() - gone, "s", None)
    back = time.monotonic()
    is_whole(studio, person, page, run)
    figure("Postgres was away: the history and the page are complete again after", time.monotonic() - back, "s", None)
    assert client.run(run).attempt == attempt, "whoever trains does not notice"


def test_while_postgres_stands_still_every_request_is_answered_in_time_and_training_goes_on(
    studio: Studio, person: httpx.Client, run: str, page: Page, figure: Note
) -> None:
    server = studio.children("bin/postgres")[0]
    with frozen(server, *server.children(recursive=True)):
        before, began = written_steps(studio), time.monotonic()
        assert person.get("/runs", timeout=ANSWER_SECONDS).status_code == 503
        figure("a request that meets a frozen Postgres is answered", time.monotonic() - began, "s", ANSWER_SECONDS)
        told_in_words(person, "database")
        expect(page.locator("#away")).to_contain_text("database does not answer", timeout=BROWSER_MS)
        goes_on(studio, before)
    is_whole(studio, person, page, run)


def test_a_web_that_is_killed_three_times_costs_no_follower_an_event(
    studio: Studio, client: Client, person: httpx.Client, run: str, page: Page
) -> None:
    attempt, before = client.run(run).attempt, written_steps(studio)
    with ThreadPoolExecutor(1) as pool:
        wanted = client.run(run).step + 12
        follower = pool.submit(followed, client, run, wanted)
        for _ in range(3):
            (web,) = studio.children("backend.cli web")
            web.kill()
            wait_until(lambda: answers(person), seconds=60, what="the next web")
        seen = follower.result(SECONDS)
    assert seen == list(range(1, len(seen) + 1)), "no event missed or doubled"
    goes_on(studio, before)
    assert client.run(run).attempt == attempt, "whoever trains does not notice"
    is_whole(studio, person, page, run)


def followed(client: Client, run: str, step: int) -> list[int]:
    """The numbers of all events of the run until it comes to that step, as a command follows them."""
    seen = []
    for event in client.events(run):
        seen.append(event.seq)
        if event.step >= step:
            break
    return seen


def answers(person: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return person.get("/healthz").is_success
    return False


def test_a_browser_that_was_offline_shows_everything_three_seconds_after(
    studio: Studio, run: str, page: Page, figure: Note
) -> None:
    page.context.set_offline(True)
    page.evaluate("() => dispatchEvent(new Event('offline'))")
    expect(page.locator("#away")).to_contain_text("offline", timeout=BROWSER_MS)
    time.sleep(OFFLINE_SECONDS)
    page.context.set_offline(False)
    began, count = time.monotonic(), stored_steps(studio, run)
    points_reach(page, count, seconds=COMPLETE_SECONDS * 4)
    figure("a browser that was offline for 30 s is complete", time.monotonic() - began, "s", COMPLETE_SECONDS)
    assert_stored(painted(page), studio, run, is_whole=False)


def test_while_valkey_is_away_news_come_late_no_run_is_lost_and_hints_are_heard_again_after(
    studio: Studio, client: Client, material: Material, run: str, page: Page, followers: list[Follower]
) -> None:
    short = material.recipe("rows", "short")
    short["training"] |= {"max_steps": 4}
    before = written_steps(studio)
    with stopped(studio, "valkey-server", signal.SIGKILL):
        expect(page.locator("#away")).to_contain_text("message queue does not answer", timeout=BROWSER_MS)
        launch(client, short, followers)
        goes_on(studio, before)
        count = stored_steps(studio, run)
        points_reach(page, count, seconds=60)
        time.sleep(AWAY_SECONDS)
    expect(page.locator("#away")).to_be_hidden(timeout=BROWSER_MS)
    with redis.Redis.from_url(Valkey(studio.home).url) as valkey:
        wait_until(valkey.ping, seconds=60, what="Valkey")
        valkey.flushall()
    heard = hints_heard(studio)
    client.tell(run, "stop", keep=False)
    wait_until(lambda: client.run("short").state == "succeeded", seconds=SECONDS, what="the run of the outage")
    wait_until(lambda: hints_heard(studio) > heard, seconds=SECONDS, what="a hint")


def test_what_all_of_that_left_behind_breaks_no_promise(
    studio: Studio, client: Client, run: str, watcher: Watcher, followers: list[Follower]
) -> None:
    with suppress(Refused):
        client.tell(run, "stop", keep=False)
    wait_until(lambda: all(each.state in RESTS for each in client.runs(limit=200)), seconds=SECONDS, what="rest")
    newest = {str(each.id): each.seq for each in client.runs(limit=200)}
    wait_until(
        lambda: all(each.last == newest[each.run_id] for each in followers), seconds=SECONDS, what="the last event"
    )
    assert list(ended_early(watcher, *followers)) == []
    seen = [event for follower in followers for event in follower.seen]
    accepted = [follower.run_id for follower in followers]
    history = collect(studio.home, Postgres(studio.home).url, seen, watcher.stop(), accepted=accepted)
    assert [answer for follower in followers for answer in follower.wrong] == []
    assert [*check(history), *validate(history, float(FAST["STUDIO_LEASE_SECONDS"]))] == []


def hints_heard(studio: Studio) -> int:
    """How many hints the Celery worker has carried out."""
    return (studio.home / "logs" / "worker.log").read_text().count("succeeded in")
