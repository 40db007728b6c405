"""Uploads are cut at every tenth, by the client and by kill -9 of the web; somebody types while the web dies.

The web is a process of its own here whose port the test holds, so that it is back at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy.orm import Session

from backend.commands.access import Access, make_token
from backend.commands.client import Client
from backend.core import db, people
from backend.core.datasets.store import LEFTOVER_HOURS
from backend.core.models import Role
from backend.embedded.postgres import start_postgres
from backend.embedded.service import Service
from backend.embedded.studio import listen
from backend.embedded.valkey import start_valkey
from tests.faults.couriers import Courier
from tests.support.homes import short_home
from tests.support.processes import wait_until
from tests.support.studios import ROOT
from tests.support.trouble import signed_in

TENTHS = range(1, 10)
SECONDS = 120.0
ROW = json.dumps({"instruction": "What does the owl eat?", "output": "The owl eats mice. " * 400})
FILE = (ROW + "\n").encode() * 1600
"""Twelve megabytes: each tenth is more than a write."""
BROWSER_MS = 60_000


@dataclass
class Mortal:
    """A web that is killed and started again on the same port. Connections wait in the kernel meanwhile."""

    home: Path
    environment: dict[str, str]
    postgres: Service
    listener: socket.socket = field(default_factory=lambda: listen("127.0.0.1", 0))
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def start(self) -> None:
        command = [sys.executable, "-m", "backend.cli", "web", "--listen-fd", str(self.listener.fileno())]
        with open(self.home / "logs" / "web.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, pass_fds=[self.listener.fileno()]
            )

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()


@pytest.fixture(scope="module")
def web(tiny_base: Path) -> Iterator[Mortal]:
    with short_home() as home:
        shutil.copytree(tiny_base, home / "models" / "tiny")
        postgres, valkey = start_postgres(home, fast=True), start_valkey(home)
        db.migrate(postgres.url)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
        urls = {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}
        web = Mortal(home, kept | urls | {"STUDIO_HOME": str(home), "OMP_NUM_THREADS": "1"}, postgres)
        web.start()
        yield web
        web.kill()
        web.listener.close()
        valkey.stop()
        web.postgres.stop()


@pytest.fixture(scope="module")
def cookie(web: Mortal) -> dict[str, str]:
    """What somebody who is signed in sends along."""
    engine = db.engine(web.environment["DATABASE_URL"], pool_size=1)
    with Session(engine) as session, session.begin():
        user = people.create(session, "ada", "no password", Role.ADMIN, by=None)
        value = people.sign_in(session, user, "test", hours=1)
        identity = people.find_session(session, value)
        assert identity
        headers = {"Cookie": f"studio={value}", "X-CSRF-Token": identity.csrf_token, "Origin": web.address}
    engine.dispose()
    return headers


@pytest.fixture(scope="module")
def client(web: Mortal, cookie: dict[str, str]) -> Iterator[httpx.Client]:
    headers = cookie | {"Connection": "close"}  # none outlives the web
    with httpx.Client(base_url=web.address, headers=headers, trust_env=False, timeout=SECONDS) as client:
        yield client


# ---- uploads --------------------------------------------------------------------------------------------------------


def sent(web: Mortal, line: str, headers: dict[str, str], body: bytes, announced: int) -> socket.socket:
    """A request whose body is not all there yet."""
    place = urlsplit(web.address)
    words = headers | {"Host": place.netloc, "Content-Length": str(announced)}
    head = "".join(f"{name}: {value}\r\n" for name, value in words.items())
    connection = socket.create_connection((place.hostname, place.port), timeout=SECONDS)
    connection.sendall(f"{line} HTTP/1.1\r\n{head}\r\n".encode())
    connection.sendall(body)
    return connection


def cut(connection: socket.socket) -> None:
    """The connection breaks: the other side is told nothing but that."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def begun(client: httpx.Client, name: str) -> str:
    """A tus upload of the file."""
    words = {"dataset": name, "filename": f"{name}.jsonl"}
    told = ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in words.items())
    made = client.post("/api/v1/uploads", headers={"Upload-Length": str(len(FILE)), "Upload-Metadata": told})
    assert made.status_code == 201, made.text
    return made.headers["location"]


def offset(client: httpx.Client, place: str) -> int:
    return int(client.head(place).headers["upload-offset"])


def piece(web: Mortal, cookie: dict[str, str], place: str, start: int, end: int) -> socket.socket:
    """Everything from `start` is announced, and sent up to `end`."""
    words = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(start)}
    return sent(web, f"PATCH {place}", cookie | words, FILE[start:end], len(FILE) - start)


def drained(web: Mortal, size: int, pattern: str) -> bool:
    """Whether the web has written nearly so much of a file that comes: what is less than a block waits in memory."""
    sizes = [path.stat().st_size for path in (web.home / "uploads").glob(pattern)]
    return max(sizes, default=0) >= size - (2 << 20)


def is_hidden(client: httpx.Client, name: str) -> bool:
    listed = [each["name"] for each in client.get("/api/v1/datasets").json()]
    return client.get(f"/api/v1/datasets/{name}").status_code == 404 and name not in listed


def is_right(client: httpx.Client, name: str) -> bool:
    (version,) = client.get(f"/api/v1/datasets/{name}").json()["history"]
    return (version["rows"], version["source_sha256"]) == (1600, hashlib.sha256(FILE).hexdigest())


def finish(client: httpx.Client, place: str) -> None:
    at = offset(client, place)
    words = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(at)}
    done = client.patch(place, content=FILE[at:], headers=words)
    assert done.status_code == 204, done.text


def leftovers(web: Mortal) -> list[str]:
    """Files that lie there, but for what tells what one became, which goes with the sweep too."""
    return [path.name for path in sorted((web.home / "uploads").iterdir()) if path.suffix != ".became"]


def test_an_upload_that_is_cut_at_every_tenth_is_invisible_goes_on_and_is_right_at_the_end(
    web: Mortal, client: httpx.Client, cookie: dict[str, str]
) -> None:
    place = begun(client, "cut")
    for tenth in TENTHS:
        start, end = offset(client, place), len(FILE) * tenth // 10
        connection = piece(web, cookie, place, start, end)
        wait_until(partial(drained, web, end, "*.part"), seconds=SECONDS, what="the piece")
        cut(connection)
        wait_until(partial(has_come, client, place, end), seconds=SECONDS, what="the offset")
        wait_until(lambda: is_free(client, place), seconds=SECONDS, what="the end of the connection")
        assert offset(client, place) <= end
        assert is_hidden(client, "cut")
    finish(client, place)
    assert is_right(client, "cut")
    assert leftovers(web) == []


def has_come(client: httpx.Client, place: str, size: int) -> bool:
    return offset(client, place) >= size - (2 << 20)


def is_free(client: httpx.Client, place: str) -> bool:
    """Whether the web has noticed that nobody sends any more."""
    words = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset(client, place))}
    return client.patch(place, content=b"", headers=words).status_code == 204


def test_a_file_in_one_piece_that_is_cut_at_any_tenth_leaves_nothing(
    web: Mortal, client: httpx.Client, cookie: dict[str, str]
) -> None:
    for tenth in TENTHS:
        name, end = f"short-{tenth}", len(FILE) * tenth // 10
        connection = sent(web, f"PUT /api/v1/datasets/{name}?filename=a.jsonl", cookie, FILE[:end], len(FILE))
        wait_until(partial(drained, web, end, "*.body"), seconds=SECONDS, what="the beginning")
        assert is_hidden(client, name)
        cut(connection)
    wait_until(lambda: leftovers(web) == [], seconds=SECONDS, what="an empty folder")
    assert client.get("/api/v1/datasets?q=short").json() == []


def test_a_web_that_is_killed_at_every_tenth_loses_nothing_that_it_had_written_and_shows_no_half(
    web: Mortal, client: httpx.Client, cookie: dict[str, str]
) -> None:
    place = begun(client, "killed")
    for tenth in TENTHS:
        start, end = offset(client, place), len(FILE) * tenth // 10
        one = piece(web, cookie, place, start, end)
        other = sent(web, "PUT /api/v1/datasets/whole?filename=a.jsonl", cookie, FILE[:end], len(FILE))
        wait_until(partial(drained, web, end, "*.part"), seconds=SECONDS, what="the piece")
        wait_until(partial(has_bodies, web, tenth), seconds=SECONDS, what="the other file")
        written = offset(client, place)
        web.restart()
        one.close()
        other.close()
        assert offset(client, place) >= written
        assert is_hidden(client, "killed")
        assert is_hidden(client, "whole")
    finish(client, place)
    assert is_right(client, "killed")
    assert [Path(name).suffix for name in leftovers(web)] == [".body"] * len(TENTHS)
    swept(web)


def has_bodies(web: Mortal, count: int) -> bool:
    """Whether so many files came in one piece, or were to."""
    return len(list((web.home / "uploads").glob("*.body"))) == count


def swept(web: Mortal) -> None:
    """What a killed web left behind goes at a start, once nobody has touched it for a day."""
    old = time.time() - (LEFTOVER_HOURS + 1) * 3600
    for path in (web.home / "uploads").iterdir():
        os.utime(path, (old, old))
    web.restart()
    wait_until(lambda: not list((web.home / "uploads").iterdir()), seconds=SECONDS, what="the chore of a start")


def but_the_last_byte(
    web: Mortal, client: httpx.Client, cookie: dict[str, str], name: str
) -> tuple[str, socket.socket]:
    """An upload all of which the web has but its last byte."""
    place = begun(client, name)
    connection = piece(web, cookie, place, 0, len(FILE) - 1)
    words = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(len(FILE))}
    wait_until(partial(drained, web, len(FILE) - 1, "*.part"), seconds=SECONDS, what="nearly all of it")
    assert client.patch(place, content=b"", headers=words).status_code in (409, 423)
    return place, connection


def test_a_web_that_is_killed_when_it_has_the_whole_file_is_asked_again_for_what_it_became(
    web: Mortal, client: httpx.Client, cookie: dict[str, str]
) -> None:
    place, connection = but_the_last_byte(web, client, cookie, "unheard")
    connection.sendall(FILE[-1:])
    wait_until(lambda: any(is_being_read(name) for name in leftovers(web)), seconds=SECONDS, what="a reader")
    web.restart()
    connection.close()
    assert is_hidden(client, "unheard"), "it was killed too late"
    assert offset(client, place) == len(FILE)
    finish(client, place)
    assert is_right(client, "unheard")
    assert all(map(is_being_read, leftovers(web))), "the killed reader's draft is left to the sweep, and nothing else"
    swept(web)


def is_being_read(name: str) -> bool:
    """Whether that is what a reader writes rows to."""
    return name.endswith(".parquet")


def test_a_whole_file_waits_for_postgres_and_is_taken_in_then(
    web: Mortal, client: httpx.Client, cookie: dict[str, str]
) -> None:
    place, connection = but_the_last_byte(web, client, cookie, "early")
    web.postgres.stop()
    connection.sendall(FILE[-1:])
    assert b" 503 " in connection.recv(1000).partition(b"\r\n")[0]
    connection.close()
    web.postgres = start_postgres(web.home, fast=True)
    wait_until(lambda: client.get("/api/v1/datasets").is_success, seconds=SECONDS, what="Postgres")
    assert is_hidden(client, "early")
    assert offset(client, place) == len(FILE)
    finish(client, place)
    assert is_right(client, "early")
    assert leftovers(web) == []


def test_who_never_heard_what_a_file_became_learns_it_from_every_later_answer(client: httpx.Client) -> None:
    place = begun(client, "twice")
    words = {"Content-Type": "application/offset+octet-stream"}
    made = client.patch(place, content=FILE, headers=words | {"Upload-Offset": "0"}).headers["location"]
    again = client.patch(place, content=b"", headers=words | {"Upload-Offset": str(len(FILE))})
    assert (again.status_code, again.headers["location"]) == (204, made)
    assert client.head(place).headers["location"] == made
    assert str(place) not in client.get("/datasets").text
    assert is_right(client, "twice")


@pytest.fixture(scope="module")
def courier(web: Mortal) -> Iterator[Courier]:
    """Who has brought files to a web that was killed every other second, or somewhat later where that needs longer to start."""
    token = make_token(web.environment["DATABASE_URL"])
    courier = Courier(Client(Access(web.address, token)), Random(7))
    courier.start()
    for kills in range(30):
        if kills >= 5 and len(courier.accepted) >= 2:
            break
        time.sleep(2 + kills / 2)
        web.restart()
    courier.rest()
    wait_until(lambda: courier.is_idle, seconds=SECONDS, what="the end of what was on its way")
    yield courier
    courier.close()


def test_files_are_brought_through_one_kill_after_the_other(courier: Courier) -> None:
    assert len(courier.accepted) >= 2
    assert list(courier.look()) == []


def test_a_file_that_was_accepted_and_is_gone_or_another_one_is_told(courier: Courier, client: httpx.Client) -> None:
    lost, changed = courier.accepted[:2]
    client.delete(f"/api/v1/datasets/{lost.name}").raise_for_status()
    client.put(f"/api/v1/datasets/{changed.name}?filename=a.jsonl", content=f"{ROW}\n".encode()).raise_for_status()
    told = [violation.what for violation in courier.look()]
    assert [words.partition(":")[0] for words in dict.fromkeys(told)] == [lost.name, changed.name, changed.name]


# ---- somebody types -------------------------------------------------------------------------------------------------


@pytest.fixture
def context(browser: Browser, web: Mortal, cookie: dict[str, str]) -> Iterator[BrowserContext]:
    with signed_in(browser, web.address, cookie["Cookie"].removeprefix("studio=")) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, client: httpx.Client) -> Page:
    rows = "\n".join(json.dumps({"instruction": f"Greet {n}.", "output": "Hi! " * 9}) for n in range(60))
    assert client.put("/api/v1/datasets/greetings", content=rows).status_code in (200, 201)
    return context.new_page()


@pytest.mark.browser
def test_what_is_typed_into_a_form_while_the_web_dies_is_kept_and_can_be_sent(web: Mortal, page: Page) -> None:
    page.goto("/runs/new?dataset=greetings&view=advanced")
    page.locator("#new-run [name='name']").fill("typed before")
    web.kill()
    page.locator("#new-run [name='method.r']").fill("7")
    page.locator("#new-run [name='name']").fill("typed while it was dead")
    expect(page.locator("#away")).to_contain_text("does not answer", timeout=BROWSER_MS)
    web.start()
    expect(page.locator("#away")).to_be_hidden(timeout=BROWSER_MS)
    expect(page.locator("#new-run [name='method.r']")).to_have_value("7")
    page.reload()
    expect(page.locator("#new-run [name='name']")).to_have_value("typed while it was dead", timeout=BROWSER_MS)
    expect(page.locator("#new-run [name='method.r']")).to_have_value("7")


@pytest.mark.browser
def test_on_a_slow_network_pages_can_be_used_and_two_clicks_start_one_run(
    page: Page, context: BrowserContext, client: httpx.Client
) -> None:
    slow = {"offline": False, "latency": 400, "downloadThroughput": 50 << 10, "uploadThroughput": 20 << 10}
    context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.goto("/runs/new?dataset=greetings", timeout=BROWSER_MS)
    page.locator("#new-run [name='name']").fill("slowly")
    expect(page.locator("#preflight-title")).to_contain_text("Ready to start", timeout=BROWSER_MS)
    page.locator("#preflight [data-start]").dblclick()
    page.wait_for_url("**/runs/slowly*", timeout=BROWSER_MS)
    expect(page.locator("h1")).to_have_text("slowly", timeout=BROWSER_MS)
    assert [each["name"] for each in client.get("/api/v1/runs").json()["items"]] == ["slowly"]
