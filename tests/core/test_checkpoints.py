"""A checkpoint is whole, or it is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.checkpoints import publish, verify, write_manifest

FILES = {"model.safetensors": b"weights", "optimizer.pt": b"moments", "nested/state.json": b"{}"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-4"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = write_manifest(folder, 4)
    assert manifest.step == 4
    assert manifest.bytes == sum(map(len, FILES.values()))
    return folder


def test_a_whole_checkpoint_has_nothing_wrong_with_it(checkpoint: Path) -> None:
    assert verify(checkpoint) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_cut_or_changed_is_named(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    path.write_bytes(b"x" * len(FILES[name]))
    assert [str(problem) for problem in verify(checkpoint)] == [f"{name}: has other bytes."]
    path.write_bytes(FILES[name][:-1])
    assert "bytes instead of" in str(verify(checkpoint)[0])
    path.unlink()
    assert [str(problem) for problem in verify(checkpoint)] == [f"{name}: is missing."]


def test_every_problem_is_told_at_once_and_strangers_too(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "extra").touch()
    assert {problem.where for problem in verify(checkpoint)} == {"optimizer.pt", "model.safetensors", "extra"}


@pytest.mark.parametrize("text", ["", "{", '{"v": 1, "step": 4, "files": [{"name": "../x"}]}'])
def test_a_manifest_that_cannot_be_read_is_told(checkpoint: Path, text: str) -> None:
    (checkpoint / "manifest.json").write_text(text)
    assert [problem.code for problem in verify(checkpoint)] == ["checkpoint.damaged"]


def test_a_manifest_cannot_point_outside(checkpoint: Path) -> None:
    (checkpoint.parent / "secret").write_bytes(b"weights")
    manifest = (checkpoint / "manifest.json").read_text().replace("model.safetensors", "../secret")
    (checkpoint / "manifest.json").write_text(manifest)
    assert "lies outside" in str(verify(checkpoint)[0])


@pytest.mark.parametrize("name", ["a" * 300, "a\\u0000b"])
def test_a_manifest_that_names_what_no_file_can_be_called_is_damaged(checkpoint: Path, name: str) -> None:
    manifest = (checkpoint / "manifest.json").read_text().replace("model.safetensors", name)
    (checkpoint / "manifest.json").write_text(manifest)
    assert verify(checkpoint)[0].message == "is missing."


def test_a_folder_without_a_manifest_was_never_finished(tmp_path: Path) -> None:
    assert [problem.code for problem in verify(tmp_path)] == ["checkpoint.unfinished"]


def test_a_published_checkpoint_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / ".tmp-other"
    other.mkdir()
    with pytest.raises(FileExistsError):
        publish(other, checkpoint)
    assert verify(checkpoint) == []
