"""The proof that the merged folder answers like the model that was watched.

The watched model's logits are taken while it is still in memory, on the run's own prompts with the answers that it gives. Later
the folder is loaded from disk as anybody would load it, and must give the same logits up to what rounding alone does to the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_TOKENS = 16
ROW_TOKENS = 512
COMPARED_POSITIONS = 32  # of each sequence, its last ones: a vocabulary of 150,000 makes 19 MB of each
NO_PROMPT = "Hello!"  # a run without prompts is proved all the same


@dataclass(frozen=True)
class Watched:
    """What the model that was watched said: token sequences, and its logits at the last positions of each."""

    sequences: tuple[tuple[int, ...], ...]
    logits: tuple[torch.Tensor, ...]  # float32 on the CPU, [positions, vocabulary]

    @property
    def tokens(self) -> int:
        return sum(len(each) for each in self.logits)


def watched_logits(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], rows: Sequence[Sequence[int]] = ()
) -> Watched:
    """Run the watched model on its prompts, through the chat template, and on held-back rows of token ids.

    Each prompt is followed by the greedy answer's first 16 tokens. The model's mode is restored; no random number is drawn.
    """
    with answering(model):
        questions = [templated(tokenizer, prompt) for prompt in prompts or (NO_PROMPT,)]
        answered = [answer(model, ids) for ids in questions]
        sequences = (*answered, *(tuple(row[:ROW_TOKENS]) for row in rows if row))
        return Watched(sequences, logits_of(model, sequences))


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Dropout off and no gradients, for a while."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def templated(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids of a question as the model saw questions in training."""
    if tokenizer.chat_template is None:
        return list(tokenizer.encode(prompt))
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(str(text), add_special_tokens=False))  # the template writes what it wants itself


def answer(model: Any, ids: Sequence[int]) -> tuple[int, ...]:
    """The sequence with its greedy continuation. One forward a token, without a cache: the same kernels as in training."""
    sequence = list(ids)
    for _ in range(ANSWER_TOKENS):
        sequence.append(int(forward(model, sequence)[-1].argmax()))
    return tuple(sequence)


def logits_of(model: Any, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, ...]:
    return tuple(forward(model, sequence)[-COMPARED_POSITIONS:].float().cpu() for sequence in sequences)


def forward(model: Any, sequence: Sequence[int]) -> torch.Tensor:
    """Logits [positions, vocabulary] of one sequence: no padding, so that nothing depends on its neighbours."""
    ids = torch.tensor([list(sequence)], device=next(model.parameters()).device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits
