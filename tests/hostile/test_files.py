"""Hostile files through the real API: each is refused in words, at its place, soon, and in little memory."""

from __future__ import annotations

import pytest

from tests.hostile import making
from tests.hostile.making import GOOD, packed
from tests.hostile.rows import UPLOADS, Upload
from tests.hostile.studio import Cost, Studio, words_of

INNOCENT = {
    "jsonl": lambda: GOOD.encode(),
    "csv": lambda: b"instruction,output\nQ,A\n",
    "jsonl.gz": lambda: packed(GOOD),
    "parquet": making.small_parquet,
}
"""What is good, by the end of its name. What no such file exists of is held against the first."""


def innocent(studio: Studio, name: str) -> Cost:
    kind = name.partition(".")[2]
    kind = kind if kind in INNOCENT else "jsonl"
    address, content = f"/api/v1/datasets/innocent-{kind}?filename=a.{kind}", INNOCENT[kind]()
    return studio.innocent(f"a file of {kind}", lambda: studio.client.put(address, content=content))


@pytest.mark.parametrize("upload", UPLOADS, ids=str)
def test_a_hostile_file_is_refused_in_words(studio: Studio, upload: Upload) -> None:
    content = upload.content()
    with studio.metered(str(upload), innocent=innocent(studio, upload.name)):
        answer = studio.client.put(f"/api/v1/datasets/hostile?filename={upload.name}", content=content)
    assert answer.status_code == upload.status, answer.text
    for words in upload.says:
        assert words in words_of(answer)
    assert studio.client.get("/api/v1/datasets/hostile").status_code == 404
