"""Zips that somebody hands over: a backup of a studio, and a download that arrived damaged."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from backend.commands import artifact
from backend.core import bundle
from backend.core.archives import files_sha256
from backend.web.shapes.runs import ArtifactOut
from tests.fuzz.cases import Case, sendable

ARCHIVED = {
    "database/users.copy": b"1\tada\n",
    "home/datasets/ab/abc.parquet": b"PAR1 PAR1",
    "home/runs/1/x.json": b"{}",
}
LISTED = {
    "v": 1,
    "made_at": "2026-01-02T03:04:05Z",
    "revision": "0001",
    "place": "here",
    "tables": [{"name": "users", "columns": ["id", "name"]}],
    "missing": [],
    "files": [
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in ARCHIVED.items()
    ],
}
MEMBER_NAMES = (
    "../x",
    "home/../x",
    "/etc/x",
    "home/datasets/../../x",
    "home/models/a\\b",
    "home/runs/\0",
    "manifest.json",
)


def zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice, which is meant
        for name, content in files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith((".json", ".copy")) else zipfile.ZIP_STORED
            archive.writestr(entry, content)
    return sink.getvalue()


def archive(case: Case) -> None:
    """A backup holds what its list says, and leads nowhere but into a studio, or is refused."""
    listed, files = LISTED, list(ARCHIVED.items())
    if case.chance.draw.random() < 0.4:
        listed = case.chance.json_of((LISTED,))
    if case.chance.draw.random() < 0.2:
        name = case.pick(MEMBER_NAMES)
        files.append((name, b"x"))
        own = {"name": name, "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        listed = LISTED | {"files": [*LISTED["files"], own]}  # type: ignore[misc]
    whole = zipped([*files, (bundle.LIST, json.dumps(listed).encode("utf-8", "surrogatepass"))])
    is_cut = case.chance.draw.random() < 0.5
    with bundle.Reader(case.write("studio.zip", case.chance.bytes_of((whole,)) if is_cut else whole)) as reader:
        reader.verify(lambda _name, _count: None)
        tables = {table.member for table in reader.contents.tables}
        for member in reader.contents.files:
            assert member.name in tables or bundle.is_safe(member.name)
            sendable(member.name)


ARTIFACT: dict[str, Any] = {
    "id": UUID(int=1), "run": "owls", "kind": "adapter", "step": 1, "bytes": 1, "files": [], "facts": {},
    "created_at": "2026-01-02T03:04:05Z", "download": "/",
}  # fmt: skip


def artifact_zip(case: Case) -> None:
    """A downloaded zip that arrived damaged is told and removed, and one that is whole is kept."""
    folder = f"{ARTIFACT['run']}-{ARTIFACT['kind']}"
    files = [(f"{folder}/{name.rsplit('/', 1)[-1]}", content) for name, content in ARCHIVED.items()]
    whole = zipped(files)
    right = files_sha256(artifact.contents(case.write("whole.zip", whole), folder))
    part = case.write("owls.zip.part", case.chance.bytes_of((whole,)))
    try:
        artifact.check(part, ArtifactOut(sha256=right, **ARTIFACT))
    except artifact.Damaged:
        assert not part.exists()
        raise
    assert part.exists()
