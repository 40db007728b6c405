"""What a studio leans on is stopped, stands still or forgets while a run trains: it goes on, and everybody is told plainly.

One studio and one long run for all of it. Its init is frozen where a service is to stay away: it would bring it back at once.
`FAULT_AWAY_SECONDS=300` is the long form.

That training goes on means: at its pace. A step may take twice as long as before anything was struck and no longer. What tests
side by side cost a trainer is left out, since the time in which it waits for a processor does not count; that in which it
sleeps does, whatever it waits for. Twice is left for caches and memory that others use meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
import pytest
import redis
from playwright.sync_api import Browser, Page, expect

from backend.commands.client import Client, Refused
from backend.core.assignment import JOURNAL
from backend.embedded.postgres import Postgres
from backend.embedded.valkey import Valkey
from tests.faults.campaign import ended_early
from tests.faults.checker import check
from tests.faults.history import Watcher, collect
from tests.faults.people import Follower
from tests.faults.story import RESTS
from tests.faults.trace import validate
from tests.journeys.curves import assert_stored, painted, painted_points, points_reach, stored_steps
from tests.journeys.materials import Material, write_alpaca
from tests.support.figures import IS_LONG, Note
from tests.support.processes import is_alive, wait_until
from tests.support.proxy import Proxy, proxy_to
from tests.support.studios import FAST, Studio, first_admin, running_studio
from tests.support.trouble import signed_in

pytestmark = pytest.mark.browser

AWAY_SECONDS = float(os.environ.get("FAULT_AWAY_SECONDS", "15"))
ANSWER_SECONDS = 30
"""How long any request may take, whatever its services do."""
SECONDS, BROWSER_MS, BUSY = 240.0, 60_000, 4.0
OFFLINE_SECONDS, COMPLETE_SECONDS = 30.0, 3.0
KILLS, KILL_SECONDS = 3, 20.0
"""How often the web is killed, and what lies between two kills in the long form: by then a page is to be complete again."""
USUAL_STEPS, LEAST_STEPS = 12, 5
"""Over how many steps a pace is measured: before anything was struck, and at least meanwhile."""
SLOWER, HINDERED = 1.2, 2.0
"""How many times as long a step is to take at most, on a machine with nothing else to do, and from when on it was hindered."""
LONGEST = 5.0
"""The same of a single one: who stands still for a while and then goes on is slower on the whole by little."""


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
def run(
    client: Client, material: Material, followers: list[Follower], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A run that goes on until everything here is over. Steps are slow, so that its curve is painted whole at the end: of more
    than a thousand steps a page that is opened anew gets only some."""
    client.put_dataset("rows", material.file, on_bytes=lambda _count: None)
    rows, batches = (4000, 400) if IS_LONG else (60, 48)  # no step takes more batches than there are
    many = write_alpaca(tmp_path_factory.mktemp("many") / "many.json", rows)
    client.put_dataset("many", many, on_bytes=lambda _count: None)
    recipe = material.recipe("many", "long")
    recipe["training"] |= {"max_steps": 100_000, "gradient_accumulation_steps": batches}
    recipe["evaluation"] |= {"eval_steps": 5000, "sample_steps": 5000}
    recipe["saving"] |= {"save_steps": 5000}
    launch(client, recipe, followers)
    wait_until(lambda: client.run("long").step > 1, seconds=SECONDS, what="the first steps")
    yield "long"
    with suppress(Refused):  # the last test may have stopped it
        client.tell("long", "stop", keep=False)


@contextmanager
def opened(browser: Browser, address: str, person: httpx.Client, run: str) -> Iterator[Page]:
    """The run's page, with some of its curve."""
    with signed_in(browser, address, str(person.cookies["studio"])) as context:
        page = context.new_page()
        page.goto(f"/runs/{run}")
        points_reach(page, 2, seconds=60)
        yield page


@pytest.fixture
def page(browser: Browser, studio: Studio, person: httpx.Client, run: str) -> Iterator[Page]:
    with opened(browser, studio.address, person, run) as page:
        yield page


@pytest.fixture
def proxy(studio: Studio) -> Iterator[Proxy]:
    with proxy_to(studio.address) as proxy:
        yield proxy


@pytest.fixture
def far_page(browser: Browser, proxy: Proxy, person: httpx.Client, run: str) -> Iterator[Page]:
    """The same on the far side of a network."""
    with opened(browser, proxy.address, person, run) as page:
        yield page


def written_steps(studio: Studio) -> int:
    """How many losses the trainer of the long run has written, whoever has read them."""
    return (folder_of(studio) / JOURNAL).read_bytes().count(b'"grad_norm"')


def folder_of(studio: Studio) -> Path:
    """The long run's only attempt."""
    return min((studio.home / "runs").glob(f"*/attempt-*/{JOURNAL}")).parent  # ids sort by time


def trainer_of(studio: Studio) -> psutil.Process:
    return psutil.Process(json.loads((folder_of(studio) / "trainer.json").read_text())["pid"])


@dataclass(frozen=True)
class Look:
    """At the long run's trainer: the steps that it has written, and a clock that stands while it waits for a processor."""

    steps: int
    seconds: float

    @classmethod
    def now(cls, studio: Studio) -> Look:
        waited = int(Path(f"/proc/{trainer_of(studio).pid}/schedstat").read_text().split()[1]) / 1e9
        return cls(written_steps(studio), time.monotonic() - waited)

    def step_seconds(self, before: Look) -> float:
        """What a step took since then."""
        steps = self.steps - before.steps
        return (self.seconds - before.seconds) / steps if steps else math.inf


@pytest.fixture(scope="module")
def usual_seconds(studio: Studio, run: str) -> float:  # noqa: ARG001
    """What a step takes while all is well."""
    before = Look.now(studio)
    goes_on(studio, before, USUAL_STEPS)
    return Look.now(studio).step_seconds(before)


def goes_on(studio: Studio, since: Look, steps: int) -> None:
    wait_until(lambda: written_steps(studio) >= since.steps + steps, seconds=SECONDS, what="more steps")


@contextmanager
def unhindered(studio: Studio, usual_seconds: float, figure: Note, what: str) -> Iterator[None]:
    """Training keeps its pace meanwhile."""
    before = Look.now(studio)
    yield
    goes_on(studio, before, LEAST_STEPS)
    slower, longest = (
        Look.now(studio).step_seconds(before) / usual_seconds,
        longest_step(studio, before) / usual_seconds,
    )
    figure(f"{what}: a step takes, of its usual time", slower, "times", SLOWER)
    figure(f"{what}: the longest step takes, of the usual time", longest, "times", LONGEST)
    assert slower <= HINDERED, f"{what}: a step took {slower:.1f} times as long"
    assert longest <= LONGEST * BUSY, f"{what}: one step took {longest:.1f} times as long"


def longest_step(studio: Studio, since: Look) -> float:
    """Seconds between two steps, at most, by their own clock."""
    lines = (folder_of(studio) / JOURNAL).read_bytes().split(b"\n")[:-1]
    times: list[float] = [json.loads(line)["t"] for line in lines if b'"grad_norm"' in line][since.steps - 1 :]
    return max(after - before for before, after in pairwise(times))


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


def is_whole(studio: Studio, person: httpx.Client, page: Page, run: str) -> None:
    """Everything has healed by itself: the history has every step that was trained, and the page shows it."""
    wait_until(lambda: person.get("/runs").status_code == 200, seconds=SECONDS, what="an answer")
    expect(page.locator("#away")).to_be_hidden(timeout=BROWSER_MS)
    count = written_steps(studio)
    wait_until(lambda: stored_steps(studio, run) >= count, seconds=SECONDS, what="the history")
    points_reach(page, count, seconds=SECONDS)
    assert_stored(painted(page), studio, run, is_whole=False)


def test_while_postgres_is_stopped_training_goes_on_and_everybody_is_told(
    studio: Studio,
    client: Client,
    person: httpx.Client,
    run: str,
    usual_seconds: float,
    page: Page,
    figure: Note,
) -> None:
    attempt, gone = client.run(run).attempt, time.monotonic()
    with (
        stopped(studio, "bin/postgres", signal.SIGINT),
        unhindered(studio, usual_seconds, figure, "Postgres was away"),
    ):
        expect(page.locator("#away")).to_contain_text("database does not answer", timeout=BROWSER_MS)
        told_in_words(person, "database")
        time.sleep(AWAY_SECONDS)
    figure("Postgres was away", time.monotonic() - gone, "s", None)
    back = time.monotonic()
    is_whole(studio, person, page, run)
    figure("Postgres was away: the history and the page are complete again after", time.monotonic() - back, "s", None)
    assert client.run(run).attempt == attempt, "whoever trains does not notice"


def test_while_postgres_stands_still_every_request_is_answered_in_time_and_training_goes_on(
    studio: Studio, person: httpx.Client, run: str, usual_seconds: float, page: Page, figure: Note
) -> None:
    server = studio.children("bin/postgres")[0]
    with (
        frozen(server, *server.children(recursive=True)),
        unhindered(studio, usual_seconds, figure, "Postgres stood still"),
    ):
        began = time.monotonic()
        assert person.get("/runs", timeout=ANSWER_SECONDS).status_code == 503
        figure("a request that meets a frozen Postgres is answered", time.monotonic() - began, "s", ANSWER_SECONDS)
        told_in_words(person, "database")
        expect(page.locator("#away")).to_contain_text("database does not answer", timeout=BROWSER_MS)
    is_whole(studio, person, page, run)


def test_a_web_that_is_killed_again_and_again_costs_no_follower_an_event_and_pages_resume_each_time(
    studio: Studio,
    client: Client,
    person: httpx.Client,
    run: str,
    usual_seconds: float,
    page: Page,
    figure: Note,
) -> None:
    attempt, is_over = client.run(run).attempt, Event()
    with ThreadPoolExecutor(1) as pool, unhindered(studio, usual_seconds, figure, "the web was killed"):
        follower = pool.submit(followed, client, run, is_over)
        resumed = [killed_and_resumed(studio, person, run, page) for _ in range(KILLS)]
        is_over.set()
        seen = follower.result(SECONDS)
    figure("the web was killed: the page is complete again after", max(resumed), "s", KILL_SECONDS)
    assert max(resumed) <= KILL_SECONDS * BUSY
    assert seen == list(range(1, len(seen) + 1)), "no event missed or doubled"
    assert client.run(run).attempt == attempt, "whoever trains does not notice"
    is_whole(studio, person, page, run)


def killed_and_resumed(studio: Studio, person: httpx.Client, run: str, page: Page) -> float:
    """Seconds until the page has what was stored meanwhile. In the short form the next kill comes right behind."""
    began = time.monotonic()
    (web,) = studio.children("backend.cli web")
    web.kill()
    wait_until(lambda: answers(person), seconds=60, what="the next web")
    points_reach(page, stored_steps(studio, run), seconds=SECONDS)
    resumed = time.monotonic() - began
    time.sleep(max(0.0, KILL_SECONDS - resumed) if IS_LONG else 0)
    return resumed


def followed(client: Client, run: str, is_over: Event) -> list[int]:
    """The numbers of all events of the run until then, as a command follows them."""
    seen = []
    for event in client.events(run):
        seen.append(event.seq)
        if is_over.is_set():
            break
    return seen


def answers(person: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return person.get("/healthz").is_success
    return False


def test_a_trainer_that_stands_still_for_a_while_is_found_to_be_hindered(studio: Studio, usual_seconds: float) -> None:
    with (
        pytest.raises(AssertionError, match="times as long"),
        unhindered(studio, usual_seconds, lambda *_: None, "frozen"),
        frozen(trainer_of(studio)),
    ):
        time.sleep(2 * LEAST_STEPS * usual_seconds)


def test_a_browser_that_was_offline_shows_everything_three_seconds_after(
    studio: Studio, run: str, far_page: Page, proxy: Proxy, figure: Note
) -> None:
    """Being told so does not end a stream that is open: its network is gone as well."""
    proxy.cut()
    far_page.context.set_offline(True)
    before, gone = painted_points(far_page), time.monotonic()
    expect(far_page.locator("#away")).to_contain_text("offline", timeout=BROWSER_MS)
    time.sleep(max(0.0, OFFLINE_SECONDS - (time.monotonic() - gone)))
    assert painted_points(far_page) == before, "nothing arrives"
    assert stored_steps(studio, run) > before, "the run goes on meanwhile"
    proxy.restore()
    far_page.context.set_offline(False)
    began, count = time.monotonic(), stored_steps(studio, run)
    points_reach(far_page, count, seconds=COMPLETE_SECONDS * BUSY)
    figure("a browser that was offline for 30 s is complete", time.monotonic() - began, "s", COMPLETE_SECONDS)
    assert_stored(painted(far_page), studio, run, is_whole=False)


def test_while_valkey_is_away_news_come_late_no_run_is_lost_and_hints_are_heard_again_after(
    studio: Studio,
    client: Client,
    material: Material,
    run: str,
    usual_seconds: float,
    page: Page,
    followers: list[Follower],
    figure: Note,
) -> None:
    short = material.recipe("rows", "short")
    short["training"] |= {"max_steps": 4}
    with (
        stopped(studio, "valkey-server", signal.SIGKILL),
        unhindered(studio, usual_seconds, figure, "Valkey was away"),
    ):
        expect(page.locator("#away")).to_contain_text("message queue does not answer", timeout=BROWSER_MS)
        launch(client, short, followers)
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
