"""What a person watches: loss on the rows held back, and the model's answers to the run's prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, StoppingCriteria

from backend.core.recipe import Evaluation
from backend.core.rendering import IGNORE_INDEX, Example, Prepared
from backend.core.rendering.masks import encode_prompt
from worker.trainer.batches import Collator, in_batches, supervised
from worker.trainer.head import LossHead
from worker.trainer.undisturbed import undisturbed


@dataclass(frozen=True)
class Measured:
    """The loss summed over every supervised token and divided once: neither batch size nor packing shows in it."""

    loss: float
    tokens: int


@dataclass(frozen=True)
class Sample:
    """An answer. `finish` is `stop` where the model ended it, `length` where it ran out of tokens."""

    index: int
    prompt: str
    text: str
    tokens: int
    finish: str


def measure(
    model: Any,
    examples: Sequence[Example],
    collate: Collator,
    batch_size: int,
    told: Callable[[int, int], None],
    *,
    head: LossHead | None = None,
) -> Measured:
    """Evaluate. Training goes on afterwards as if this had not been. `told` hears rows done and in all."""
    total, tokens, done = 0.0, 0, 0
    with undisturbed(model):
        for rows in in_batches(examples, batch_size):
            batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
            labels = batch.pop("labels")
            loss = summed_loss(model, batch, labels) if head is None else head.summed_loss(batch, labels)
            total += loss.item()
            tokens += supervised(labels)
            done += len(rows)
            told(done, len(examples))
    return Measured(total / tokens if tokens else float("nan"), tokens)


def summed_loss(model: Any, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token given those before it, summed, from all logits at once; labels are [rows, length]."""
    each = model(**batch, use_cache=False).logits[:, :-1].float().flatten(0, 1)
    return functional.cross_entropy(each, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def answers(
    model: Any,
    prepared: Prepared,
    prompts: Sequence[str],
    settings: Evaluation,
    seed: int,
    *,
    first: int = 0,
    told: Callable[[], None] = lambda: None,
) -> Iterator[Sample]:
    """Ask each prompt from `first` on through the chat template, with the same seed each time. Training does not notice.

    `told` hears of each token, and may raise to break off.
    """
    for index, prompt in list(enumerate(prompts))[first:]:
        question = encode_prompt(prompt, prepared)
        with undisturbed(model):
            torch.manual_seed(seed + index)
            answer = _generate(model, question, generation_config(prepared, settings, len(question)), told)
        stopped = bool(answer) and answer[-1] in prepared.stop_token_ids
        text = prepared.tokenizer.decode(answer[:-1] if stopped else answer, skip_special_tokens=True)
        yield Sample(index, prompt, text, len(answer), "stop" if stopped else "length")


class EachToken(StoppingCriteria):
    """Stops nothing: it is where `generate` can be listened to."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.told = told

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_named: Any) -> torch.Tensor:  # noqa: ARG002 -- the base's signature
        self.told()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _generate(model: Any, question: list[int], config: GenerationConfig, told: Callable[[], None]) -> list[int]:
    """The ids of the answer. The model's own generation settings are put aside: they may sample where we are greedy."""
    ids = torch.tensor([question], device=model.device)
    own, model.generation_config = model.generation_config, config
    try:
        row = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=[EachToken(told)],
        )[0]
    finally:
        model.generation_config = own
    answer: list[int] = row[len(question) :].tolist()
    return answer


def generation_config(prepared: Prepared, settings: Evaluation, used: int) -> GenerationConfig:
    """Greedy at temperature 0, else plain sampling: no cut of unlikely tokens, no penalties."""
    room = (prepared.context_length or used + settings.max_new_tokens) - used
    how: dict[str, Any] = (
        {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
        if settings.temperature > 0
        else {"do_sample": False}
    )
    return GenerationConfig(
        max_new_tokens=max(1, min(settings.max_new_tokens, room)),
        eos_token_id=list(prepared.stop_token_ids),
        pad_token_id=prepared.pad_token_id,
        use_cache=True,
        remove_invalid_values=True,  # a model that has become NaN gives an odd answer instead of ending the run
        **how,
    )
