"""Looking at a run does not change it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from backend.core.methods.qlora import QLora
from backend.core.rendering.prepare import prepare
from backend.core.rendering.tokenizer import load_tokenizer
from tests.support.models import make_model
from tests.worker.trainer.conftest import Attempts
from worker.trainer.batches import Collator
from worker.trainer.kernels import quantised_layers, stay_on_one_kernel
from worker.trainer.observing import measure
from worker.trainer.undisturbed import undisturbed


@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_a_run_with_evaluation_and_samples_has_the_losses_of_one_without(attempts: Attempts, kind: str) -> None:
    method = {"kind": kind} | ({} if kind == "full" else {"r": 4, "lora_dropout": 0.1})
    watched = attempts({"method": method, "evaluation": {"eval_steps": 1, "sample_steps": 1}})
    alone = attempts({"method": method, "evaluation": {"eval_steps": 1000, "sample_steps": 1000, "prompts": []}})
    assert watched.run() == alone.run() == 0
    assert len(watched.data("sample")) == 11
    assert watched.losses() == alone.losses()


def test_gradients_before_and_after_a_sample_agree_on_four_bits(tiny_base: Path) -> None:
    stay_on_one_kernel()
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(tiny_base, quantization_config=config, device_map="cpu")
    assert quantised_layers(model)
    model = QLora(r=4, lora_alpha=8).apply(model, [])
    ids = torch.arange(20)[None]

    def gradients() -> list[str]:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [float(p.grad.norm()).hex() for p in model.parameters() if p.grad is not None]

    before = gradients()
    with undisturbed(model):
        model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    assert gradients() == before


def test_the_loss_on_held_back_rows_depends_on_neither_batch_size_nor_packing(attempts: Attempts) -> None:
    attempt = attempts({"evaluation": {"eval_share": 0.5}})
    prepared = load_tokenizer(attempts.base)
    model = make_model("llama", prepared.vocab_size, 2, 0)
    from backend.core.assignment import Assignment

    assignment = Assignment.model_validate_json((attempt.folder / "assignment.json").read_bytes())
    losses, tokens = [], set()
    for packing in (False, True):
        recipe = assignment.recipe.model_copy(
            update={"data": assignment.recipe.data.model_copy(update={"packing": packing})}
        )
        rows = prepare(assignment.data, prepared, recipe, seed=1).eval
        for size in (1, 3, 20):
            measured = measure(model, rows, Collator(prepared.pad_token_id), size, lambda _done, _all: None)
            losses.append(measured.loss)
            tokens.add(measured.tokens)
    assert len(tokens) == 1
    assert max(losses) - min(losses) < 2e-6


def test_packed_rows_give_the_loss_and_the_gradients_of_the_same_rows_apart(attempts: Attempts) -> None:
    from backend.core.assignment import Assignment

    attempt = attempts({"evaluation": {"eval_share": 0}})
    prepared = load_tokenizer(attempts.base)
    assignment = Assignment.model_validate_json((attempt.folder / "assignment.json").read_bytes())
    seen = {}
    for packing in (False, True):
        data = assignment.recipe.data.model_copy(update={"packing": packing})
        rows = prepare(assignment.data, prepared, assignment.recipe.model_copy(update={"data": data}), seed=1).train
        model = make_model("llama", prepared.vocab_size, 2, 0).train()
        batch = Collator(prepared.pad_token_id)(rows)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        seen[packing] = (len(rows), loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()]))
    (apart, loss, gradients), (packed, packed_loss, packed_gradients) = seen[False], seen[True]
    assert packed < apart
    assert abs(loss - packed_loss) < 2e-6
    assert torch.allclose(gradients, packed_gradients, atol=1e-6)
