"""How much memory a training step takes: a closed formula, answered in microseconds, no torch and no accelerator.

It follows what the trainer really does: which weights are fp32, what autocast copies, what autograd remembers, that the
logits of a few tokens are held at once. `docs/decisions/memory-by-a-closed-formula.md` says how far it may be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from backend.core.recipe import Recipe, Training

MIB = 1 << 20
Verdict = Literal["fits", "tight", "too_big"]
Precision = Literal["bf16", "fp16", "fp32"]

TIGHT_SHARE = 0.10
"""With less than this share left, one longer row or one library more may be too much."""
CONTEXT_BYTES = 640 * MIB
"""CUDA's context, kernels and cuBLAS's workspace."""
PROCESS_BYTES = 700 * MIB
"""A trainer on a CPU with torch, transformers and peft imported."""
SLACK_SHARE = 0.05
"""What the allocator holds between tensors of changing sizes."""
LOGITS_BYTES = {4: 8, 2: 10}
"""A logit of a chunk at the loss, by the precision's width: itself, in fp32 where it is not, and its log-softmax."""
LAST_HIDDEN_BYTES = {4: 8, 2: 12}
"""A number of the last hidden state there: its copy for supervised tokens and its gradient; in 16 bits its norm keeps more."""
USUAL_LENGTH = 2048

EXPLAINED: dict[str, str] = {
    "weights": "The model itself, and the small matrices that LoRA adds.",
    "gradients": "For each trained weight the direction in which it should move.",
    "optimizer": "Two running averages for each trained weight, from which AdamW makes a step.",
    "activations": "What the pass forward leaves behind for the pass back; it grows with rows × tokens.",
    "overhead": "The driver, its libraries, and gaps that the allocator leaves.",
}
"""One sentence for each part, in the order of `Footprint`."""


@dataclass(frozen=True)
class Linear:
    """All layers of one name, `q_proj`: how wide each is, and how many there are."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class Shape:
    """What of a model decides over memory and time."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    chat_template: bool
    context_length: int | None
    linears: tuple[Linear, ...]
    """Every linear layer but the head, which 4-bit loading and `all-linear` leave alone."""

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def linear_parameters(self) -> int:
        return sum(each.parameters for each in self.linears)

    @property
    def largest_linear(self) -> int:
        return max(each.inputs * each.outputs for each in self.linears)


@dataclass(frozen=True)
class Footprint:
    """Bytes at the worst moment of a step, by what they are held for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.overhead

    @property
    def parts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in EXPLAINED}


# ---- what the trainer decides by the machine ------------------------------------------------------------------------


def resolve_precision(wanted: Precision | Literal["auto"], *, on_cpu: bool, has_bf16: bool = True) -> Precision:
    """The type in which the passes compute: `auto` takes bf16 where the accelerator has it, else fp16; fp32 on a CPU."""
    if wanted != "auto":
        return wanted
    if on_cpu:
        return "fp32"
    return "bf16" if has_bf16 else "fp16"


def recomputes(training: Training, *, on_cpu: bool) -> bool:
    """Whether activations are computed again rather than remembered: `auto` does so on accelerators, whose memory is dear."""
    wanted = training.gradient_checkpointing
    return not on_cpu if wanted == "auto" else wanted


# ---- the shape of a model -------------------------------------------------------------------------------------------


def shape_of(facts: Mapping[str, Any]) -> Shape | None:
    """The shape behind a model's facts (`bases.BaseFacts` as JSON). None where they do not tell enough to be honest:
    facts that were stored before these fields were read, mixtures of experts, architectures without such layers."""
    sizes = [facts.get(name) for name in ("parameters", "layers", "hidden_size", "heads", "vocabulary")]
    if facts.get("experts") or not all(type(size) is int and size > 0 for size in sizes):
        return None
    parameters, layers, hidden, heads, vocabulary = (int(size or 0) for size in sizes)
    head_dim = facts.get("head_dim") or hidden // heads
    kv_heads = facts.get("kv_heads") or heads
    intermediate = facts.get("intermediate_size") or 4 * hidden
    linears = tuple(Linear(*each) for each in facts.get("linears") or ())
    return Shape(
        parameters=parameters,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        tied=bool(facts.get("tied_embeddings")),
        chat_template=bool(facts.get("chat_template")),
        context_length=facts.get("context_length"),
        linears=linears or usual_linears(layers, hidden, intermediate, heads * head_dim, kv_heads * head_dim),
    )


def usual_linears(layers: int, hidden: int, intermediate: int, queries: int, keys: int) -> tuple[Linear, ...]:
    """The layers of the Llama family, for a model of which only the configuration is known."""
    return (
        Linear("q_proj", hidden, queries, layers),
        Linear("k_proj", hidden, keys, layers),
        Linear("v_proj", hidden, keys, layers),
        Linear("o_proj", queries, hidden, layers),
        Linear("gate_proj", hidden, intermediate, layers),
        Linear("up_proj", hidden, intermediate, layers),
        Linear("down_proj", intermediate, hidden, layers),
    )


# ---- the formula ----------------------------------------------------------------------------------------------------


def footprint(shape: Shape, recipe: Recipe, *, longest: int | None = None, on_cpu: bool = False) -> Footprint:
    """About how many bytes a step of this recipe holds at its worst moment.

    `longest` is the longest row in tokens where the data is known; else rows are taken to be as long as they may be.
    """
    training, method = recipe.training, recipe.method
    width = 4 if resolve_precision(training.precision, on_cpu=on_cpu) == "fp32" else 2
    trained = method.trained_parameters(shape)
    activations = _activations(shape, recipe, row_length(shape, recipe, longest), width, on_cpu=on_cpu)
    return Footprint(
        weights=method.held_bytes(shape, width) + (4 * trained if method.makes_adapter else 0),
        gradients=4 * trained,
        optimizer=_optimizer(training.optim, trained, activations, on_cpu=on_cpu),
        activations=activations,
        overhead=(PROCESS_BYTES if on_cpu else CONTEXT_BYTES) + int(SLACK_SHARE * activations),
    )


def verdict(needed: Footprint, memory_bytes: int) -> Verdict:
    """Whether it fits into that much memory; `tight` where less than a tenth would be left."""
    if needed.total > memory_bytes:
        return "too_big"
    return "tight" if needed.total > memory_bytes * (1 - TIGHT_SHARE) else "fits"


def most_rows(
    shape: Shape, recipe: Recipe, memory_bytes: int, *, longest: int | None = None, on_cpu: bool = False
) -> int:
    """How many rows a step may take at once on so much memory; 0 where not even one fits. Powers of two, at most 64."""
    best = 0
    for rows in (1, 2, 4, 8, 16, 32, 64):
        training = recipe.training.model_copy(update={"per_device_train_batch_size": rows})
        needed = footprint(shape, recipe.model_copy(update={"training": training}), longest=longest, on_cpu=on_cpu)
        if verdict(needed, memory_bytes) == "too_big":
            break
        best = rows
    return best


def row_length(shape: Shape, recipe: Recipe, longest: int | None = None) -> int:
    """Tokens of the longest row. Packed rows are all as long as they may be."""
    data = recipe.data
    most = min(USUAL_LENGTH, shape.context_length or USUAL_LENGTH) if data.max_length == "auto" else data.max_length
    return most if longest is None or data.packing else min(longest, most)


def _optimizer(optim: str, trained: int, activations: int, *, on_cpu: bool) -> int:
    if "8bit" in optim:
        return 2 * trained + trained // 32  # and a scale for each 256 values
    # AdamW over all tensors at once makes a root of each average; the activations are gone by then
    scratch = 0 if on_cpu or optim == "adamw_torch_fused" else max(0, 4 * trained - activations)
    return 8 * trained + scratch


def _activations(shape: Shape, recipe: Recipe, length: int, width: int, *, on_cpu: bool) -> int:
    """Bytes between forward and backward at the worst moment: at the loss, or inside the layer that is differentiated."""
    tokens = recipe.training.per_device_train_batch_size * length
    trained = recipe.method.trained_parameters(shape)
    layer = tokens * _layer_bytes_a_token(shape, recipe, length, width)
    within = tokens * 12 * shape.intermediate + recipe.method.scratch_bytes(shape, width)
    loss = _loss_bytes(shape, recipe, tokens, width, on_cpu=on_cpu)
    casts = 2 * trained if width == 2 else 0  # autocast's 16-bit copies
    if recomputes(recipe.training, on_cpu=on_cpu):
        residual = shape.hidden * (4 if recipe.method.trains_residual else width)
        worst = tokens * residual * shape.layers + max(loss, casts, layer + within)
    else:
        worst = layer * shape.layers + casts + max(loss, within)
    if recipe.training.gradient_accumulation_steps == 1:  # gradients come only as activations go
        gradients = 4 * trained
        worst = max(worst, gradients + layer + within) - gradients
    added_rows = 0 if shape.chat_template or not recipe.method.makes_adapter else 2 * width * shape.embedding
    return worst + added_rows


def loss_chunk(*, learns: bool, on_cpu: bool) -> int:
    """Of how many tokens logits are held at once. Where the head learns of more, since each chunk adds up a gradient as
    large as it; on a CPU of fewer, since its allocator leaves wide gaps between large blocks, and a core is no slower.
    """
    return 1024 if learns else 128 if on_cpu else 256


def _loss_bytes(shape: Shape, recipe: Recipe, tokens: int, width: int, *, on_cpu: bool) -> int:
    """Bytes at the loss: logits of a chunk, the last hidden state, and what a head that learns gathers."""
    learns = not recipe.method.makes_adapter
    chunk = loss_chunk(learns=learns, on_cpu=on_cpu)
    logits = LOGITS_BYTES[width] * min(tokens, chunk) * shape.vocabulary
    of_head = 4 if width == 4 else 6  # a chunk's gradient of each weight, and autocast's copy
    of_head += 4 if tokens > chunk else 0  # beside the sum of those before
    return logits + LAST_HIDDEN_BYTES[width] * tokens * shape.hidden + (of_head * shape.embedding if learns else 0)


def _layer_bytes_a_token(shape: Shape, recipe: Recipe, length: int, width: int) -> int:
    """What autograd keeps of one token in one layer that is remembered whole."""
    queries = shape.heads * shape.head_dim
    if width == 2:  # autocast makes each linear layer a copy of its input
        inputs = sum(each.inputs * each.count for each in shape.linears) // shape.layers
    else:  # layers that read the same share it
        inputs = 2 * shape.hidden + queries + shape.intermediate
    norms = 2 * 4 * shape.hidden
    attention = 4 * queries
    if recipe.model.attn_implementation == "eager":  # scores of every pair, before and behind the softmax
        attention += shape.heads * length * (4 + width) // width
    feeding = sum(each.count for each in shape.linears if each.outputs >= shape.intermediate > each.inputs)
    middle = 3 * shape.intermediate if feeding > shape.layers else 2 * shape.intermediate
    return width * (inputs + attention + middle) + norms
