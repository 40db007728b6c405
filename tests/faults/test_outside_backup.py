"""A studio is backed up in the midst of a training and restored elsewhere: everything is there, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.commands.client import Client
from backend.core import backup
from backend.core.checkpoints import verify
from backend.core.settings import Settings
from tests.journeys.materials import Material, write_alpaca
from tests.support.labs import MakeLab
from tests.support.processes import wait_until
from tests.support.studios import PASSWORD, ROOT, Studio, environment_of, first_admin, running_studio, studio_over

STEPS, SAVE_STEPS, STRIKE_STEP = 40, 5, 12
SECONDS = 300.0


@dataclass(frozen=True)
class Before:
    """What was in the first studio when it was backed up."""

    file: Path
    rows: Any
    reference: dict[int, float | str]
    artifacts: dict[str, str]
    step: int


@pytest.fixture(scope="module")
def before(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A studio with a data set, a recipe, a finished run, and one in its middle."""
    folder = tmp_path_factory.mktemp("backup")
    material = Material(tiny_base, write_alpaca(folder / "rows.json"), rows=60)
    with running_studio(tiny_base) as studio, studio.client() as client:
        first_admin(studio)
        client.put_dataset("rows", material.file, on_bytes=lambda _count: None)
        client.ask(dict[str, Any], "POST", "/recipes", json={"name": "mine", "recipe": recipe(material, "mine")})
        client.launch(recipe(material, "whole"))
        wait_until(lambda: client.run("whole").state == "succeeded", seconds=SECONDS, what="the first run's end")
        client.launch(recipe(material, "half"))
        wait_until(lambda: client.run("half").step >= STRIKE_STEP, seconds=SECONDS, what="the second run's middle")
        os.kill(trainer_of(studio, client), signal.SIGSTOP)  # it is still in its middle when the backup is taken
        done = studio.command("backup", "--models", folder / "studio.zip", seconds=SECONDS)
        assert "whole" not in done.stderr
        made = Before(
            folder / "studio.zip",
            rows_of(client),
            losses(client, "whole"),
            {each.kind: each.sha256 for each in client.artifacts("whole")},
            client.run("half").step,
        )
        assert client.run("half").state == "training"
        return made


def recipe(material: Material, name: str) -> dict[str, Any]:
    made = material.recipe("rows", name)
    made["training"] |= {"max_steps": STEPS}
    return made | {"saving": {"save_steps": SAVE_STEPS}}


def trainer_of(studio: Studio, client: Client) -> int:
    run = client.run("half")
    folder = studio.home / "runs" / str(run.id) / f"attempt-{run.attempt}"
    return int(json.loads((folder / "trainer.json").read_text())["pid"])


def rows_of(client: Client) -> Any:
    return client.ask(Any, "GET", "/datasets/rows/rows")


def losses(client: Client, run: str) -> dict[int, float | str]:
    return dict(client.curves(run, "loss").curves["loss"])


@pytest.fixture(scope="module")
def after(before: Before) -> Iterator[Studio]:
    """Another home, on what could be another machine."""
    home = Path(tempfile.mkdtemp(prefix="fts-", dir="/tmp")).resolve()
    done = command(home, "restore", before.file)
    assert done.returncode == 0, done.stderr
    assert "Go on from their checkpoints: half" in done.stderr
    assert "revoke again what was revoked since" in done.stderr
    with studio_over(home) as studio:
        yield studio
        studio.stop()


def command(home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "backend.cli", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, env=environment_of(home), capture_output=True, text=True, timeout=SECONDS)


def test_checkpoints_that_come_and_go_while_the_backup_reads_are_all_whole_in_it(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    with make_lab() as lab, lab.host():
        run_id = lab.launch(training={"max_steps": 100_000}, saving={"save_steps": 1, "save_total_limit": 1})
        settings = Settings(home=lab.home, DATABASE_URL=lab.database_url)
        lab.wait_for_step(run_id, 3, seconds=SECONDS)
        kept = []
        for number in range(3):
            file = tmp_path / f"{number}.zip"
            made = backup.back_up(settings, lab.database_url, file, tell=lambda *_: time.sleep(0.05))
            assert made.contents.missing == ()
            with zipfile.ZipFile(file) as archive:
                archive.extractall(tmp_path / str(number))
            kept += list((tmp_path / str(number)).glob("home/runs/*/attempt-*/checkpoints/*"))
            lab.wait_for_step(run_id, lab.run(run_id).step + 2, seconds=SECONDS)
        assert [verify(folder) for folder in kept] == [[]] * 3
        assert len({folder.name for folder in kept}) == 3, "each was replaced by the next one"


def test_an_archive_is_whole_and_says_so(before: Before, tmp_path: Path) -> None:
    done = command(tmp_path, "backup", "--check", before.file)
    assert done.returncode == 0, done.stderr
    assert "is whole" in done.stdout
    assert before.file.stat().st_mode & 0o077 == 0


def test_people_sign_in_with_their_passwords_and_nobody_is_signed_in_yet(after: Studio) -> None:
    with httpx.Client(base_url=after.address, trust_env=False, headers={"Origin": after.address}) as browser:
        form = {"name": "ada", "password": PASSWORD}
        assert browser.post("/signin", data=form).headers["location"] == "/"
        assert browser.get("/").status_code == 200
        (only,) = browser.get("/api/v1/me/sessions").json()
        assert only["is_this"]


def test_the_unfinished_run_goes_on_and_ends_with_the_losses_of_one_that_nothing_happened_to(
    before: Before, after: Studio
) -> None:
    with after.client() as client:
        wait_until(lambda: client.run("half").state == "succeeded", seconds=SECONDS, what="the run's end")
        assert losses(client, "half") == before.reference
        assert sorted(before.reference) == list(range(1, STEPS + 1))
        events = list(client.events("half"))
        (rewound,) = [event for event in events if event.kind == "rewound"]
        kept = [event.step for event in events if event.kind == "checkpoint" and event.seq < rewound.seq]
        assert rewound.step == max(kept)
        assert before.step - SAVE_STEPS <= rewound.step <= before.step


def test_rows_curves_recipes_and_artifacts_are_those_of_before(before: Before, after: Studio, tmp_path: Path) -> None:
    with after.client() as client:
        assert rows_of(client) == before.rows
        assert losses(client, "whole") == before.reference
        assert {each.kind: each.sha256 for each in client.artifacts("whole")} == before.artifacts
        assert [each["name"] for each in client.ask(list[dict[str, Any]], "GET", "/recipes")] == ["mine"]
        acts = [each["action"] for each in client.ask(dict[str, Any], "GET", "/audit")["items"]]
        assert "studio.restore" in acts
        assert "person.create" in acts
    after.command("artifact", "download", "whole", "adapter", "-o", tmp_path)  # compares the hash of what arrives


def test_a_studio_that_is_served_is_not_restored_over(before: Before, after: Studio) -> None:
    done = after.command("restore", "--replace", before.file, check=False)
    assert done.returncode == 1
    assert "already serves" in done.stderr
