"""Hostile files through the real API: each is refused in words, at its place, soon, and in little memory."""

from __future__ import annotations

import base64
from collections.abc import Callable

import httpx
import pytest

from backend.core.datasets.probe import HEAD_BYTES
from tests.hostile import making
from tests.hostile.making import GOOD, packed
from tests.hostile.rows import UPLOADS, Upload, proves
from tests.hostile.studio import Cost, Studio, words_of

INNOCENT = {
    "jsonl": lambda: GOOD.encode(),
    "csv": lambda: b"instruction,output\nQ,A\n",
    "jsonl.gz": lambda: packed(GOOD),
    "parquet": making.small_parquet,
}
"""What is good, by the end of its name. What no such file exists of is held against the first."""


Way = Callable[[httpx.Client, str, str, bytes], httpx.Response]
"""Sends a file for a data set, under a name of its own."""


def put(client: httpx.Client, dataset: str, name: str, content: bytes) -> httpx.Response:
    return client.put(f"/api/v1/datasets/{dataset}", params={"filename": name}, content=content)


def look(client: httpx.Client, _: str, name: str, content: bytes) -> httpx.Response:
    """What a page does first: it sends the beginning."""
    words = {"filename": name, "size": str(len(content))}
    return client.post("/api/v1/datasets/probe", params=words, content=content[:HEAD_BYTES])


def send(client: httpx.Client, dataset: str, name: str, content: bytes) -> httpx.Response:
    """And then all of it, as an upload that could be gone on with."""
    words = f"dataset {spelled(dataset)},filename {spelled(name)}"
    begun = client.post("/api/v1/uploads", headers={"upload-length": str(len(content)), "upload-metadata": words})
    if begun.is_error:
        return begun
    piece = {"upload-offset": "0", "content-type": "application/offset+octet-stream"}
    return client.patch(begun.headers["location"], headers=piece, content=content)


def spelled(word: str) -> str:
    return base64.b64encode(word.encode()).decode()


WAYS: dict[str, Way] = {"in one": put, "looked at": look, "in pieces": send}


def innocent(studio: Studio, way: str, name: str) -> Cost:
    kind = name.partition(".")[2]
    kind = kind if kind in INNOCENT else "jsonl"
    words = (f"innocent-{kind}", f"a.{kind}", INNOCENT[kind]())
    return studio.innocent(f"a file of {kind} {way}", lambda: WAYS[way](studio.client, *words))


@proves(*{each.row for each in UPLOADS})
@pytest.mark.parametrize("upload", UPLOADS, ids=str)
def test_a_hostile_file_is_refused_in_words_whichever_way_it_comes(studio: Studio, upload: Upload) -> None:
    content, answers = upload.content(), dict[str, httpx.Response]()
    for way, sent in WAYS.items():
        usual = innocent(studio, way, upload.name)
        with studio.metered(f"{upload}, {way}", innocent=usual):
            answers[way] = sent(studio.client, "hostile", upload.name, content)
    if answers["looked at"].is_success:
        del answers["looked at"]  # its beginning is good, or its columns can be told
    for answer in answers.values():
        assert answer.status_code == upload.status, answer.text
        for words in upload.says:
            assert words in words_of(answer)
    assert {"in one", "in pieces"} <= answers.keys()
    assert studio.client.get("/api/v1/datasets/hostile").status_code == 404
