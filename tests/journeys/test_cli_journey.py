"""From a file to a merged model that loads anywhere, with nothing but the command `studio`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.journeys.materials import Material, generate_elsewhere
from tests.support.processes import wait_until
from tests.support.studios import Studio

STEPS = 120
"""More than elsewhere: between two commands a fast machine trains many steps."""


def written(recipe: dict[str, Any], folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def shown(studio: Studio, name: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(studio.command("run", "show", name).stdout)
    return run


def test_a_file_becomes_a_merged_model(studio: Studio, material: Material, tmp_path: Path) -> None:
    name = f"typed {material.model.name}"
    added = studio.command("dataset", "add", material.file, "--name", "typed-rows").stdout
    assert f"{material.rows} rows of messages (alpaca)" in added
    recipe = written(material.recipe("typed-rows", name), tmp_path)

    assert "is queued" in studio.command("run", "start", "-f", recipe, "--set", f"training.max_steps={STEPS}").stdout
    wait_until(lambda: shown(studio, name)["step"] >= 1, seconds=120, what="the first step")
    assert "was told to keep" in studio.command("run", "stop", name, "--keep").stdout
    followed = studio.command("run", "follow", name).stdout
    assert f"{name} is stopped" in followed
    assert shown(studio, name)["step"] < STEPS

    studio.command("run", "resume", name)
    assert f"{name} is succeeded at step {STEPS} of {STEPS}." in studio.command("run", "follow", name).stdout
    kinds = [each["kind"] for each in json.loads(studio.command("artifact", "list", name, "--json").stdout)]
    assert kinds == ["adapter", "merged"]
    told = studio.command("artifact", "download", name, "--unpack", "-o", tmp_path / "out").stdout
    folders = [Path(line) for line in told.splitlines()]
    assert [folder.name for folder in folders] == [f"{name}-adapter", f"{name}-merged"]
    assert "answered:" in generate_elsewhere(folders[1])
