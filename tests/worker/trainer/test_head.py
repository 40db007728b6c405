"""The loss without all logits is the model's own loss, whatever stands behind its last hidden state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from backend.core.methods.full import Full
from backend.core.methods.lora import Lora
from backend.core.rendering import IGNORE_INDEX
from tests.support.held import Held
from tests.support.models import CONTEXT, SHAPE, make_model
from worker.trainer.head import HALF_SCALE, LossHead, choose
from worker.trainer.observing import summed_loss

VOCABULARY = 300
IDS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 2}
WIDE = SHAPE | IDS | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
PARTICULAR: dict[str, Callable[[], Any]] = {
    "gemma2, a soft cap": lambda: transformers.Gemma2Config(
        **WIDE, head_dim=16, query_pre_attn_scalar=16, final_logit_softcapping=3.0
    ),
    "cohere, a scale": lambda: transformers.CohereConfig(**WIDE, logit_scale=0.5),
    "granite, a divisor": lambda: transformers.GraniteConfig(**WIDE, logits_scaling=8.0),
    "phi, a bias": lambda: transformers.PhiConfig(**WIDE),
}
METHODS: dict[str, Callable[[Any], Any]] = {
    "lora": lambda model: Lora(r=4).apply(model, []),
    "lora on the head": lambda model: Lora(r=4, target_modules=("lm_head",)).apply(model, []),
    "added tokens": lambda model: Lora(r=4).apply(model, [5, 6]),
    "full": lambda model: Full().apply(model, []),
}


def model(name: str) -> Any:
    if name not in PARTICULAR:
        return make_model(name, VOCABULARY, 2, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(PARTICULAR[name]())


def rows(vocabulary: int = VOCABULARY, *, count: int = 3, length: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : length // 4] = IGNORE_INDEX
    return ids, labels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "gpt2", "opt", *PARTICULAR])
def test_every_head_gives_the_models_own_loss_and_gradients(name: str, method: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        base = model(name) if method == "full" else model(name).to(dtype)
        head, why_not = choose(METHODS[method](base).train(), VOCABULARY, dtype)
        assert head is not None, why_not


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_the_same_way_with_all_logits_and_without(method: str) -> None:
    """Five steps of two batches each, whose loss is divided by the tokens of both."""
    ids, labels = rows()
    count = 2 * int((labels[:, 1:] != IGNORE_INDEX).sum())
    losses: list[list[float]] = []
    for is_chunked in (False, True):
        torch.manual_seed(0)
        trained = METHODS[method](model("qwen3")).train()
        head = LossHead.of(trained, torch.float32)
        optimizer = torch.optim.AdamW([each for each in trained.parameters() if each.requires_grad], lr=1e-3)
        losses.append([])
        for _ in range(5):
            for batch in (ids, ids.flip(0)):
                taught = labels if batch is ids else labels.flip(0)
                if is_chunked:
                    loss = head.summed_loss({"input_ids": batch}, taught) / count
                else:
                    loss = trained(input_ids=batch, labels=taught, num_items_in_batch=torch.tensor(count)).loss
                loss.backward()
                losses[-1].append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
    assert losses[0][0] > losses[0][-1], "it learns"
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_hook_around_the_backbone_stays_where_it_was() -> None:
    causal = METHODS["lora"](model("llama")).train()
    backbone = causal.get_base_model().get_decoder()
    add_hook_to_module(backbone, AlignDevicesHook("cpu"))
    hooked = backbone.forward
    head, why_not = choose(causal, VOCABULARY, torch.float32)
    assert head is not None, why_not
    ids, labels = rows()
    head.summed_loss({"input_ids": ids}, labels).backward()
    assert backbone.forward is hooked


def test_what_a_model_adds_to_its_loss_is_not_lost() -> None:
    config = transformers.Qwen3MoeConfig(
        **WIDE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, output_router_logits=True
    )
    for dtype in (torch.float32, torch.bfloat16):
        routed = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
        head, why_not = choose(METHODS["lora"](routed), VOCABULARY, dtype)
        assert head is None
        assert "the loss moves by" in why_not


def test_the_logits_of_a_large_vocabulary_take_a_tenth_of_the_memory() -> None:
    vocabulary = 16_000
    ids, labels = rows(vocabulary, count=8, length=512)
    adapted = METHODS["lora"](make_model("llama", vocabulary, 2, 0)).train()
    hidden = LossHead.of(adapted, torch.float32).hidden({"input_ids": ids}).detach()

    def held(loss: Callable[[torch.Tensor], torch.Tensor]) -> int:
        with Held() as counted:
            loss(hidden.clone().requires_grad_()).backward()
        most: int = counted.most
        return most

    head = LossHead.of(adapted, torch.float32)
    taught = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    weight = adapted.get_output_embeddings().weight
    targets = torch.nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].flatten()
    whole = held(lambda state: torch.nn.functional.cross_entropy((state @ weight.T).flatten(0, 1), targets))
    chunked = held(lambda state: head.summed_over(state[taught], labels[:, 1:][taught]))
    assert chunked * 10 <= whole


def test_measuring_sums_the_same_loss() -> None:
    ids, labels = rows()
    adapted = METHODS["lora"](model("gemma2, a soft cap")).eval()
    with torch.no_grad():
        found = LossHead.of(adapted, torch.float32).summed_loss({"input_ids": ids}, labels)
        expected = summed_loss(adapted, {"input_ids": ids}, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_rows_that_teach_nothing_cost_nothing_and_move_nothing() -> None:
    ids, labels = rows()
    adapted = METHODS["lora"](model("llama")).train()
    loss = LossHead.of(adapted, torch.float32).summed_loss({"input_ids": ids}, torch.full_like(labels, IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert all(not each.grad.any() for each in adapted.parameters() if each.grad is not None)


def test_gradients_of_well_learned_tokens_survive_half_precision() -> None:
    """A token at a loss of 1e-5 still has a gradient in fp16, whose smallest number is 6e-8."""
    adapted = METHODS["lora"](model("llama").half())
    head = LossHead.of(adapted, torch.float16)
    weight = adapted.get_output_embeddings().weight
    target = torch.tensor([7])
    hidden = (weight[target] * 18 / weight[target].float().square().sum()).detach().requires_grad_()
    loss = head.summed_over(hidden, target)
    assert 0 < loss.item() < 1e-4
    (loss * HALF_SCALE).backward()
    assert hidden.grad is not None
    assert hidden.grad.count_nonzero() > hidden.numel() // 2


def test_the_probe_leaves_random_states_mode_and_gradients_alone() -> None:
    watched = METHODS["full"](model("llama")).train()
    before = torch.get_rng_state()
    assert choose(watched, VOCABULARY, torch.float32)[0] is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert watched.training
    assert all(each.grad is None for each in watched.parameters())
