"""Settings come from the environment, in words that a shell can write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from backend.core.settings import Settings


@pytest.mark.parametrize("written", ["studio.lan,box", " studio.lan , box ,"])
def test_several_names_are_written_with_commas(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("STUDIO_HOSTS", written)
    assert Settings().hosts == ("studio.lan", "box")


def test_model_roots_are_folders_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_MODEL_ROOTS", "/models,/more models")
    assert Settings().model_roots == (Path("/models"), Path("/more models"))


@pytest.mark.parametrize("name", ["STUDIO_HOSTS", "STUDIO_MODEL_ROOTS"])
def test_an_empty_variable_names_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    assert getattr(Settings(), name.removeprefix("STUDIO_").lower()) == ()


def test_leases_are_renewed_several_times_before_they_run_out() -> None:
    with pytest.raises(ValidationError, match="a third of STUDIO_LEASE_SECONDS at most"):
        Settings(lease_seconds=30, renew_seconds=11)


def test_hosts_that_ask_at_once_for_the_name_of_their_place_get_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: Settings(home=tmp_path).place(), range(32)))
    assert len(names) == 1
    assert len(names.pop()) == 16
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["place"]
