"""Packing is refused exactly where documents that share a row would read each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, MambaConfig

from backend.core.errors import Invalid
from backend.core.methods.lora import Lora
from tests.support.models import make_model, save_base
from tests.worker.trainer.conftest import Attempts
from worker.trainer.leak import probe, refuse_leaks

VOCABULARY = 300


def model(architecture: str) -> Any:
    return make_model(architecture, VOCABULARY, 2, 0)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gemma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_documents_stay_apart(architecture: str, dtype: torch.dtype) -> None:
    adapted = Lora(r=4, lora_alpha=8).apply(model(architecture).to(dtype), [])
    assert not refuse_leaks(adapted, VOCABULARY).is_refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opt_reads_the_document_before(dtype: torch.dtype) -> None:
    with pytest.raises(Invalid, match="a document reads the one before it"):
        refuse_leaks(model("opt").to(dtype), VOCABULARY)


@pytest.mark.parametrize("config", [PrefixTuningConfig, PromptTuningConfig])
def test_prompt_learning_loses_the_positions_that_keep_documents_apart(config: Any) -> None:
    adapted = get_peft_model(model("llama"), config(task_type="CAUSAL_LM", num_virtual_tokens=4))
    assert probe(adapted, VOCABULARY).logits > 0.01


def test_a_state_space_model_cannot_be_told_where_a_document_starts() -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, state_size=4)
    assert probe(AutoModelForCausalLM.from_config(config), VOCABULARY).is_refused


def test_the_probe_leaves_random_states_and_mode_alone() -> None:
    watched = model("llama").train()
    before = torch.get_rng_state()
    probe(watched, VOCABULARY)
    assert torch.equal(torch.get_rng_state(), before)
    assert watched.training


def test_a_packed_run_trains_and_a_leaking_one_is_refused_before_it(attempts: Attempts, tmp_path: Path) -> None:
    packed = attempts({"data": {"packing": True}, "training": {"max_steps": 3}})
    assert packed.run() == 0
    assert packed.end == {"outcome": "done"}
    leaking = attempts({"data": {"packing": True}}, model_folder=save_base(tmp_path / "opt", "opt"))
    assert leaking.run() == 0
    assert leaking.end["cause"]["code"] == "packing.leak"
    assert leaking.losses() == {}
