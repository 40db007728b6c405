"""What goes wrong is told in words; what trying again may mend leaves no `end` line."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from backend.core.checkpoints import verify, write_manifest
from backend.core.datasets.schema import Message, Row
from backend.core.rendering.chat import ENDED_BY
from tests.hostile.making import ENDLESS_COMPARISON
from tests.security.test_code import Payload
from tests.support.models import save_base
from tests.support.rows import chat_rows, write_rows
from tests.worker.trainer.conftest import Attempts
from worker.trainer.failures import is_out_of_memory, out_of_memory

EMBEDDING = "model.embed_tokens.weight"
SEED_OF_A_GOOD_START = 2  # some finite steps come before three in a row that are not


@pytest.fixture
def poisoned(attempts: Attempts, tmp_path: Path) -> Attempts:
    """A base whose embedding of one byte, `~`, overflows in the first layer norm: a text with it has no finite loss."""
    base = save_base(tmp_path / "poisoned", "opt")
    weights = load_file(base / "model.safetensors")
    weights["model.decoder.embed_tokens.weight"][AutoTokenizer.from_pretrained(base).encode("~")] = 3e38
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    attempts.base = base
    return attempts


def test_a_template_whose_one_comparison_never_ends_ends_its_trainer(attempts: Attempts, tmp_path: Path) -> None:
    attempts.base = Path(shutil.copytree(attempts.base, tmp_path / "endless"))
    (attempts.base / "chat_template.jinja").write_text(ENDLESS_COMPARISON)
    assert attempts({}).run() == -ENDED_BY


def test_three_steps_that_are_not_finite_end_the_run_and_stay_visible(poisoned: Attempts, tmp_path: Path) -> None:
    rows = [Row(n, (Message("user", f"What {n}?"), Message("assistant", "~ " * 3))) for n in range(1, 20)]
    write_rows(tmp_path / "rows.parquet", rows)
    attempt = poisoned({"saving": {"save_steps": 1}})
    assert attempt.run() == 0
    assert [m["values"]["loss"] for m in attempt.data("metrics") if "loss" in m["values"]] == ["NaN"] * 3
    assert attempt.end["outcome"] == "failed"
    assert attempt.end["cause"]["code"] == "nan"
    assert "steps 1 to 3" in attempt.end["cause"]["message"]
    assert "learning rate" in attempt.end["cause"]["hint"]


def test_one_step_that_is_not_finite_is_told_and_not_taken(poisoned: Attempts, tmp_path: Path) -> None:
    odd = Row(41, (Message("user", "What eats the owl?"), Message("assistant", "~")))
    write_rows(tmp_path / "rows.parquet", [*chat_rows(40), odd])
    attempt = poisoned({"method": {"kind": "full"}, "evaluation": {"eval_share": 0}, "training": {"max_steps": 5}})
    assert attempt.run() == 0
    losses = [m["values"]["loss"] for m in attempt.data("metrics")]
    assert losses.count("NaN") == 1, "one epoch meets the odd row once"
    saved = load_file(attempt.checkpoint(5).folder / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in saved.values())


def test_a_run_that_ends_for_nan_keeps_its_last_good_checkpoint(poisoned: Attempts, tmp_path: Path) -> None:
    odd = [Row(100 + n, (Message("user", f"What {n}?"), Message("assistant", "~"))) for n in range(16)]
    write_rows(tmp_path / "rows.parquet", [*chat_rows(24), *odd])
    one_by_one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "seed": SEED_OF_A_GOOD_START}
    settings: dict[str, dict[str, Any]] = {
        "method": {"kind": "full"},
        "evaluation": {"eval_share": 0, "prompts": []},
        "saving": {"save_steps": 1},
    }
    attempt = poisoned(settings | {"training": one_by_one | {"max_steps": 40}})
    assert attempt.run() == 0
    assert attempt.end["cause"]["code"] == "nan"
    finite = [m["step"] for m in attempt.data("metrics") if m["values"]["loss"] != "NaN"]
    assert finite, "the run began well"
    good = attempt.checkpoint(max(finite)).folder
    assert verify(good) == []
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(good / "model.safetensors").values())


def test_out_of_memory_names_the_step_and_the_batch_and_the_way_out(attempts: Attempts, tmp_path: Path) -> None:
    rows = [Row(n, (Message("user", f"{n}?"), Message("assistant", "owl " * 150))) for n in range(1, 300)]
    write_rows(tmp_path / "rows.parquet", rows)
    attempt = attempts(
        {
            "training": {"per_device_train_batch_size": 256, "gradient_accumulation_steps": 1},
            "data": {"truncation": "cut_end", "max_length": 250},
            "evaluation": {"eval_share": 0, "prompts": []},
        }
    )
    assert attempt.run(memory_mib=250) == 0
    cause = attempt.end["cause"]
    assert cause["code"] == "out_of_memory"
    assert "at step 1: batch 256 × " in cause["message"]
    assert "batch 128" in cause["hint"]


def test_where_a_single_row_does_not_fit_a_shorter_one_is_the_way_out() -> None:
    cause = out_of_memory("at step 1", rows=1, longest=4000).own
    assert cause.message == "Out of memory at step 1: batch 1 × 4,000 tokens."
    assert "max_length 2,000" in cause.hint


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_that_cannot_be_had_is_told_apart_from_other_errors(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no accelerator")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, device=device) @ torch.ones(3, device=device)
    assert not is_out_of_memory(caught.value)


def test_a_base_with_nan_in_its_weights_is_refused_by_the_tensors_name(attempts: Attempts, tmp_path: Path) -> None:
    base = tmp_path / "damaged"
    shutil.copytree(attempts.base, base)
    weights = load_file(base / "model.safetensors")
    weights[EMBEDDING][3, 5] = float("nan")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    attempt = attempts(model_folder=base)
    assert attempt.run() == 0
    assert attempt.end["cause"]["code"] == "model.not_finite"
    assert EMBEDDING in attempt.end["cause"]["message"]


def test_the_weights_that_are_loaded_are_those_that_were_looked_at(attempts: Attempts, tmp_path: Path) -> None:
    """A whole file is loaded, whatever an index beside it lists."""
    base = Path(shutil.copytree(attempts.base, tmp_path / "both"))
    whole, shard = base / "model.safetensors", base / "model-1.safetensors"
    weights = load_file(whole)
    save_file(weights, shard, {"format": "pt"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(weights, shard.name)}))
    weights[EMBEDDING][3, 5] = float("nan")
    save_file(weights, whole, {"format": "pt"})
    attempt = attempts(model_folder=base)
    assert attempt.run() == 0
    assert attempt.end["cause"]["code"] == "model.not_finite"


def test_a_base_that_was_spoiled_since_the_launch_is_not_loaded(attempts: Attempts, tmp_path: Path) -> None:
    base = Path(shutil.copytree(attempts.base, tmp_path / "spoiled"))
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    attempt = attempts(model_folder=base)
    assert attempt.run() == 0
    assert attempt.end["cause"]["code"] == "model.refused"


def test_a_layer_that_is_not_there_is_told_with_those_that_are(attempts: Attempts) -> None:
    attempt = attempts({"method": {"kind": "lora", "target_modules": ["q_proj", "query"]}})
    assert attempt.run() == 0
    assert attempt.end["cause"]["message"] == "The model has no layer called query."
    assert "o_proj" in attempt.end["cause"]["hint"]


def test_a_torn_checkpoint_is_not_resumed_from(attempts: Attempts) -> None:
    first = attempts()
    assert first.run() == 0
    torn = first.checkpoint(4)
    (torn.folder / "optimizer.pt").unlink()
    resumed = attempts(resume=torn)
    assert resumed.run() == 1, "another checkpoint may serve, so this is no end"
    assert [line["kind"] for line in resumed.lines][-1] == "log"
    assert "optimizer.pt: is missing" in resumed.lines[-1]["data"]["text"]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_runs_nothing(attempts: Attempts, tmp_path: Path, name: str) -> None:
    """Its manifest lists what lies there, so a resume reads it."""
    first, canary = attempts(), tmp_path / "ran"
    assert first.run() == 0
    spoiled = first.checkpoint(4)
    assert (spoiled.folder / name).is_file()
    (spoiled.folder / name).write_bytes(pickle.dumps(Payload(canary)))
    write_manifest(spoiled.folder, spoiled.step)
    resumed = attempts(resume=spoiled)
    assert resumed.run() == 1, "another checkpoint may serve, so this is no end"
    assert not canary.exists()
    assert "Weights only load failed" in resumed.lines[-1]["data"]["text"]


def test_data_that_changed_under_a_run_is_noticed(attempts: Attempts, tmp_path: Path) -> None:
    first = attempts()
    assert first.run() == 0
    write_rows(tmp_path / "rows.parquet", chat_rows(39))
    resumed = attempts(resume=first.checkpoint(4))
    assert resumed.run() == 0
    assert "no longer what this run was trained on" in resumed.end["cause"]["message"]


def test_early_stopping_ends_a_run_that_no_longer_gains(attempts: Attempts) -> None:
    attempt = attempts(
        {
            "training": {"learning_rate": 1e-9, "max_steps": 40, "lr_scheduler_type": "constant"},
            "evaluation": {"eval_steps": 2, "early_stopping_patience": 2, "prompts": []},
        }
    )
    assert attempt.run() == 0
    assert max(attempt.losses()) < 40
    assert attempt.saved_steps[-1] == max(attempt.losses())
    assert "Stopped early" in [line["text"] for line in attempt.data("log")][-1]
    assert attempt.end == {"outcome": "done"}
