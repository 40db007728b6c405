"""What the web reads out of requests: forms, recipes, headers and queries."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from starlette.datastructures import Headers
from starlette.requests import Request

from backend.core import uploads
from backend.core.errors import BadRequest, TooLarge
from backend.core.recipe import read_recipe
from backend.core.yaml12 import as_yaml, read_yaml
from backend.web import amending, downloads, drafts, launching, security, stream
from backend.web.api.datasets import columns_of
from backend.web.contexts.page import Did
from backend.web.pages import new_run, several
from backend.web.render import LANGUAGES, language_of
from tests.fuzz.cases import RECIPE, Case, sendable


def body(case: Case) -> None:
    """A recipe as it is sent to the API, in either of its languages."""
    language = case.pick(("application/json", "application/yaml"))
    sent = case.chance.bytes_of((as_yaml(RECIPE).encode(), json.dumps(RECIPE).encode()))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sent, "more_body": False}

    request = Request({"type": "http", "headers": [(b"content-type", language.encode())]}, receive)
    sendable(read_recipe(asyncio.run(launching.raw_recipe(request))).recipe.model_dump(mode="json"))


def columns(case: Case) -> None:
    """The choice of columns of an upload."""
    seeds = (b'{"output": "Answer"}', b'{"instruction": "Q", "output": "A"}', b"")
    chosen = columns_of(case.chance.bytes_of(seeds).decode("utf-8", "ignore")) or {}
    assert all(isinstance(text, str) for pair in chosen.items() for text in pair)


FORM = {
    "view": "advanced", "name": "owls", "model.path": "tiny", "data.sets.0.name": "owls", "data.sets.0.weight": "0.5",
    "data.sets.1.name": "more", "data.max_length": "128", "method.kind": "lora", "method.r": "8",
    "method.target_modules": "q_proj, v_proj", "training.learning_rate": "1e-4", "training.max_steps": "20",
    "training.bf16": "true", "evaluation.prompts.0": "Hi?", "evaluation.eval_share": "0.1",
    "pencilled": '{"method.r": "16", "training.max_steps": "-1"}', "parent": "first", "once": "abc",
}  # fmt: skip
TYPED = (
    "5", "true", "null", "1e-4", "1e400", "-1E+999", "9" * 5000, ".5", "0x10", "\0", "yes", "~", "", "a: b", "# x", "- a",
    "{", "*a", "&a", "!t", "a\nb", " a ", "é🦉", "\u202e", "'", "a, b", "%", "@", "`", "---", "...", "\x85", "\u2028", "\ufeff",
)  # fmt: skip
ENDINGS = ("", ".0", ".x", ".name", ".0.name", ".b.c", ".kind", ".")
"""Names that one of the form may turn into, so that a text stands where a group is read and a group where a text is."""


def form_body(case: Case) -> bytes:
    """The form of a new run as somebody sends it who is no browser: other texts, other names, and bytes that are broken."""
    pairs = list(FORM.items())
    for _ in range(case.pick((1, 1, 2, 4))):
        at = case.chance.draw.randrange(len(pairs))
        name, value = pairs[at]
        start = name.rsplit(".", case.pick((0, 0, 1, 2)))[0]
        pairs.insert(case.pick((at, at + 1, len(pairs))), (start + case.pick(ENDINGS), case.pick((*TYPED, value))))
    if case.chance.draw.random() < 0.2:
        written = case.chance.bytes_of((as_yaml(RECIPE).encode(),)).decode("utf-8", "ignore")
        pairs += [("view", "yaml"), ("yaml", written)]
    sent = urlencode(pairs).encode("utf-8")
    sent = case.chance.bytes_of((sent,)) if case.chance.draw.random() < 0.3 else sent
    return urlencode({"restored": sent.decode("utf-8", "ignore")}).encode() if case.pick((False, False, True)) else sent


def form(case: Case) -> None:
    """Whatever a form says is drawn in each view, and written as YAML it says the same."""
    headers = Headers({"content-type": "application/x-www-form-urlencoded"})
    pairs = security.form_fields(headers, form_body(case))
    new_run.from_address(pairs, case.pick(("", *TYPED)))
    amending.said(pairs)
    draft = drafts.draft_from(pairs)
    for view in drafts.VIEWS:
        drawn = drafts.form_of(draft, view)
        if draft.refusal is None:
            said = read_yaml(drawn.yaml)[0]
            assert (said if isinstance(said, dict) else {}) == draft.raw, drawn.yaml
        drafts.lines_of(["method.r", "data.sets.0.name"], drafts.read(replace(draft, yaml=drawn.yaml)))
    sendable(read_recipe(draft.raw).recipe.model_dump(mode="json"))


def header(case: Case) -> None:
    """Everything that is read out of a header or a query by hand."""
    seeds = (
        b"dataset YWxwYWNh,filename YS5qc29ubA==", b"bytes=0-499", b"bytes=-1", b'W/"abc", *', b"17", b"127.0.0.1:8321",
        b"01a214a0-ea11-7233-b28e-816635c30bea:17,b:4", b"[::1]:80", b"//evil", b"/runs?x=1", b"zh-CN,zh;q=0.9", b"a=1&b=%ff",
    )  # fmt: skip
    text = case.chance.bytes_of(seeds)[:8192].decode("latin-1")
    run = UUID(int=1)
    assert set(stream.cursor_of(text, [run])) == {run}
    found = downloads.parse_range(text, 1000)
    assert found is None or found[0] >= 0
    downloads.is_known(text, '"x"')
    target = security.safe_next(text)
    for place in (target, several.with_word(target, Did("stop", ["owls"], 0))):
        assert place.startswith("/")
        assert not place.startswith(("//", "/\\"))
    downloads.attachment(text).encode("latin-1")
    with suppress(BadRequest):
        security.check_host(text, ())
    with suppress(BadRequest, TooLarge):
        form = {"content-type": "application/x-www-form-urlencoded"}
        security.form_fields(Headers(form), text.encode("latin-1"))
    asked = [(b"accept-language", text.encode("latin-1")), (b"cookie", b"language=" + text.encode("latin-1"))]
    query = quote(text).encode()
    request = Request({"type": "http", "headers": asked, "query_string": b"lang=" + query, "state": {"identity": None}})
    assert language_of(request) in LANGUAGES
    sendable(uploads.metadata_of(text))


def metadata(case: Case) -> None:
    """tus's metadata, with values that are base64 of anything."""
    value = base64.b64encode(case.chance.bytes_of((b"alpaca", b"a.jsonl", b'{"output": "A"}'))[:3000]).decode()
    sendable(uploads.metadata_of(f"dataset {value},filename {value}"))
