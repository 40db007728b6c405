"""From the set-up link to a merged model that loads anywhere, by HTTP alone."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.core.archives import ArchivedFile, files_sha256
from tests.journeys.materials import STEPS, Material, generate_elsewhere
from tests.support.studios import Studio, first_admin

Json = dict[str, Any]


@pytest.fixture(scope="module")
def admin(studio: Studio) -> Iterator[httpx.Client]:
    client = first_admin(studio)
    yield client
    client.close()


def told(client: httpx.Client, run: str, after: int = 0) -> Iterator[Json]:
    """The run's events as its stream tells them; ends with the run. Each carries its id."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    with client.stream("GET", f"/api/v1/runs/{run}/events", headers=headers) as response:
        assert response.status_code == 200
        name, number = "", 0
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                number = int(value)
            elif field == "data" and name == "end":
                return
            elif field == "data" and not name:
                event = json.loads(value)
                assert event["seq"] == number
                yield event
            elif not line:
                name = ""


def ask(client: httpx.Client, method: str, path: str, **request: Any) -> Any:
    answer = client.request(method, f"/api/v1{path}", **request)
    assert answer.is_success, answer.text
    return answer.json()


def downloaded(client: httpx.Client, artifact: Json) -> bytes:
    """The zip in two ranges, its hash compared with what the API says."""
    whole = int(client.head(artifact["download"]).headers["content-length"])
    middle = whole // 3
    parts = [
        client.get(artifact["download"], headers={"Range": f"bytes={span}"})
        for span in (f"0-{middle}", f"{middle + 1}-")
    ]
    assert [part.status_code for part in parts] == [206, 206]
    data = b"".join(part.content for part in parts)
    assert len(data) == whole
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [
            ArchivedFile(
                each.filename.partition("/")[2],
                each.file_size,
                hashlib.sha256(archive.read(each)).hexdigest(),
                each.CRC,
            )
            for each in archive.infolist()
        ]
    assert files_sha256(files) == artifact["sha256"]
    return data


def test_a_file_becomes_a_merged_model(admin: httpx.Client, material: Material, tmp_path: Path) -> None:
    name = f"journey {material.model.name}"
    sent = admin.put(
        "/api/v1/datasets/rows", content=material.file.read_bytes(), params={"filename": material.file.name}
    )
    assert sent.status_code == 201, sent.text
    assert sent.json()["version"]["rows"] == material.rows
    run = ask(admin, "POST", "/runs", json=material.recipe("rows", name))
    assert run["state"] == "queued"

    seen = []
    for event in told(admin, name):
        seen.append(event)
        if event["kind"] == "metrics" and event["step"] >= 3:
            break
    assert {"state", "metrics", "sample"} <= {event["kind"] for event in seen}, "the curve moves while the run goes on"
    stopped = ask(admin, "POST", f"/runs/{name}/stop", json={"keep": True})
    assert stopped["intent"] == "keep"
    rest = list(told(admin, name, after=seen[-1]["seq"]))
    assert seen + rest == list(told(admin, name)), "whoever comes later reads the same history"
    assert [event["seq"] for event in seen + rest] == list(range(1, len(seen + rest) + 1))

    halfway = ask(admin, "GET", f"/runs/{name}")
    assert halfway["state"] == "stopped"
    assert 3 <= halfway["step"] < STEPS
    assert {each["kind"] for each in ask(admin, "GET", f"/runs/{name}/artifacts")} == {"adapter", "merged"}

    ask(admin, "POST", f"/runs/{name}/resume")
    steps = [
        event["step"] for event in told(admin, name) if event["kind"] == "metrics" and "loss" in event["data"]["values"]
    ]
    assert steps == list(range(1, STEPS + 1)), "each step once, over the stop and the resumption"
    assert ask(admin, "GET", f"/runs/{name}")["state"] == "succeeded"
    curve = ask(admin, "GET", f"/runs/{name}/metrics", params={"names": "loss", "points": 1000})["curves"]["loss"]
    assert [step for step, _ in curve] == steps

    artifacts = {each["kind"]: each for each in ask(admin, "GET", f"/runs/{name}/artifacts")}
    assert artifacts["merged"]["facts"]["agrees"] is True
    archives = {kind: downloaded(admin, each) for kind, each in artifacts.items()}
    with zipfile.ZipFile(io.BytesIO(archives["merged"])) as archive:
        archive.extractall(tmp_path)
    assert "answered:" in generate_elsewhere(tmp_path / f"{name}-merged")
    with zipfile.ZipFile(io.BytesIO(archives["adapter"])) as archive:
        names = {Path(each).name for each in archive.namelist()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= names
