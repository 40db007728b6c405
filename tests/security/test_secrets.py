"""Secrets: wherever a studio writes, answers or runs, none of them is to be found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.processes import arguments, processes_of, wait_until
from tests.support.studios import PASSWORD, Studio, first_admin, running_studio

HUB_TOKEN = "hf_CanaryOfTheHub0123456789abcdef"
WRONG = "a password in the wrong field"
HOLDERS = ("setup-link", "password")
"""Files that keep a secret on purpose, for their owner's eyes alone."""
LOOKED_AT = (
    "/", "/runs", "/runs/kept", "/runs/kept/log", "/runs/none", "/recipes", "/models", "/models?q=owls/none", "/datasets",
    "/settings/you", "/settings/tokens", "/settings/sessions", "/settings/people", "/settings/workers",
    "/settings/storage", "/settings/audit", "/compare?run=kept&run=none", "/search?q=kept",
    "/api/v1/me", "/api/v1/me/sessions", "/api/v1/tokens", "/api/v1/people", "/api/v1/audit?limit=500",
    "/api/v1/audit/download?format=jsonl", "/api/v1/runs/kept", "/api/v1/runs/kept/recipe", "/api/v1/runs/kept/attempts",
    "/api/v1/runs/kept/log?format=jsonl", "/api/v1/workers", "/api/v1/storage", "/api/v1/operations",
    "/api/v1/models/search?q=owls", "/api/v1/models/search?q=owls/none", "/api/v1/openapi.json", "/api/v1/none",
)  # fmt: skip


@dataclass
class Secrets:
    """Everything that the studio was told or that it gave away, by what it is."""

    known: dict[str, str] = field(default_factory=dict)

    def found_in(self, text: str) -> list[str]:
        return [what for what, secret in self.known.items() if secret in text]

    def found_under(self, folder: Path) -> list[str]:
        """In any file below, whatever it is: logs, run folders, caches, the database's own files."""
        files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        return [
            f"{path.relative_to(folder)}: {what}"
            for path in files
            if path.name not in HOLDERS
            for held in [path.read_bytes()]
            for what, secret in self.known.items()
            if secret.encode() in held
        ]


@pytest.fixture
def studio(tiny_base: Path) -> Iterator[Studio]:
    """Its hub cannot be reached, which is told in words; the token for it is known to the web and to nobody else."""
    with running_studio(tiny_base, HF_TOKEN=HUB_TOKEN, HF_ENDPOINT="http://127.0.0.1:9") as studio:
        yield studio


def test_no_secret_leaves_its_place_in_the_life_of_a_studio(studio: Studio) -> None:
    secrets = Secrets({"hub token": HUB_TOKEN, "password": PASSWORD, "wrong password": WRONG})
    secrets.known |= embedded(studio.home)
    secrets.known["set-up token"] = studio.setup_link.partition("token=")[2]
    with closing(first_admin(studio)) as ada:
        ada.timeout = httpx.Timeout(120)  # a busy machine trains beside it
        secrets.known["cookie"] = ada.cookies["studio"]
        live(studio, ada, secrets)
        told = {path: ada.get(path).text for path in LOOKED_AT}
    seen = {path: secrets.found_in(text) for path, text in told.items()}
    assert {path: found for path, found in seen.items() if found} == {}
    assert len(secrets.known) == 9, list(secrets.known)
    lines = [arguments(process) for process in processes_of(studio.home)]
    assert len(lines) >= 5
    assert [found for line in lines for found in secrets.found_in(line)] == []
    assert secrets.found_under(studio.home) == ["logs/up.log: set-up token"], "told to whoever started it, and used up"


def embedded(home: Path) -> dict[str, str]:
    """The passwords of the studio's own Postgres and Valkey."""
    return {f"{path.parent.name} password": path.read_text().strip() for path in home.glob("*/password")}


def live(studio: Studio, ada: httpx.Client, secrets: Secrets) -> None:
    """A sign-in that fails, tokens, an invitation, a run, things that go wrong: each with a secret in it."""
    httpx.post(f"{studio.address}/signin", data={"name": "ada", "password": WRONG}, trust_env=False)
    secrets.known["token"] = ada.post("/api/v1/tokens", json={"name": "ci", "role": "member"}).json()["token"]
    invited = ada.post("/api/v1/people", json={"name": "bob", "role": "viewer"}).json()["invitation"]["link"]
    secrets.known["invitation"] = invited.partition("token=")[2]
    ada.put("/api/v1/me/password", json={"old": WRONG, "new": "x"})
    rows = '{"instruction": "What eats mice?", "output": "The owl."}\n' * 8
    assert ada.put("/api/v1/datasets/owls", content=rows).status_code == 201
    launched = ada.post("/api/v1/runs", json=recipe())
    assert launched.status_code == 201, launched.text
    program = {"authorization": f"Bearer {secrets.known['token']}"}
    ended = ("succeeded", "failed")
    wait_until(
        lambda: (
            httpx.get(f"{studio.address}/api/v1/runs/kept", headers=program, trust_env=False).json()["state"] in ended
        ),
        seconds=300,
        what="the end of the run",
    )
    ada.post("/api/v1/models/download", json={"id": "owls/none"})


def recipe() -> dict[str, object]:
    return {
        "name": "kept",
        "model": "tiny-qwen3",
        "data": {"sets": ["owls"], "truncation": "drop"},
        "method": "lora",
        "training": {"max_steps": 2},
    }
