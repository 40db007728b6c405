"""README.md of an artifact: what it is, what made it, how it did, and the lines that load it."""

from __future__ import annotations

import json
import re
from typing import Any

from backend.core.exports.base import Facts
from worker.exports.context import ExportContext


def card(context: ExportContext, kind: str, facts: Facts) -> str:
    """The model card, in Markdown with the hub's front matter."""
    parts = (
        front_matter(context, kind),
        f"# {plain(context.run_name)}",
        introduction(context, kind),
        "## Load it",
        "Run this inside this folder:",
        f"```python\n{loading_lines(context, kind)}\n```",
        *quantised_note(context, kind),
        "## Data",
        data_table(context),
        "## Measurements",
        metrics_table(context),
        *proof_part(facts),
        *changes_part(context),
        "## Recipe",
        f"```json\n{json.dumps(context.recipe.model_dump(mode='json'), indent=2, ensure_ascii=False)}\n```",
    )
    return "\n\n".join(parts) + "\n"


def front_matter(context: ExportContext, kind: str) -> str:
    """JSON strings are YAML strings, so no name can break out of its line."""
    fields: dict[str, Any] = {
        "base_model": context.base_name,
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["finetune-studio", context.recipe.method.kind, context.recipe.stage.kind],
    }
    return "\n".join(
        ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()), "---"]
    )


def introduction(context: ExportContext, kind: str) -> str:
    what = "An adapter for" if kind == "adapter" else "A model made from"
    method, stage = type(context.recipe.method).title, type(context.recipe.stage).title
    base, run = code(context.base_name), code(context.run)
    return f"{what} {base} by {method} ({stage.lower()}), run {run} of Finetune Studio."


def loading_lines(context: ExportContext, kind: str) -> str:
    """Python that loads the artifact from its own folder."""
    if kind != "adapter":
        return "\n".join(
            (
                "from transformers import AutoModelForCausalLM, AutoTokenizer",
                "",
                'tokenizer = AutoTokenizer.from_pretrained(".")',
                'model = AutoModelForCausalLM.from_pretrained(".")',
            )
        )
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(context.base_name)})",
        'model = PeftModel.from_pretrained(base, ".")',
    ]
    if rows := context.resized_rows:  # the adapter brings the new rows, and fits only where there is room for them
        lines.insert(-1, f"base.resize_token_embeddings({rows}, mean_resizing=False)")
    return "\n".join(lines)


def quantised_note(context: ExportContext, kind: str) -> tuple[str, ...]:
    if kind != "adapter" or context.quantisation is None:
        return ()
    config = context.quantisation
    return (
        "It was trained on the base in 4 bits. For the very model that was watched, load the base with "
        f"`quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type={config.bnb_4bit_quant_type!r}, "
        f"bnb_4bit_use_double_quant={config.bnb_4bit_use_double_quant})`.",
    )


def data_table(context: ExportContext) -> str:
    rows = [(plain(each.name), each.version, each.rows, code(each.sha256)) for each in context.data]
    return table(("Data set", "Version", "Rows", "SHA-256"), rows)


def metrics_table(context: ExportContext) -> str:
    rows = [(plain(name), f"{first:.6g}", f"{last:.6g}") for name, (first, last) in sorted(context.metrics.items())]
    return table(("Metric", "First", "Last"), rows)


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Whatever stands in `rows` is Markdown already: texts of others come by `plain` or `code`."""
    cells = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


def plain(text: str) -> str:
    """In one line, with nothing that could open a tag, a link or a code span: readers of Markdown let HTML through."""
    return re.sub(r"[\\`<\[\]]", r"\\\g<0>", " ".join(text.splitlines()))


def code(text: str) -> str:
    """As a code span, whose fence is longer than any within."""
    line = " ".join(text.splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def changes_part(context: ExportContext) -> tuple[str, ...]:
    """What the recipe below does not say: changes in mid-run."""
    if not context.changes:
        return ()
    rows = [(each.step, each.field, code(json.dumps(each.value, ensure_ascii=False))) for each in context.changes]
    return "## Changed in mid-run", table(("from step", "setting", "value"), rows)


def proof_part(facts: Facts) -> tuple[str, ...]:
    if "max_logit_diff" not in facts:
        return ()
    verdict = "answers like" if facts["agrees"] else "differs from"
    return (
        "## Proof",
        f"Reloaded from disk in {facts['dtype']}, it {verdict} the model that was watched: over {facts['tokens']} tokens "
        f"of {facts['prompts']} texts no logit differs by more than {facts['max_logit_diff']:.3g} "
        f"(rounding explains {facts['threshold']:.3g}), and {facts['greedy_agreement']:.1%} of the likeliest tokens agree.",
    )
