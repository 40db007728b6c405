"""The proof that the merged folder answers like the model that was watched.

The watched model's logits are taken while it is still in memory, on the run's own prompts with the answers that it gives. Later
the folder is loaded from disk as anybody would load it, and must give the same logits up to what rounding alone does to the base.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from backend.core.errors import StudioError

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

ANSWER_TOKENS = 16
ROW_TOKENS = 512
COMPARED_POSITIONS = 32  # of each sequence, its last ones: a vocabulary of 150,000 makes 19 MB of each
MARGIN = 3.0  # the largest of few rounding errors varies about twofold from one draw to the next
FLOOR_LOGITS = 1e-3  # in float32, kernels and the order of sums alone make up to 1e-4
SEED = 0


@dataclass(frozen=True)
class Watched:
    """What the model that was watched said: token sequences, and its logits at the last positions of each."""

    sequences: tuple[tuple[int, ...], ...]
    logits: tuple[torch.Tensor, ...]  # float32 on the CPU, [positions, vocabulary]

    @property
    def vocabulary(self) -> int:
        return self.logits[0].shape[-1]

    @property
    def tokens(self) -> int:
        return sum(len(each) for each in self.logits)


def watched_logits(model: Any, questions: Sequence[Sequence[int]], rows: Sequence[Sequence[int]] = ()) -> Watched:
    """Run the watched model on the run's questions, one at least, and on held-back rows; both are token ids.

    Each question is followed by the greedy answer's first 16 tokens. The model's mode is restored; no random number is drawn.
    """
    with answering(model):
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


@dataclass(frozen=True)
class Base:
    """The base as it was loaded for training, for the calibration."""

    folder: Path
    dtype: torch.dtype
    compute_dtype: torch.dtype
    quantisation: BitsAndBytesConfig | None
    device: str
    is_adapted: bool
    """Whether an adapter's update was computed beside the base, and rounded apart from it."""

    def epsilon(self, stored: torch.dtype) -> float:
        """The coarsest rounding between the watched model and the merged one, relative."""
        types = (stored, self.dtype, *((self.compute_dtype,) if self.is_adapted else ()))
        return max(torch.finfo(each).eps for each in types)

    def as_watched(self) -> torch.autocast:
        """The precision in which the watched model computed: accelerate puts whatever is not fp32 under autocast."""
        is_mixed = self.compute_dtype != torch.float32
        return torch.autocast(
            torch.device(self.device).type, self.compute_dtype if is_mixed else None, enabled=is_mixed
        )


def prove(watched: Watched, folder: Path, base: Base, *, must_agree: bool = True) -> dict[str, Any]:
    """Reload `folder` in its stored type and compare it with what was watched, computing in the precision of then.

    Where that was autocast, plain code computes in the stored type instead; how much that alone changes is told beside.
    Raises `StudioError` where the largest difference of a logit is above what rounding does to the base, unless the
    difference is only to be shown. Returns the facts of the comparison.
    """
    merged = load_model(folder, "auto", None, base.device)
    with answering(merged):
        plain = logits_of(merged, watched.sequences)
        with base.as_watched():
            found = logits_of(merged, watched.sequences)
    dtype = merged.dtype
    del merged
    difference = largest_difference(watched.logits, found)
    threshold = rounding_threshold(watched, base, dtype)
    agreed = difference <= threshold  # False for NaN too
    if must_agree and not agreed:
        raise StudioError(
            f"The merged model does not answer like the model that was watched: logits differ by {difference:.3g}, "
            f"where rounding explains {threshold:.3g}.",
            code="merge.drift",
            hint="The merged model was not given out; the checkpoint is kept. Report this with the run's recipe.",
        )
    return {
        "max_logit_diff": difference,
        "threshold": threshold,
        "max_logit_diff_without_autocast": largest_difference(watched.logits, plain),
        "agrees": agreed,
        "greedy_agreement": greedy_agreement(watched.logits, found),
        "prompts": len(watched.sequences),
        "tokens": watched.tokens,
        "dtype": str(dtype).removeprefix("torch."),
    }


def load_model(
    folder: Path, dtype: torch.dtype | str, quantisation: BitsAndBytesConfig | None, device: str
) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=quantisation, device_map={"": device}
    )
    return model


def largest_difference(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """Infinite where the shapes differ or a number is missing."""
    if [each.shape for each in left] != [each.shape for each in right]:
        return math.inf
    largest = max(float((one - other).abs().max()) for one, other in zip(left, right, strict=True))
    return math.inf if math.isnan(largest) else largest


def greedy_agreement(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """Share of positions at which both find the same token likeliest."""
    pairs = [(one.argmax(-1), other.argmax(-1)) for one, other in zip(left, right, strict=True)]
    same = sum(int((one == other).sum()) for one, other in pairs if one.shape == other.shape)
    return same / sum(len(one) for one, _ in pairs)


def rounding_threshold(watched: Watched, base: Base, stored: torch.dtype) -> float:
    """How far logits may move for no other reason than the number type.

    The base alone, dequantised, is run as it was trained, autocast included, and again in the stored type with every
    weight moved by up to one rounding, as a merge moves it. Rounding errors grow with the logits, which training may
    have enlarged.
    """
    before, after = rounded_base(watched, base, stored)
    noise = largest_difference(before, after)
    growth = max(1.0, scale_of(watched.logits) / max(scale_of(before), 1e-9))
    return max(FLOOR_LOGITS, MARGIN * noise * growth) if math.isfinite(noise) else FLOOR_LOGITS


def rounded_base(
    watched: Watched, base: Base, stored: torch.dtype
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """The base's logits as trained on, and after one rounding."""
    model: Any = load_model(base.folder, base.dtype, base.quantisation, base.device)
    model = model.dequantize() if base.quantisation else model
    if watched.vocabulary > model.get_output_embeddings().weight.shape[0]:
        model.resize_token_embeddings(watched.vocabulary, mean_resizing=False)
    with answering(model), base.as_watched():
        before = logits_of(model, watched.sequences)
        move_by_one_rounding(model, stored, base.epsilon(stored))
        return before, logits_of(model, watched.sequences)


def move_by_one_rounding(model: torch.nn.Module, dtype: torch.dtype, epsilon: float) -> None:
    """Cast every weight and multiply it by 1 ± up to `epsilon`. Buffers stay, as they do when a model is loaded."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
        generator = torch.Generator(weight.device).manual_seed(SEED)
        noise = torch.rand(weight.shape, generator=generator, dtype=dtype, device=weight.device).mul_(2).sub_(1)
        weight.data.addcmul_(weight.data, noise, value=epsilon)


def scale_of(logits: Sequence[torch.Tensor]) -> float:
    return max(float(each.abs().max()) for each in logits)
