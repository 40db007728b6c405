"""Commands against a real studio: what they print, what they refuse, and with which status they end."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from backend.commands.access import Access
from backend.commands.artifact import Damaged, check, extract, fetch, receive
from backend.commands.client import Client
from backend.core.archives import ArchivedFile, files_sha256
from backend.web.shapes.runs import ArtifactOut
from tests.journeys.materials import Material, write_alpaca
from tests.support.processes import wait_until
from tests.support.studios import ROOT, Studio


@pytest.fixture(scope="session")
def material(studio: Studio, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Rows that the studio has as “owls”."""
    made = Material(tiny_base, write_alpaca(tmp_path_factory.mktemp("rows") / "owls.json"), rows=60)
    studio.command("dataset", "add", made.file)
    return made


def recipe_file(folder: Path, recipe: dict[str, Any], **training: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"training": recipe["training"] | training}))
    return path


@pytest.fixture(scope="session")
def finished(studio: Studio, material: Material, tmp_path_factory: pytest.TempPathFactory) -> list[ArtifactOut]:
    """What a short run gave out."""
    file = recipe_file(tmp_path_factory.mktemp("finished"), material.recipe("owls", "finished"), max_steps=4)
    done = studio.command("run", "start", "-f", file, "--follow")
    assert "finished is succeeded at step 4 of 4." in done.stdout
    with studio.client() as client:
        return client.artifacts("finished")


@pytest.fixture
def client(studio: Studio) -> Client:
    return studio.client()


# ---- where the studio is, and by what right ---------------------------------------------------------------------------


def test_a_command_on_the_studios_machine_needs_no_token_and_keeps_its_own_to_itself(
    studio: Studio, material: Material
) -> None:
    listed = json.loads(studio.command("dataset", "list", "--json").stdout)
    assert [(each["name"], each["owner"]) for each in listed if each["name"] == material.file.stem] == [
        ("owls", "this machine")
    ]
    file = studio.home / "run" / "cli-token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (studio.home / "run" / "setup-link").exists(), "the machine's account does not count as a person"


def test_a_command_whose_own_token_was_revoked_makes_itself_another(studio: Studio) -> None:
    studio.command("dataset", "list")
    [own] = [line for line in studio.command("token", "list").stdout.splitlines() if "  commands  for ever" in line]
    studio.command("token", "revoke", own.split()[0])
    studio.command("dataset", "list")


def run_elsewhere(**environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": "/usr/bin:/bin"} | environment
    command = [sys.executable, "-m", "backend.cli", "run", "list"]
    return subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=60)


def test_without_a_studio_a_command_says_how_to_start_one_and_ends_with_3(tmp_path: Path) -> None:
    done = run_elsewhere(STUDIO_HOME=str(tmp_path))
    assert done.returncode == 3
    assert "studio up" in done.stderr


def test_where_nothing_answers_a_command_ends_with_3() -> None:
    done = run_elsewhere(STUDIO_URL="http://127.0.0.1:9", STUDIO_TOKEN="fts_x")
    assert done.returncode == 3
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr


def test_another_studio_asks_for_a_token(studio: Studio) -> None:
    done = run_elsewhere(STUDIO_URL=studio.address)
    assert (done.returncode, "STUDIO_TOKEN" in done.stderr) == (1, True)


def test_a_wrong_token_is_refused_in_words(studio: Studio) -> None:
    done = run_elsewhere(STUDIO_URL=studio.address, STUDIO_TOKEN="fts_wrong")
    assert (done.returncode, "Sign in first" in done.stderr) == (1, True)


# ---- data sets and models ---------------------------------------------------------------------------------------------


def test_a_large_file_is_followed_until_it_is_read(studio: Studio, tmp_path: Path) -> None:
    file = write_alpaca(tmp_path / "many.json", rows=4000)
    assert "many, version 1: 4,000 rows of messages (alpaca)." in studio.command("dataset", "add", file).stdout


def test_a_file_with_bad_rows_is_refused_by_row(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a", "output": ""}\n')
    done = studio.command("dataset", "add", file, check=False)
    assert done.returncode == 1
    assert "row 2" in done.stderr


def test_columns_are_given_their_roles(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "fragen.csv"
    file.write_text("Frage,Antwort\nWer jagt?,Die Eule.\n")
    roles = ("--format", "prompt_completion", "--column", "prompt=Frage", "--column", "completion=Antwort")
    assert "fragen, version 1: 1 rows of messages" in studio.command("dataset", "add", file, *roles).stdout
    refused = studio.command("dataset", "add", file, "--column", "Frage", check=False)
    assert "no ROLE=COLUMN" in refused.stderr


def test_models_are_listed_for_people_and_for_programs(studio: Studio, tiny_base: Path) -> None:
    assert tiny_base.name in studio.command("model", "list").stdout
    assert json.loads(studio.command("model", "list", "--json").stdout)[0]["path"] == tiny_base.name


# ---- runs -------------------------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_told_at_its_line_with_the_nearest_name(
    studio: Studio, material: Material, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"model: {material.model.name}\ndata:\n  sets: [owls]\ntraining:\n  max_step: 4\n")
    done = studio.command("run", "start", "-f", file, check=False)
    assert done.returncode == 1
    assert "recipe.yaml, line 5: training.max_step" in done.stderr
    assert "Did you mean max_steps?" in done.stderr


def test_a_command_that_is_written_wrong_ends_with_2(studio: Studio) -> None:
    assert studio.command("run", "stop", "anything", check=False).returncode == 2
    assert studio.command("run", "start", "-f", "/nowhere", check=False).returncode == 2


def test_an_unknown_run_ends_with_1(studio: Studio) -> None:
    done = studio.command("run", "pause", "nobody", check=False)
    assert (done.returncode, "nobody" in done.stderr) == (1, True)


def test_a_run_that_fails_ends_its_follower_with_1(
    studio: Studio, material: Material, tiny_base: Path, tmp_path: Path
) -> None:
    spoil(shutil.copytree(tiny_base, studio.home / "models" / "spoilt"))
    file = recipe_file(tmp_path, material.recipe("owls", "doomed") | {"model": "spoilt"})
    done = studio.command("run", "start", "-f", file, "--follow", check=False)
    assert done.returncode == 1
    assert "doomed is failed" in done.stdout


def spoil(folder: Path) -> None:
    """Put a NaN into the first of the model's weights."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_ctrl_c_leaves_the_run_going_and_says_so_and_a_pause_ends_a_follower(
    studio: Studio, client: Client, material: Material, tmp_path: Path
) -> None:
    file = recipe_file(tmp_path, material.recipe("owls", "watched"), max_steps=2000)
    command = [sys.executable, "-m", "backend.cli", "run", "start", "-f", str(file), "--follow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=studio.environment, text=True, **pipes) as follower:  # type: ignore[call-overload]
        assert follower.stdout.readline() == "watched is queued.\n"
        wait_until(lambda: client.run("watched").step >= 1, seconds=120, what="the first step")
        follower.send_signal(signal.SIGINT)
        assert "The run goes on: studio run follow “watched”" in follower.stderr.read()
    assert follower.returncode == 0
    assert client.run("watched").intent == "run"
    studio.command("run", "pause", "watched")
    assert "watched is paused at step" in studio.command("run", "follow", "watched").stdout
    assert "is stopped" in studio.command("run", "stop", "watched", "--discard").stdout
    listed = json.loads(studio.command("run", "list", "--json").stdout)
    assert "watched" in [each["name"] for each in listed]


# ---- artifacts --------------------------------------------------------------------------------------------------------


def part_of(artifact: ArtifactOut, folder: Path) -> Path:
    return folder / f".{artifact.run}-{artifact.kind}.zip.{artifact.sha256[:16]}.part"


def test_a_download_that_broke_off_goes_on_where_it_was(
    client: Client, finished: list[ArtifactOut], tmp_path: Path
) -> None:
    merged = next(each for each in finished if each.kind == "merged")
    part = part_of(merged, tmp_path)
    receive(client, merged, part, lambda _count: None)
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    got: list[int] = []
    receive(client, merged, part, got.append)
    assert (part.read_bytes(), sum(got)) == (whole, len(whole) - len(whole) // 2)
    got.clear()
    assert fetch(client, merged, tmp_path).read_bytes() == whole, "a part that is whole already is taken as it is"
    assert not part.exists()


def test_a_damaged_download_does_not_count_and_the_next_one_starts_anew(
    client: Client, finished: list[ArtifactOut], tmp_path: Path
) -> None:
    adapter = next(each for each in finished if each.kind == "adapter")
    part_of(adapter, tmp_path).write_bytes(b"not what the studio has")
    with pytest.raises(Damaged):
        fetch(client, adapter, tmp_path)
    assert list(tmp_path.iterdir()) == []
    folder = extract(fetch(client, adapter, tmp_path))
    assert (folder / "adapter_model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["finished-adapter"]


def given_out(run: str, files: dict[str, bytes]) -> ArtifactOut:
    """As a studio tells of it that was taken over: each file has the hash that it says."""
    listed = [ArchivedFile(name, len(data), hashlib.sha256(data).hexdigest(), 0) for name, data in files.items()]
    return ArtifactOut(
        id=UUID(int=1),
        run=run,
        kind="merged",
        step=1,
        bytes=1,
        sha256=files_sha256(listed),
        files=[],
        facts={},
        created_at=datetime.now(UTC),
        download="/api/v1/artifacts/1/download",
    )


def zipped(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"evil")
    return path


@pytest.mark.parametrize(
    "name",
    ["owls-merged/../../evil", "owls-merged//etc/evil", "../owls-merged/evil", "/etc/evil", "elsewhere/evil", "evil",
     "owls-merged/..", "owls-merged/a\\..\\evil", "owls-merged/./evil"],
)  # fmt: skip
def test_a_zip_whose_files_would_lie_outside_of_its_folder_is_refused_whatever_its_hash(
    name: str, tmp_path: Path
) -> None:
    part = zipped(tmp_path / "part", name)
    with pytest.raises(Damaged, match="would lie outside"):
        check(part, given_out("owls", {name.partition("/")[2]: b"evil"}))
    assert list(tmp_path.iterdir()) == []
    check(zipped(tmp_path / "part", "owls-merged/a/b"), given_out("owls", {"a/b": b"evil"}))


@pytest.mark.parametrize("run", ["../owls", "/etc/owls", "a/b", "a\\b", "a\nb"])
def test_a_studio_that_calls_a_run_by_a_path_writes_nowhere(run: str, tmp_path: Path) -> None:
    client = Client(Access("http://127.0.0.1:9", "no token"))
    with pytest.raises(Damaged, match="no name of a file"):
        fetch(client, given_out(run, {}), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_kind_that_a_run_does_not_give_out_is_refused_with_what_there_is(
    studio: Studio, finished: list[ArtifactOut], tmp_path: Path
) -> None:
    assert finished
    done = studio.command("artifact", "download", "finished", "gguf", "-o", tmp_path, check=False)
    assert done.returncode == 1
    assert "adapter, merged" in done.stderr


def test_a_zip_is_named_after_its_run_and_kind(studio: Studio, finished: list[ArtifactOut], tmp_path: Path) -> None:
    assert finished
    done = studio.command("artifact", "download", "finished", "merged", "-o", tmp_path)
    path = tmp_path / "finished-merged.zip"
    assert done.stdout.strip() == str(path)
    assert zipfile.is_zipfile(path)
