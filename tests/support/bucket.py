"""A bucket as S3 speaks of one, in this process, that can be told to be in trouble."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BUCKET = "studio"
LISTED = "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"


@dataclass
class Bucket:
    """What is stored, and the answers that are to go wrong: `trouble` holds one word for each coming request."""

    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    """A status refuses, `reset` breaks the connection, `short` breaks it in mid-answer, `slow` answers after a second."""
    always: str = ""
    """The trouble of every request, until it is over."""
    requests: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """What obstore reads, and any other client of S3."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    bucket = Bucket()

    class Handler(_Handler):
        store = bucket

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    bucket.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield bucket
    server.shutdown()
    server.server_close()
    thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Bucket

    def log_message(self, *_: Any) -> None:
        """Tests look at `requests`."""

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    @property
    def key(self) -> str:
        return urlsplit(self.path).path.removeprefix(f"/{BUCKET}").lstrip("/")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.fails():
            part = self.query.get("partNumber", [""])[0]
            (self.store.parts if part else self.store.objects)[self.key + part] = body
            self.say(200, etag=True)

    def do_POST(self) -> None:
        """Large objects come in parts: the first request names an upload, the last one ends it. Several may be deleted."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.fails():
            return
        if "delete" in self.query:
            keys = re.findall(r"<Key>(.+?)</Key>", body.decode())
            for key in keys:
                self.store.objects.pop(key, None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self.say(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
            return
        if "uploads" in self.query:
            self.say(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
            return
        numbers = sorted(int(name.removeprefix(self.key)) for name in self.store.parts if name.startswith(self.key))
        self.store.objects[self.key] = b"".join(self.store.parts.pop(f"{self.key}{number}") for number in numbers)
        self.say(200, b'<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>')

    def do_GET(self) -> None:
        if self.fails():
            return
        if not self.key:
            self.say(200, self.listing())
        elif self.key not in self.store.objects:
            self.say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.say_object(self.store.objects[self.key])

    def do_HEAD(self) -> None:
        self.do_GET()

    def fails(self) -> bool:
        """Whether this request was in trouble, which then has been made."""
        self.store.requests.append(f"{self.command} {self.key}")
        word = self.store.always or (self.store.trouble.pop(0) if self.store.trouble else "")
        if word == "slow":
            time.sleep(1)
        elif word.isdecimal():
            self.say(int(word), f"<Error><Code>{HTTPStatus(int(word)).name}</Code></Error>".encode())
        elif word == "reset":
            self.close_connection = True
            self.connection.close()
        elif word == "short":
            self.say(200, self.store.objects[self.key], keeps=len(self.store.objects[self.key]) // 2)
        return word not in ("", "slow")

    def say_object(self, content: bytes) -> None:
        begin, _, end = self.headers.get("range", "").removeprefix("bytes=").partition("-")
        if not begin:
            self.say(200, content, etag=True)
            return
        first, last = int(begin), min(int(end), len(content) - 1) if end else len(content) - 1
        self.say(206, content[first : last + 1], etag=True, span=f"bytes {first}-{last}/{len(content)}")

    def say(
        self, status: int, body: bytes = b"", *, etag: bool = False, span: str = "", keeps: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        if etag or keeps is not None:
            self.send_header("ETag", '"1"')
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if keeps is None else body[:keeps])
        if keeps is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def listing(self) -> bytes:
        prefix = self.query.get("prefix", [""])[0]
        found = [
            LISTED.format(key=key, size=len(content))
            for key, content in sorted(self.store.objects.items())
            if key.startswith(prefix)
        ]
        head = f"<Name>{BUCKET}</Name><IsTruncated>false</IsTruncated><KeyCount>{len(found)}</KeyCount>"
        return f"<ListBucketResult>{head}{''.join(found)}</ListBucketResult>".encode()
