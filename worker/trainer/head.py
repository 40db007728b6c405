"""The loss without all logits: what stands behind a model's last hidden state is done for a few supervised tokens at a time.

Logits of a whole batch are its largest tensor: tokens × vocabulary, three times over in fp32. Here each chunk's logits
live only until their gradient has gone back through the head, which happens in the pass forward; so a frozen head costs
two matrix products and a trained one three, as with all logits at once, and tokens that teach nothing cost none.

The model's own forward computes each chunk, with its backbone standing still. Biases, soft caps, scales, autocast and an
adapter on the head are thus what they are, whatever the architecture; `choose` compares loss and gradients before a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from backend.core.memory import loss_chunk
from backend.core.rendering import IGNORE_INDEX
from worker.trainer.failures import is_out_of_memory
from worker.trainer.undisturbed import undisturbed

HALF_SCALE = 2.0**10
"""fp16 would round a well-learned token's gradients away; the loss's own scaler comes only later, in the pass back."""
PROBED_LENGTH, PROBED_CHUNK = 24, 16
LOSS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-4, torch.float16: 1e-4}
"""How far the two losses may lie apart, relative. What a model adds to its loss, as routers of experts do, is more."""
GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-5, torch.float16: 2**-8}
"""The same of the gradients' norm: the loss's scale moves where half precision rounds them, by up to four roundings."""

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LossHead:
    """What turns the last hidden state into the loss. `trained` are those of its weights that learn."""

    model: Any
    backbone: Any
    trained: tuple[torch.nn.Parameter, ...]
    compute_dtype: torch.dtype
    chunk: int

    @classmethod
    def of(cls, model: Any, compute_dtype: torch.dtype) -> LossHead:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        backbone = causal.get_decoder()
        of_head = {id(each) for each in causal.get_output_embeddings().parameters()}
        inside = {id(each) for each in backbone.parameters()} - of_head  # a tied head learns with the embedding
        trained = tuple(each for each in causal.parameters() if each.requires_grad and id(each) not in inside)
        chunk = loss_chunk(learns=bool(trained), on_cpu=causal.device.type == "cpu")
        return cls(model, backbone, trained, compute_dtype, chunk)

    def summed_loss(self, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each supervised token given those before it, summed. `labels` are [rows, length]."""
        taught = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)  # first, since a GPU waits for their number
        hidden = self.hidden(batch)
        return self.summed_over(hidden[taught], labels[:, 1:][taught])

    def hidden(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The last hidden state [rows, length, width], by the model's own forward with logits of no position."""
        seen: list[Any] = []
        handle = self.backbone.register_forward_hook(lambda _module, _given, output: seen.append(output))
        try:
            nowhere = torch.empty(0, dtype=torch.long, device=self.model.device)
            logits = self.model(**batch, use_cache=False, logits_to_keep=nowhere).logits
        finally:
            handle.remove()
        if logits.numel():
            raise TypeError("the model computes logits that were not asked for")
        hidden: torch.Tensor = seen[-1].last_hidden_state
        return hidden

    def summed_over(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss summed over tokens; hidden [tokens, width], targets [tokens]."""
        scale = HALF_SCALE if self.compute_dtype == torch.float16 else 1.0
        with self._standing_still() as logits:
            if torch.is_grad_enabled():
                total: torch.Tensor = _Chunked.apply(logits, self.chunk, scale, targets, hidden, *self.trained)
                return total
            parts = zip(hidden.split(self.chunk), targets.split(self.chunk), strict=True)
            losses = [functional.cross_entropy(logits(part).float(), target, reduction="sum") for part, target in parts]
            return torch.stack(losses).sum() if losses else hidden.new_zeros((), dtype=torch.float32)

    @contextmanager
    def _standing_still(self) -> Iterator[Logits]:
        """Meanwhile the backbone gives back what it is told to, and the model's forward does the rest."""
        told: list[torch.Tensor] = []
        stood = vars(self.backbone).get("forward")  # accelerate hangs its hooks there
        self.backbone.forward = lambda *_arguments, **_named: _HiddenAlone(told.pop())

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            told.append(hidden[None])
            found: torch.Tensor = self.model(input_ids=None, use_cache=False).logits.squeeze(0)
            return found

        try:
            yield logits
        finally:
            del self.backbone.forward
            if stood is not None:
                self.backbone.forward = stood


class _HiddenAlone:
    """What a backbone that stands still gives back: a last hidden state, and of all else nothing."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: int) -> torch.Tensor | None:
        return self.last_hidden_state if index == 0 else None


class _Chunked(torch.autograd.Function):
    """Summed cross-entropy whose gradients are made in the pass forward. The pass back may run once."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Logits,
        chunk: int,
        scale: float,
        targets: torch.Tensor,
        hidden: torch.Tensor,
        *trained: torch.Tensor,
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
        of_trained: list[torch.Tensor] = []
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            loss, gradients = _one_chunk(logits, scale, targets[part], hidden[part], trained)
            total += loss
            if of_hidden is not None:
                of_hidden[part] = gradients.pop(0)
            for whole, gradient in zip(of_trained, gradients, strict=bool(of_trained)):
                whole += gradient
            of_trained = of_trained or gradients
        ctx.scale = scale
        ctx.save_for_backward(of_hidden, *(of_trained or map(torch.zeros_like, trained)))
        return total

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> Any:
        share = above / ctx.scale
        return None, None, None, None, *(None if each is None else each.mul_(share) for each in ctx.saved_tensors)


def _one_chunk(
    logits_of: Logits, scale: float, targets: torch.Tensor, hidden: torch.Tensor, trained: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of some tokens, and its gradients times `scale`: of the hidden state where it learns, then of the weights."""
    leaf = hidden.detach().requires_grad_(hidden.requires_grad)
    with torch.enable_grad():
        logits = logits_of(leaf)
    likelihood = functional.log_softmax(logits.detach().float(), dim=-1)
    loss = functional.nll_loss(likelihood, targets, reduction="sum")
    slope = likelihood.exp_()  # in place: this and the logits are all that is ever held
    slope[torch.arange(len(targets), device=slope.device), targets] -= 1
    learning = [leaf, *trained] if leaf.requires_grad else [*trained]
    slope = slope if scale == 1 else slope.mul_(scale)
    found = torch.autograd.grad(logits, learning, slope.to(logits.dtype), materialize_grads=True)
    return loss, list(found)


# ---- whether it may be used -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Apart:
    """How far chunks and all logits lie apart, relative: the loss, and the gradients' norm."""

    loss: float
    gradients: float

    def is_equal(self, dtype: torch.dtype) -> bool:
        return self.loss <= LOSS_TOLERANCE[dtype] and self.gradients <= GRADIENT_TOLERANCE[dtype]  # False for NaN too


def choose(model: Any, vocabulary: int, compute_dtype: torch.dtype) -> tuple[LossHead | None, str]:
    """A loss head that gives what the model's own loss gives, or None and the reason why there is none."""
    try:
        head = LossHead.of(model, compute_dtype)
        apart = compare(head, vocabulary)
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if apart.is_equal(compute_dtype):
        return head, ""
    return None, f"the loss moves by {apart.loss:.2g}, its gradients by {apart.gradients:.2g}"


def compare(head: LossHead, vocabulary: int) -> Apart:
    """Loss and gradients in chunks beside the model's own, on two random rows, the first half taught. No weight moves."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, PROBED_LENGTH), generator=generator).to(head.model.device)
    labels = ids.clone()
    labels[0, : PROBED_LENGTH // 2] = IGNORE_INDEX
    half = head.compute_dtype != torch.float32
    computing = torch.autocast(head.model.device.type, head.compute_dtype if half else None, enabled=half)
    with undisturbed(head.model), torch.enable_grad(), computing:
        own = _own_loss(head, ids, labels)
        ours = _chunked_loss(replace(head, chunk=PROBED_CHUNK), ids, labels)
    return Apart(_distance(ours[:1], own[:1]), _distance(ours[1:], own[1:]))


def _own_loss(head: LossHead, ids: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """The model's loss as the loop asks for it, and its gradients of the hidden state and the head's weights."""
    seen: list[torch.Tensor] = []

    def detach(_module: Any, _given: Any, output: Any) -> Any:
        seen.append(output.last_hidden_state.detach().requires_grad_())
        output.last_hidden_state = seen[0]
        return output

    handle = head.backbone.register_forward_hook(detach)
    try:
        count = (labels[:, 1:] != IGNORE_INDEX).sum()
        loss = head.model(input_ids=ids, labels=labels, num_items_in_batch=count, use_cache=False).loss
    finally:
        handle.remove()
    return [loss, *torch.autograd.grad(loss, [seen[0], *head.trained], materialize_grads=True)]


def _chunked_loss(head: LossHead, ids: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    taught = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    with torch.no_grad():
        hidden = head.hidden({"input_ids": ids})
    hidden.requires_grad_()
    loss = head.summed_over(hidden[taught], labels[:, 1:][taught]) / len(taught[0])
    return [loss, *torch.autograd.grad(loss, [hidden, *head.trained], materialize_grads=True)]


def _distance(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The norm of the difference beside that of `right`."""
    apart = sum(
        float((one.detach().double() - other.detach().double()).norm() ** 2)
        for one, other in zip(left, right, strict=True)
    )
    whole = sum(float(each.detach().double().norm() ** 2) for each in right)
    return math.sqrt(apart / whole) if whole else math.inf
