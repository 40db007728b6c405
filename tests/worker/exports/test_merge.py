"""The streamed merge against PEFT's own, tensor by tensor; where the two must differ, against the model that was trained."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from backend.core.errors import Invalid
from backend.core.methods.lora_merge import add_in_blocks, plan_lora
from tests.worker.exports.adapters import ALL, config_of, differing, merged_by_peft, save_adapter, save_base, tensors
from worker.exports.merge import MergeReport, merge

FLAVOURS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ALL},
    "rslora": {"target_modules": ALL, "use_rslora": True},
    "dora": {"target_modules": ALL, "use_dora": True},
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "patterns": ("llama", {"target_modules": ALL, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    "bias lora_only": ("sharded", {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "bias all": ("sharded", {"target_modules": ["q_proj"], "bias": "all"}),
    "saved head": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "saved embedding": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "saved embedding, tied": ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "saved head, tied": ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "saved both, kept tied": (
        "qwen3",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "trained tokens, tied": ("qwen3", {"target_modules": ALL, "trainable_token_indices": [3, 5]}),
    "trained tokens, tied, by name": (
        "qwen3",
        {"target_modules": ALL, "trainable_token_indices": {"embed_tokens": [3, 5]}},
    ),
    "trained tokens, untied": ("llama", {"target_modules": ALL, "trainable_token_indices": [3, 5]}),
    "trained tokens in both": (
        "llama",
        {"target_modules": ALL, "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}},
    ),
    "embedding, untied": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding and head by DoRA": ("llama", {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "head, untied": ("llama", {"target_modules": ["lm_head", "q_proj"]}),
    "Conv1D without prefix": ("gpt2-bare", {"target_modules": ALL}),
    "Conv1D and Linear mixed": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "use_rslora": True}),
}


def ours(base: Path, adapter: Path, out: Path, **options: Any) -> MergeReport:
    return merge(base, adapter, out, planner=plan_lora, **options)


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=torch.arange(3, 40)[None]).logits
    return result


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "sharded", "gemma", "gpt2"])
@pytest.mark.parametrize(("base_dtype", "adapter_dtype"), list(itertools.product(["float32", "bfloat16"], repeat=2)))
def test_the_merge_has_the_bits_of_pefts_own(
    tmp_path: Path, kind: str, flavour: str, base_dtype: str, adapter_dtype: str
) -> None:
    base = save_base(tmp_path / "base", kind, base_dtype)
    adapter = save_adapter(base, tmp_path / "adapter", dtype=getattr(torch, adapter_dtype), **FLAVOURS[flavour])
    ours(base, adapter, tmp_path / "ours")
    assert differing(tmp_path / "ours", merged_by_peft(base, adapter, tmp_path / "theirs")) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_adapters_have_the_bits_of_pefts_own(tmp_path: Path, name: str, dtype: str) -> None:
    kind, settings = OTHERS[name]
    base = save_base(tmp_path / "base", kind, dtype)
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    ours(base, adapter, tmp_path / "ours")
    assert differing(tmp_path / "ours", merged_by_peft(base, adapter, tmp_path / "theirs")) == []


def test_a_single_file_that_an_index_names_is_found_again(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama")
    names = dict.fromkeys(tensors(base), "model-00001-of-00001.safetensors")
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    adapter = save_adapter(base, tmp_path / "adapter", **FLAVOURS["lora"])
    ours(base, adapter, tmp_path / "ours")
    assert differing(tmp_path / "ours", merged_by_peft(base, adapter, tmp_path / "theirs")) == []


def test_where_a_whole_file_lies_beside_shards_of_another_model_what_is_loaded_is_merged(tmp_path: Path) -> None:
    base, other = save_base(tmp_path / "base", "sharded"), save_base(tmp_path / "other", "sharded")
    save_file(
        {name: tensor * 2 for name, tensor in tensors(other).items()}, base / "model.safetensors", {"format": "pt"}
    )
    adapter = save_adapter(base, tmp_path / "adapter", **FLAVOURS["lora"])
    ours(base, adapter, tmp_path / "ours")
    assert differing(tmp_path / "ours", merged_by_peft(base, adapter, tmp_path / "theirs")) == []


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_added_tokens_grow_the_embedding_by_their_trained_rows(tmp_path: Path, kind: str, whole: bool) -> None:
    base = save_base(tmp_path / "base", kind)
    rows = [96, 97] if kind == "qwen3" else {"embed_tokens": [96, 97], "lm_head": [96, 97]}
    tokens: dict[str, Any] = {"trainable_token_indices": rows, "resize": 98, "save_embeddings": whole}
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL, **tokens)
    report = ours(base, adapter, tmp_path / "ours")
    assert report.vocab_size == 98 == config_of(tmp_path / "ours")["vocab_size"]
    assert differing(tmp_path / "ours", merged_by_peft(base, adapter, tmp_path / "theirs", resize=98)) == []


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["llama", "sharded"])
@pytest.mark.parametrize("flavour", ["lora", "dora"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_a_quantised_run_merges_onto_the_weights_that_it_trained_on(
    tmp_path: Path, kind: str, flavour: str, double: bool, quant_type: str
) -> None:
    base = save_base(tmp_path / "base", kind)
    adapter = save_adapter(base, tmp_path / "adapter", **FLAVOURS[flavour])
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=double)
    ours(base, adapter, tmp_path / "ours", quantisation=four_bits)
    theirs = merged_by_peft(base, adapter, tmp_path / "theirs", quantisation=four_bits)
    assert differing(tmp_path / "ours", theirs) == []


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "gemma"])
def test_lora_on_one_of_two_tied_tensors_answers_as_trained_where_pefts_merge_does_not(
    tmp_path: Path, kind: str
) -> None:
    from peft import PeftModel

    base = save_base(tmp_path / "base", kind)
    target = "wte" if kind == "gpt2" else "embed_tokens"
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=[target])
    report = ours(base, adapter, tmp_path / "ours")
    trained: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        watched = trained(input_ids=torch.arange(3, 40)[None]).logits
    assert report.untied
    assert config_of(tmp_path / "ours")["tie_word_embeddings"] is False
    assert (logits(tmp_path / "ours") - watched).abs().max() < 1e-4
    assert (logits(merged_by_peft(base, adapter, tmp_path / "theirs")) - watched).abs().max() > 1e-2


def test_gpt2_trained_in_four_bits_answers_as_it_was_watched(tmp_path: Path, one_kernel: None) -> None:  # noqa: ARG001
    from peft import PeftModel

    base = save_base(tmp_path / "base", "gpt2")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    loaded: Any = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bits)
    with torch.no_grad():
        watched = PeftModel.from_pretrained(loaded, adapter).eval()(input_ids=torch.arange(3, 40)[None]).logits
    ours(base, adapter, tmp_path / "ours", quantisation=four_bits)
    assert (logits(tmp_path / "ours") - watched).abs().max() < 1e-3


def test_a_base_whose_file_names_the_shared_tensor_by_the_head_loses_nothing(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "qwen3")
    file = base / "model.safetensors"
    held = load_file(file)
    held["lm_head.weight"] = held.pop("model.embed_tokens.weight")
    save_file(held, file, {"format": "pt"})
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    ours(base, adapter, tmp_path / "ours")
    assert differing(tmp_path / "ours", merged_by_peft(base, adapter, tmp_path / "theirs")) == []


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a start that changed the base": ({}, {"init_lora_weights": "pissa"}, "that start changed the base"),
    "an invocation variant": ({}, {"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "LoRA biases": ({}, {"lora_bias": True}, "lora_bias"),
    "another method": ({}, {"peft_type": "IA3"}, "IA3"),
    "overlapping alpha patterns": ({}, {"alpha_pattern": {"q_proj": 8, "self_attn.q_proj": 4}}, "several alpha"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recovered_is_refused_in_words(tmp_path: Path, name: str) -> None:
    settings, edits, words = REFUSED[name]
    base = save_base(tmp_path / "base", "llama")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL, **settings)
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | edits))
    with pytest.raises(Invalid, match=words):
        ours(base, adapter, tmp_path / "ours")


@pytest.mark.parametrize(("rows", "words"), [([96, 97], "have 96 and 98 rows"), ([97], "every new row")])
def test_added_rows_that_the_adapter_lacks_are_refused(tmp_path: Path, rows: list[int], words: str) -> None:
    base = save_base(tmp_path / "base", "llama")
    tokens: dict[str, Any] = {"trainable_token_indices": rows, "resize": 98, "save_embeddings": False}
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL, **tokens)
    with pytest.raises(Invalid, match=words):
        ours(base, adapter, tmp_path / "ours")


def test_an_adapter_of_another_base_is_refused_by_the_tensor_that_is_missing(tmp_path: Path) -> None:
    base, other = save_base(tmp_path / "base", "qwen3"), save_base(tmp_path / "other", "sharded")
    adapter = save_adapter(other, tmp_path / "adapter", target_modules=["q_proj"], bias="all")
    with pytest.raises(Invalid, match=r"has no tensor model\.layers\.0"):
        ours(base, adapter, tmp_path / "ours")


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = save_base(tmp_path / "base", "llama")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    broken = load_file(file)
    next(iter(broken.values()))[0, 0] = float("nan")
    save_file(broken, file, {"format": "pt"})
    with pytest.raises(Invalid, match=r"q_proj\.weight is not finite"):
        ours(base, adapter, tmp_path / "ours")


def test_a_sharded_base_stays_sharded_and_progress_reaches_its_end(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "sharded")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    told: list[tuple[int, int]] = []
    report = ours(base, adapter, tmp_path / "ours", on_progress=lambda done, total: told.append((done, total)))
    assert len(report.files) >= 2
    assert sorted(report.files) == sorted(file.name for file in (tmp_path / "ours").glob("*.safetensors"))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1] == report.bytes
    assert tensors(tmp_path / "ours").keys() == tensors(base).keys()


def test_a_bf16_base_that_was_trained_in_fp32_is_rounded_once(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", "bfloat16")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    ours(base, adapter, tmp_path / "ours", compute_dtype=torch.float32)
    ours(base, adapter, tmp_path / "plain")
    assert {tensor.dtype for tensor in tensors(tmp_path / "ours").values()} == {torch.bfloat16}
    assert differing(tmp_path / "ours", tmp_path / "plain") == []


def test_a_base_whose_own_files_are_quantised_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (base / "config.json").write_text(json.dumps(config_of(base) | quantised))
    with pytest.raises(Invalid, match="own files are quantised"):
        ours(base, adapter, tmp_path / "ours")


MEASURED = """
import sys
from pathlib import Path
from backend.core.methods.lora_merge import add_in_blocks, plan_lora
from worker.peak import peak_bytes
from worker.exports.merge import merge
small, large, out = map(Path, sys.argv[1:])
merge(small / "base", small / "adapter", out / "small", planner=plan_lora)  # whatever is loaded late is loaded now
before = peak_bytes()
merge(large / "base", large / "adapter", out / "large", planner=plan_lora)
print(peak_bytes() - before)
"""


def test_the_merge_of_a_large_model_needs_no_more_memory_than_its_largest_tensors(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    for name, layers in (("small", 1), ("large", 24)):
        config = LlamaConfig(
            vocab_size=96, hidden_size=512, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=8
        )
        AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / name / "base")
        save_adapter(tmp_path / name / "base", tmp_path / name / "adapter", target_modules=ALL)
    size = (tmp_path / "large/base/model.safetensors").stat().st_size
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "small"), str(tmp_path / "large"), str(tmp_path)]
    grown = int(subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=Path.cwd()).stdout)
    assert size > 150e6
    assert grown < 20e6, f"{grown / 1e6:.0f} MB for a model of {size / 1e6:.0f} MB"


@pytest.mark.parametrize("shape", [(1, 7), (2049, 2048), (5000, 1000), (129, 20_000), (4, 1 << 21)])
def test_an_update_that_is_added_in_blocks_has_the_bits_of_the_whole_product(shape: tuple[int, int]) -> None:
    chance = torch.Generator().manual_seed(0)
    weight, left, right = (torch.randn(each, generator=chance) for each in (shape, (shape[0], 8), (8, shape[1])))
    weight = weight.bfloat16()
    whole = weight.clone().add_((left @ right).mul_(0.5))
    assert torch.equal(add_in_blocks(weight, left, right, 0.5), whole)
