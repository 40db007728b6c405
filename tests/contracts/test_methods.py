"""Every fine-tuning method keeps the same promises; a new one is tested by its line in the catalog."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM

from backend.core.catalog import METHODS, AnyMethod
from backend.core.methods.base import Method
from tests.support.models import save_base
from worker.trainer.kernels import stay_on_one_kernel
from worker.trainer.loading import make_room, parameter_counts

IDS = torch.arange(3, 23)[None]
BY_KIND = {method.model_fields["kind"].default: method for method in METHODS}
every_method = pytest.mark.parametrize("method", METHODS, ids=list(BY_KIND))


def load(method: Method, base: Path) -> Any:
    stay_on_one_kernel()
    return AutoModelForCausalLM.from_pretrained(base, **method.load_options("cpu", torch.float32))


def train(model: Any, steps: int) -> list[float]:
    """Losses of a few steps on one row."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@every_method
def test_its_settings_explain_themselves_and_survive_json(method: type[Method]) -> None:
    settings = method()
    assert method.title
    assert method.help.endswith(".")
    assert 0 < method.learning_rate < 1
    assert all(field.description for name, field in method.model_fields.items() if name != "kind")
    adapter: TypeAdapter[Any] = TypeAdapter(AnyMethod)
    assert adapter.validate_python(json.loads(settings.model_dump_json())) == settings


@every_method
def test_it_trains_a_model(method: type[Method], tiny_base: Path) -> None:
    model = method().apply(load(method(), tiny_base), [])
    losses = train(model, 6)
    assert losses[-1] < losses[0]


@every_method
def test_an_adapter_leaves_the_base_alone(method: type[Method], tiny_base: Path) -> None:
    model = method().apply(load(method(), tiny_base), [])
    trainable, total = parameter_counts(model)
    assert (trainable < total) is method.makes_adapter
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    train(model, 2)
    after = dict(model.named_parameters())
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())


@every_method
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_added_tokens_are_trained_and_saved_in_embedding_and_head(
    method: type[Method], architecture: str, tmp_path: Path
) -> None:
    model = load(method(), save_base(tmp_path / "base", architecture))
    rows = model.get_input_embeddings().weight.shape[0]
    added = [rows, rows + 1]
    make_room(model, rows + 2, added)
    assert torch.equal(*model.get_input_embeddings().weight[added]), "both start as the mean of the others"
    model = method().apply(model, added)
    row = torch.tensor([[5, rows, 7, rows + 1, 9]])
    before = model(input_ids=row).logits[..., added].detach()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(input_ids=row, labels=row).loss.backward()
    optimizer.step()
    assert not torch.equal(before, model(input_ids=row).logits[..., added])
    model.save_pretrained(tmp_path / "saved")
    assert list((tmp_path / "saved").glob("*model.safetensors"))


def test_the_catalogs_union_offers_each_method_once() -> None:
    assert set(get_args(get_args(AnyMethod)[0])) == set(METHODS)
    assert len(BY_KIND) == len(METHODS)
