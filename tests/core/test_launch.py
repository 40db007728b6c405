"""From a recipe to a queued run: everything is pinned, and what would go wrong is told before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from backend.core import launch, runs
from backend.core.datasets import store
from backend.core.errors import Invalid, StudioError
from backend.core.models import State
from backend.core.settings import Settings, settings
from backend.core.uploads import Received
from tests.core.conftest import Sessions

ROWS = '[{"instruction": "Say hi to Ana.", "output": "Hi Ana!"}, {"instruction": "Greet Ben.", "output": "Hi Ben!"}]'
LONG = '[{"instruction": "Say it.", "output": "' + "again " * 500 + '"}, {"instruction": "Hi", "output": "Ho"}]'
RECIPE: dict[str, Any] = {"model": "tiny", "data": {"sets": ["greetings"]}, "method": "lora"}


@pytest.fixture
def home(studio_home: Path, tiny_base: Path) -> Settings:
    shutil.copytree(tiny_base, studio_home / "models" / "tiny")
    return settings()


def add(sessions: Sessions, home: Settings, text: str = ROWS, name: str = "greetings") -> None:
    path = home.folder("uploads") / name
    path.write_text(text)
    upload = store.upload(name, f"{name}.json", Received(path, "0" * 64, len(text)))
    prepared = store.prepare(upload, home)
    with sessions.begin() as session:
        store.commit_version(session, upload, prepared)


def planned(sessions: Sessions, home: Settings, **changes: Any) -> launch.Plan:
    with sessions.begin() as session:
        pinned = launch.pin(session, RECIPE | changes)
    return launch.plan(pinned, home)


def test_a_launched_run_names_the_exact_versions_and_has_no_auto_left(sessions: Sessions, home: Settings) -> None:
    add(sessions, home)
    add(sessions, home, ROWS.replace("Hi", "Hello"))
    plan = planned(sessions, home)
    with sessions.begin() as session:
        run = launch.launch(session, plan, home)
        assert run.state == State.QUEUED
        assert run.recipe["data"]["sets"] == [{"name": "greetings", "version": 2, "weight": None}]
        assert run.recipe["data"]["max_length"] == 256
        assert run.recipe["training"]["gradient_accumulation_steps"] == 1
        assert run.data[0]["sha256"]
        assert run.model["facts"]["architecture"]
        assert run.place == home.place()
        assert run.facts["report"]["train_rows"] >= 1
        assert runs.find(session, run.name).id == run.id


def test_data_sets_that_are_missing_are_all_named(sessions: Sessions, home: Settings) -> None:
    with pytest.raises(Invalid) as caught, sessions.begin() as session:
        launch.pin(session, RECIPE | {"data": {"sets": ["a", {"name": "b", "version": 3}]}})
    assert [problem.where for problem in caught.value.problems] == ["data.sets.0", "data.sets.1"]
    assert "version 3" in caught.value.problems[1].message
    assert home.root.is_dir()


def test_rows_are_not_cut_without_consent_and_each_way_out_works(sessions: Sessions, home: Settings) -> None:
    add(sessions, home, LONG)
    plan = planned(sessions, home)
    assert plan.problems
    with pytest.raises(Invalid) as caught, sessions.begin() as session:
        launch.launch(session, plan, home)
    assert caught.value.problems == plan.problems
    for way_out in ("drop", "cut_end", "cut_start"):
        assert planned(sessions, home, data={"sets": ["greetings"], "truncation": way_out}).problems == ()


def test_a_model_that_is_not_there_or_outside_is_told(
    sessions: Sessions, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    add(sessions, home)
    for model in ("nowhere", "/etc", "../../etc"):
        with pytest.raises(StudioError) as caught:
            planned(sessions, home, model=model)
        assert caught.value.hint
