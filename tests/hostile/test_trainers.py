"""What only a trainer meets, for looking at a model loads no weights. It has imported everything and waits, as on each host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from playwright.sync_api import Browser, expect
from safetensors.torch import load_file, save_file

from backend.core.assignment import ASSIGNMENT, JOURNAL, Assignment
from tests.conftest import ROOT
from tests.hostile.rows import proves
from tests.hostile.studio import IN_A_BROWSER, INNOCENT, Cost, Studio, hold, recipe, watched
from tests.hostile.test_pages import looking
from tests.support.hosts import Lab
from tests.support.rows import chat_rows, write_rows

EMBEDDING = "model.embed_tokens.weight"
RECIPE = {
    "model": {"path": "tiny"},
    "data": {"sets": [{"name": "rows"}]},
    "method": {"kind": "lora"},
    "training": {"max_steps": 1},
}


def trained(base: Path, folder: Path, cost: Cost) -> dict[str, Any]:
    """How a run of one step on this base ended, and what it took from the assignment on."""
    folder.mkdir()
    data = [{"name": "rows", "version": 1, "path": write_rows(folder / "rows.parquet", chat_rows(8))}]
    given = {"run": "a-run", "attempt": 1, "folder": folder, "model_folder": base, "data": data, "recipe": RECIPE}
    (folder / ASSIGNMENT).write_text(Assignment.model_validate(given).model_dump_json())
    environment = os.environ | {"STUDIO_RUN_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-W", "ignore", "-m", "worker.trainer"], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe) as trainer:
        assert trainer.stdin
        assert trainer.stdout
        assert trainer.stdout.readline() == b"ready\n"
        with watched(trainer.pid, cost):
            trainer.stdin.write(f"{folder / ASSIGNMENT}\n".encode())
            trainer.stdin.flush()
            os.waitid(os.P_PID, trainer.pid, os.WEXITED | os.WNOWAIT)
    cost.answer_seconds = cost.seconds
    last = json.loads((folder / JOURNAL).read_text().splitlines()[-1])
    assert last["kind"] == "end"
    assert isinstance(last["data"], dict)
    return last["data"]


def without_numbers(base: Path, folder: Path) -> Path:
    """A copy of the base in which one weight is none."""
    weights = load_file(shutil.copytree(base, folder) / "model.safetensors")
    weights[EMBEDDING][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@proves(56)
def test_weights_that_are_no_numbers_end_a_run_by_the_tensors_name(
    studio: Studio, tiny_base: Path, tmp_path: Path
) -> None:
    damaged = without_numbers(tiny_base, tmp_path / "damaged")
    innocent = studio.costs.setdefault(f"{INNOCENT}a run of one step", Cost())
    assert trained(tiny_base, tmp_path / "good", innocent)["outcome"] == "done"
    what = "56 NaN in a tensor"
    cost = studio.costs.setdefault(what, Cost())
    cause = trained(damaged, tmp_path / "bad", cost)["cause"]
    hold(what, cost, innocent)
    studio.held.append(what)
    assert cause["code"] == "model.not_finite"
    assert EMBEDDING in cause["message"]


def test_a_run_that_such_weights_ended_says_so_through_the_api_and_on_its_page(
    studio: Studio, tiny_base: Path, browser: Browser
) -> None:
    model, settings = without_numbers(tiny_base, studio.models / "without-numbers"), studio.web.settings
    for other in studio.client.get("/api/v1/runs", params={"state": "queued"}).json()["items"]:
        studio.client.post(f"/api/v1/runs/{other['id']}/stop", json={"keep": False})
    launched = studio.client.post("/api/v1/runs", json=recipe("animals") | {"model": model.name})
    assert launched.status_code == 201, launched.text
    run = launched.json()["id"]
    lab = Lab(studio.web.home, settings.database_url, settings.redis_url, studio.web.engine)
    with lab.host():
        lab.wait_for(UUID(run), "failed")
    with studio.measured("56 NaN in a tensor, told of a run"):
        cause = studio.client.get(f"/api/v1/runs/{run}").json()["cause"]
    assert cause["code"] == "model.not_finite"
    assert EMBEDDING in cause["message"]
    with looking(browser, studio) as page, studio.measured(f"56 NaN in a tensor{IN_A_BROWSER}"):
        page.goto(f"/runs/{run}")
        expect(page.locator("main .finding.bad")).to_contain_text(EMBEDDING)
