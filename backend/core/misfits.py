"""Whether a configuration and the weights beside it are of the same model, told without loading either.

Compared is what is the same in all families: numbered layers, the embedding, and what all tensors hold together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from backend.core.configurations import SIZES, beyond, number, quantisation, sizes, text_part
from backend.core.errors import Invalid, Problem
from backend.core.weights import BITS, DTYPES, Tensor

MOST_LAYERS = 1000
"""The deepest models have a few hundred. What builds a model makes a module of each before it looks at any weights."""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers", "decoder_layers",
          "num_decoder_layers", "num_encoder_layers", "num_nextn_predict_layers")  # fmt: skip
LOOPED = re.compile("loop|recurrent|cycles|per_stack")
IN_A_STACK = re.compile(r"(.*?)(?:^|\.)(\d{1,9})\.")
EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|shared|embeddings)\.weight$"
)
MORE_ROWS = 64
PACKED = ("U8", "I32", "I64")
OWN_HINT = "Take config.json and the weights from the same model."


def refuse_misfits(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise `Invalid` where the weights are not those of the model that the configuration describes. What has no weights
    would be made up at random, however large it is said to be, and trained as if it had been learned."""
    text = text_part(config)
    problems = [*_too_deep(config), *_other_layers(text, tensors), *_other_embedding(text, tensors)]
    problems = problems or [*_too_wide(text, held(config, tensors))]
    if problems:
        raise Invalid("This model cannot be used as a base.", code="model.refused", problems=tuple(problems))


def held(config: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    """How many parameters these weights can be at the most: some quantisations pack them, with two bits for each."""
    packed = PACKED if quantisation(config) is not None else ()
    return sum(each.elements * (BITS[each.dtype] // 2 if each.dtype in packed else 1) for each in tensors.values())


def out_of_range(config: dict[str, Any]) -> Iterator[Problem]:
    """Sizes beyond all models, of whichever part: they are told without the weights, and nothing is reckoned with them."""
    names = dict.fromkeys((*(name for each in SIZES.values() for name in each), *LAYERS))
    for part in _parts(config):
        yield from (_misfit(f"says a number for {name} that no model has.") for name in beyond(part, names))


def _too_deep(config: dict[str, Any]) -> Iterator[Problem]:
    """In any part, of what sees and hears as well."""
    for part in _parts(config):
        count = max((number(part, name) or 0 for name in LAYERS), default=0)
        if count > MOST_LAYERS:
            yield _misfit(f"says {count:,} layers, and no model has more than {MOST_LAYERS:,}.")


def _parts(config: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """What is said of the whole, and of each part that is told of apart."""
    return config, *(value for value in config.values() if isinstance(value, dict))


def _other_layers(text: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[Problem]:
    """A model has several stacks where it sees or hears; one of them has to be the text's. Layers that foresee further
    tokens stand behind the others, and are counted apart; those that are gone through several times may be counted as often
    as that, so that only building the model tells."""
    said, behind = sizes(text)["layers"], number(text, "num_nextn_predict_layers") or 0
    stacks: defaultdict[str, set[int]] = defaultdict(set)
    for name in tensors:
        if found := IN_A_STACK.match(name):
            stacks[found[1]].add(int(found[2]))
    is_told_elsewhere = max(said or 0, behind) > MOST_LAYERS
    if said is None or is_told_elsewhere or any(LOOPED.search(name) and number(text, name) for name in text):
        return
    whole = set(range(said)), set(range(said + behind))
    if not any(numbers in whole for numbers in stacks.values()):
        most = max(map(len, stacks.values()), default=0)
        yield _misfit(f"says {said:,} layers, and the weights hold {most:,}.")


def _other_embedding(text: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[Problem]:
    """Some embed more narrowly than they compute, and say so; some have rows for a few tokens that are not words."""
    rows, width = number(text, "vocab_size"), sizes(text)["hidden_size"]
    widths = {
        width,
        *(number(text, name) for name in ("word_embed_proj_dim", "embedding_size", "input_embedding_size")),
    }
    shapes = [
        each.shape
        for name, each in tensors.items()
        if EMBEDDING.search(name) and len(each.shape) == 2 and each.dtype in DTYPES
    ]
    fit = (
        (rows is None or rows <= high <= rows + MORE_ROWS) and (width is None or wide in widths)
        for high, wide in shapes
    )
    if shapes and not any(fit):
        words = f"a vocabulary of {rows or 0:,} and a width of {width or 0:,}"
        high, wide = shapes[0]
        yield _misfit(f"says {words}, and the weights embed {high:,} tokens in a width of {wide:,}.")


def _too_wide(text: dict[str, Any], held: int) -> Iterator[Problem]:
    """One matrix alone would hold more than all weights together. A mixture of experts may name a width that it has not."""
    said = sizes(text)
    width = said["hidden_size"] or 1
    counts = {"hidden_size": 1, **{what: said[what] for what in ("vocabulary", "experts", "heads", "head_dim")}}
    if not said["experts"]:
        counts["intermediate_size"] = said["intermediate_size"]
    for what, count in counts.items():
        if (count or 0) * width > held:
            yield _misfit(f"says {said[what]:,} for {what}, which is more than all the weights hold.")


def _misfit(message: str) -> Problem:
    return Problem("model.misfit", message, "config.json", OWN_HINT)
