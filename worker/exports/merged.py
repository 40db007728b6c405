"""The merged model's folder in Hugging Face's layout: it needs nothing of ours to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.core.exports.base import Facts
from worker.exports.context import ExportContext
from worker.exports.merge import MergeReport, OnProgress, merge, write_trained
from worker.exports.tokenizer_files import copy_licences, copy_tokenizer

Config = dict[str, Any]
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def write_merged(context: ExportContext, folder: Path, on_progress: OnProgress) -> Facts:
    """Weights, config.json as the base's with the training's ends, generation_config.json, tokenizer, licence."""
    report = write_weights(context, folder, on_progress)
    copy_tokenizer(context.tokenizer, folder)
    copy_licences(context.base, folder)
    write_generation_config(context.base, folder)
    set_ends(folder)
    return {
        "tensors": report.tensors,
        "changed_tensors": report.changed,
        "vocab_size": report.vocab_size,
        "untied": report.untied,
        "added_tokens": len(context.added_token_ids),
    }


def write_weights(context: ExportContext, folder: Path, on_progress: OnProgress) -> MergeReport:
    if not context.recipe.method.makes_adapter:
        return write_trained(context.base, context.trained, folder, on_progress=on_progress)
    onto_trained = context.recipe.saving.merge_onto == "trained"
    return merge(
        context.base,
        context.trained,
        folder,
        planner=context.recipe.method.merge_planner(),
        compute_dtype=context.dtype,
        quantisation=context.quantisation if onto_trained else None,
        device=context.device,
        on_progress=on_progress,
    )


def write_generation_config(base: Path, folder: Path) -> None:
    """The base's, made valid: transformers loads a greedy config with a temperature, but refuses to save it again."""
    if (base / "generation_config.json").is_file():
        config: Config = json.loads((base / "generation_config.json").read_text())
        if not config.get("do_sample"):
            config = {key: value for key, value in config.items() if key not in SAMPLING}
        write_json(folder / "generation_config.json", config)


def set_ends(folder: Path) -> None:
    """Where training ended its answers with another token than the base, generation must end there too; the base's ends stay.

    Everything else, `use_cache` and the padding of the base included, is as it was in the base.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            config: Config = json.loads((folder / name).read_text())
            write_json(folder / name, with_ends(config, tokenizer.eos_token_id, tokenizer.pad_token_id))


def with_ends(config: Config, eos: int | None, pad: int | None) -> Config:
    given = config.get("eos_token_id")
    ends = given if isinstance(given, list) else [] if given is None else [given]
    changed = {} if eos is None or eos in ends else {"eos_token_id": [eos, *ends] if ends else eos}
    if pad is not None and (changed or config.get("pad_token_id") is None):
        changed["pad_token_id"] = pad
    return config | changed


def write_json(path: Path, value: Config) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
