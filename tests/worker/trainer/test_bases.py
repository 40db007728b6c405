"""Bases of several kinds go through a whole run: load, train, sample, save, merge, prove."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from backend.core.datasets.schema import Message, Row
from tests.support.models import save_base
from tests.support.rows import write_rows
from tests.worker.trainer.conftest import Attempts

SHORT: dict[str, dict[str, Any]] = {"training": {"max_steps": 4, "gradient_accumulation_steps": 1}}


@pytest.mark.parametrize(
    ("kind", "architecture"), [("lora", "qwen3"), ("qlora", "qwen3"), ("lora", "llama"), ("full", "llama")]
)
def test_a_base_without_template_gets_its_tokens_trained_and_resumes_with_them(
    attempts: Attempts, tmp_path: Path, kind: str, architecture: str
) -> None:
    base = save_base(tmp_path / f"plain-{architecture}", architecture, template=None)
    changes = SHORT | {"method": {"kind": kind}, "saving": {"save_steps": 2}}
    whole = attempts(changes, model_folder=base)
    assert whole.run() == 0
    assert whole.end == {"outcome": "done"}
    resumed = attempts(changes, model_folder=base, resume=whole.checkpoint(2))
    assert resumed.run() == 0
    assert resumed.history() == {key: value for key, value in whole.history().items() if key[0] > 2}


@pytest.mark.parametrize("architecture", ["gemma", "gpt2"])
def test_other_families_train_to_a_proved_model(attempts: Attempts, tmp_path: Path, architecture: str) -> None:
    attempt = attempts(SHORT, model_folder=save_base(tmp_path / architecture, architecture))
    assert attempt.run() == 0
    assert attempt.end == {"outcome": "done"}


@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_bf16_on_a_cpu_trains_fp32_weights_and_the_merge_is_proved(attempts: Attempts, kind: str) -> None:
    changes = SHORT | {"method": {"kind": kind}, "training": SHORT["training"] | {"precision": "bf16"}}
    attempt = attempts(changes)
    assert attempt.run() == 0
    assert attempt.end == {"outcome": "done"}
    assert attempt.data("facts")[0]["precision"] == "bfloat16"
    name = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    saved = load_file(attempt.checkpoint(4).folder / name)
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}


def test_attention_that_this_machine_lacks_is_told_in_words(attempts: Attempts) -> None:
    attempt = attempts(SHORT | {"model": {"attn_implementation": "flash_attention_2"}})
    assert attempt.run() == 0
    assert attempt.end["outcome"] == "failed"
    assert "FlashAttention2" in str(attempt.end["cause"])


def test_a_full_run_keeps_what_the_base_says_of_its_cache(attempts: Attempts) -> None:
    attempt = attempts(SHORT | {"method": {"kind": "full"}})
    assert attempt.run() == 0
    config = json.loads((attempt.checkpoint(4).folder / "config.json").read_text())
    assert config["use_cache"] is True


@pytest.mark.parametrize(
    "setting", [{"optim": "adamw_8bit"}, {"gradient_checkpointing": True}, {"neftune_noise_alpha": 5}]
)
def test_settings_that_change_the_loop_resume_exactly(attempts: Attempts, setting: dict[str, Any]) -> None:
    changes = {"training": SHORT["training"] | setting, "saving": {"save_steps": 2}}
    whole = attempts(changes)
    assert whole.run() == 0
    resumed = attempts(changes, resume=whole.checkpoint(2))
    assert resumed.run() == 0
    assert resumed.history() == {key: value for key, value in whole.history().items() if key[0] > 2}


DEEP: dict[str, Any] = {"layer_types": ["full_attention"] * 900, "num_hidden_layers": 900}
NORM, PROJECTION = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
Weights = dict[str, Any]


def lacking(weights: Weights) -> None:
    del weights[NORM]


def cut_short(weights: Weights) -> None:
    weights[PROJECTION] = weights[PROJECTION][:100].clone()


@pytest.mark.parametrize("kind", ["full", "qlora"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lacking, f"The weights lack {NORM}, which the configuration asks for."),
        (cut_short, f"{PROJECTION} (100 × 64 and not 128 × 64)"),
    ],
)
def test_a_base_is_not_trained_with_weights_made_up_at_random(
    attempts: Attempts, tmp_path: Path, spoil: Callable[[Weights], None], words: str, kind: str
) -> None:
    base = Path(shutil.copytree(attempts.base, tmp_path / "spoiled"))
    weights = load_file(base / "model.safetensors")
    spoil(weights)
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    attempt = attempts(SHORT | {"method": {"kind": kind}}, model_folder=base)
    assert attempt.run() == 0
    assert attempt.end["cause"]["code"] == "model.misfit"
    assert words in attempt.end["cause"]["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 400}, "describes a model of"),
        (DEEP, "says 900 layers"),
        (DEEP | {"n_recurrent_loops": 2}, "describes a model of"),
    ],
)
def test_a_base_that_is_said_to_be_far_larger_than_its_weights_is_not_even_begun(
    attempts: Attempts, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    attempt = attempts(SHORT, model_folder=configured(attempts.base, tmp_path, "config.json", changes))
    assert attempt.run() == 0
    assert words in str(attempt.end["cause"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hidden_act": "nope"}, "model.load"),
        ({"rope_parameters": {"rope_type": "nope", "rope_theta": 10_000.0}}, "model.load"),
        ({"pad_token_id": 10**6}, "model.load"),
        ({"dtype": "nope"}, "tokenizer"),  # whoever looks for the tokenizer's kind reads the same file, and is first
        ({"id2label": 5}, "tokenizer"),
        ({"hidden_size": "64"}, "tokenizer"),
    ],
    ids=str,
)
def test_a_configuration_that_no_model_can_be_built_from_is_told_in_words_and_not_tried_again(
    attempts: Attempts, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    attempt = attempts(SHORT, model_folder=configured(attempts.base, tmp_path, "config.json", changes))
    assert attempt.run() == 0
    cause = attempt.end["cause"]
    assert (cause["code"], cause["where"]) == (code, "model")
    assert "cannot be loaded" in cause["message"]


def test_a_tokenizer_that_gives_up_in_another_language_is_told_in_words(attempts: Attempts, tmp_path: Path) -> None:
    """What is raised then is no exception like others: it would pass by whoever catches those."""
    pattern = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    told = json.loads((attempts.base / "tokenizer.json").read_text())
    split = {"type": "Sequence", "pretokenizers": [pattern, told["pre_tokenizer"]]}
    base = configured(attempts.base, tmp_path, "tokenizer.json", {"pre_tokenizer": split})
    write_rows(tmp_path / "rows.parquet", [Row(1, (Message("user", "a" * 60 + "!"), Message("assistant", "No.")))])
    attempt = attempts(SHORT, model_folder=base)
    assert attempt.run() == 0
    cause = attempt.end["cause"]
    assert (cause["code"], cause["where"]) == ("model.load", "model")
    assert "retry-limit" in cause["message"]


def configured(base: Path, folder: Path, name: str, changes: dict[str, Any]) -> Path:
    """The same base with other words in one of its files."""
    copy = Path(shutil.copytree(base, folder / "spoiled"))
    (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | changes))
    return copy


def test_a_model_of_more_parts_than_fit_into_memory_is_not_built(tiny_base: Path, tmp_path: Path) -> None:
    """In a process of its own, as a trainer is: one that did much before has memory left over, and need not ask for any."""
    base = configured(tiny_base, tmp_path, "config.json", DEEP | {"n_recurrent_loops": 2})
    program = (
        "import pathlib, sys; from worker.trainer import loading; loading.OUTLINE_MIB = 4; "
        "loading.refuse_other_weights(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(base)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "too many parts to be built" in done.stderr


@pytest.mark.shared
def test_stories260k_trains_and_samples_in_four_bits_for_all_its_odd_widths(attempts: Attempts, shared: Path) -> None:
    attempt = attempts(SHORT | {"method": {"kind": "qlora"}}, model_folder=shared / "models/stories260k")
    assert attempt.run() == 0
    facts = attempt.data("facts")[0]
    assert facts["quantised_layers"] == 35
    assert facts["skipped_layers"] == ["lm_head"]
    assert len(attempt.data("sample")) == 2
    assert attempt.end == {"outcome": "done"}
