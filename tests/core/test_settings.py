"""Settings come from the environment, in words that a shell can write."""

from __future__ import annotations

from pathlib import Path

import pytest

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
