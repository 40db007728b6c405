"""A hub of our own: a real HTTP server that speaks as much of the hub's API as searching and downloading need."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from backend.core import hub
from backend.core.weights import read_header

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Shelf:
    """What the hub has. `slow_seconds` is waited before each piece of a weights file; `asked` lists every path."""

    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    downloads: dict[str, int] = field(default_factory=dict)
    slow_seconds: float = 0.0
    redirects: dict[str, str] = field(default_factory=dict)
    """Paths that are answered with a redirect, and where it leads."""
    asked: list[str] = field(default_factory=list)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the hub says of a model in place of what is so."""
    tags: dict[str, str] = field(default_factory=dict)
    """ETags that the hub gives files, by their names, in place of their hashes."""
    listed: dict[str, str] = field(default_factory=dict)
    """Names under which files are listed, in place of their own."""

    def information(self, hub_id: str, *, blobs: bool) -> dict[str, Any]:
        folder = self.models[hub_id]
        files = sorted(path for path in folder.iterdir() if path.is_file())
        counts: dict[str, int] = {}
        for path in folder.glob("*.safetensors"):
            for tensor in read_header(path).values():
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
        return {
            "id": hub_id,
            "sha": COMMIT,
            "gated": "manual" if hub_id in self.gated else False,
            "downloads": self.downloads.get(hub_id, 7),
            "tags": ["text-generation", "license:apache-2.0"],
            "safetensors": {"parameters": counts, "total": sum(counts.values())},
            "config": {"tokenizer_config": _json(folder / "tokenizer_config.json")},
            "siblings": [
                {"rfilename": self.listed.get(path.name, path.name)} | ({"size": path.stat().st_size} if blobs else {})
                for path in files
            ],
        } | self.claims.get(hub_id, {})

    def tree(self, hub_id: str) -> list[dict[str, Any]]:
        files = sorted(path for path in self.models[hub_id].iterdir() if path.is_file())
        return [
            {
                "type": "file",
                "path": self.listed.get(path.name, path.name),
                "size": path.stat().st_size,
                "oid": _hash(path),
            }
            for path in files
        ]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shelf: Shelf

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self.do_GET(head=True)

    def do_GET(self, *, head: bool = False) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        self.shelf.asked.append(path)
        if path in self.shelf.redirects:
            told = {"X-Repo-Commit": COMMIT, "X-Linked-ETag": '"elsewhere"', "X-Linked-Size": "10"}  # as the hub does
            self._send(302, b"", told | {"Location": self.shelf.redirects[path]})
        elif path == "/api/models":
            names = self._called(query.get("search", [""])[0])
            self._tell([self.shelf.information(name, blobs=False) for name in names])
        elif path.startswith("/api/models/"):
            self._one(path.removeprefix("/api/models/"))
        else:
            self._file(path, head=head)

    def _one(self, rest: str) -> None:
        name, is_tree = rest.split("/tree/")[0].split("/revision/")[0], "/tree/" in rest
        if name not in self.shelf.models:
            self._missing("RepoNotFound")
        else:
            self._tell(self.shelf.tree(name) if is_tree else self.shelf.information(name, blobs=True))

    def _called(self, words: str) -> list[str]:
        return [name for name in self.shelf.models if words.lower() in name.lower()]

    def _file(self, path: str, *, head: bool) -> None:
        hub_id, _, rest = path.strip("/").partition("/resolve/")
        file = self.shelf.models.get(hub_id, Path("/nowhere")) / rest.partition("/")[2]
        if hub_id in self.shelf.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not file.is_file():
            self._missing("EntryNotFound")
        else:
            self._give(file, head=head)

    def _give(self, file: Path, *, head: bool) -> None:
        body = file.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        tag = {
            "ETag": self.shelf.tags.get(file.name) or f'"{_hash(file)}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if start:
            tag["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        slow = self.shelf.slow_seconds if file.suffix == ".safetensors" and not head else 0
        self._send(206 if start else 200, body[start:], tag, head=head, slow=slow)

    def _missing(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code})

    def _tell(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, head: bool = False, slow: float = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        pieces = (
            [] if head else [body[at : at + len(body) // 20 + 1] for at in range(0, len(body), len(body) // 20 + 1)]
        )
        for piece in pieces:
            time.sleep(slow)
            self.wfile.write(piece)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A download that is called off breaks its connection: nothing to tell."""


@contextmanager
def hub_of(shelf: Shelf) -> Iterator[str]:
    """The address of a hub with these models, for `HF_ENDPOINT`."""
    handler = type("Answers", (_Answers,), {"shelf": shelf})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def hub_in_place(shelf: Shelf, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """This hub stands where the real one would. What is downloaded lies in `cache`; nothing is remembered of other tests."""
    with hub_of(shelf) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HOME", str(cache))
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        hub._config_at.cache_clear()
        hub._find_lately.cache_clear()
        yield shelf
