"""What the web process asks for: rows as the model would read them, and everything that would stop a run.

Both functions run in a limited process, since templates and data come from strangers:
`run_limited("backend.core.rendering.preview:preview", …)`. JSON in, JSON out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend.core.assignment import DataFile
from backend.core.datasets.schema import Row
from backend.core.errors import Invalid, Problem
from backend.core.limited import report as tell
from backend.core.recipe import Data, Recipe
from backend.core.rendering.marking import places_of
from backend.core.rendering.masks import encode_rows, kept_tokens
from backend.core.rendering.prepare import count_rows, has_conversations, histogram, prepare, row_limit, rows_of
from backend.core.rendering.tokenizer import load_tokenizer
from backend.core.rendering.types import Encoded, Prepared
from backend.core.rendering.without_torch import without_torch
from backend.core.strict import problems_of

MEASURED_ROWS = 2000
"""How many rows of the data the lengths of a preview are taken from."""


def preview(payload: dict[str, Any]) -> dict[str, Any]:
    """Some rows with each token marked.

    Payload: `model_folder`, `chat_template`, `files` (as `DataFile`), `data` (settings of a recipe's `data` without
    `sets`), `offset`, `limit`.
    """
    without_torch()
    files = [DataFile.model_validate(each) for each in payload["files"]]
    data = _data(payload.get("data", {}), files)
    prepared = load_tokenizer(
        Path(payload["model_folder"]), payload.get("chat_template", "auto"), conversations=has_conversations(files)
    )
    limit = row_limit(data, prepared)
    shown = list(islice(_rows(files, payload.get("offset", 0)), payload.get("limit", 10)))
    encoded = encode_rows([row for _, row in shown], prepared, assistant_only_loss=data.assistant_only_loss)
    measured = [row for _, row in islice(_rows(files, 0), MEASURED_ROWS)]
    whole = encode_rows(measured, prepared, assistant_only_loss=data.assistant_only_loss)
    lengths = [len(each) for each in whole if isinstance(each, Encoded)]
    return {
        **_facts(prepared),
        "max_length": limit,
        "rows": [
            _row(name, row, each, prepared, data, limit) for (name, row), each in zip(shown, encoded, strict=True)
        ],
        "lengths": {"rows": len(lengths), "histogram": histogram(lengths), "over": sum(n > limit for n in lengths)},
    }


def preflight(payload: dict[str, Any]) -> dict[str, Any]:
    """All that can be said of the rows before a run starts: `report`, or `problems` where it would be refused.

    Payload: `model_folder`, `files` (as `DataFile`), `recipe`.
    """
    without_torch()
    files = [DataFile.model_validate(each) for each in payload["files"]]
    recipe = Recipe.model_validate(payload["recipe"])
    answer: dict[str, Any] = {"problems": [], "report": None}
    try:
        prepared = load_tokenizer(
            Path(payload["model_folder"]), recipe.model.chat_template, conversations=has_conversations(files)
        )
        answer |= _facts(prepared)
        dataset = prepare(files, prepared, recipe, seed=recipe.training.seed, on_progress=_tell)
    except Invalid as refusal:
        return answer | {"problems": [each.as_json() for each in refusal.problems or (refusal.own,)]}
    return answer | {"report": dataset.report.as_json()}


def warm() -> None:
    """Import whatever the functions here take, before anybody waits for them."""
    without_torch()
    import pyarrow.parquet  # noqa: F401
    from transformers import AutoTokenizer  # noqa: F401


def _tell(done: int, total: int) -> None:
    tell({"rows": done, "of": total})


def _data(settings: dict[str, Any], files: Sequence[DataFile]) -> Data:
    """The settings of a preview as a recipe's. Raises `Invalid` with every problem at its place."""
    body = {**settings, "sets": [{"name": file.name, "version": file.version} for file in files]}
    try:
        return Data.model_validate(body)
    except ValidationError as error:
        problems = tuple(problems_of(error, Data, body).first)
        raise Invalid("The settings of the preview cannot be used.", code="data", problems=problems) from None


def _rows(files: Sequence[DataFile], offset: int) -> Iterator[tuple[str, Row]]:
    """The rows of all files one after the other, behind the first `offset`, each with its set's name."""
    for file in files:
        size = count_rows(file)
        if offset < size:
            yield from ((file.name, row) for row in rows_of(file, offset))
        offset = max(0, offset - size)


def _facts(prepared: Prepared) -> dict[str, Any]:
    return {
        "template_source": prepared.template_source,
        "added_tokens": [vars(each) for each in prepared.added_tokens],
        "stop_tokens": prepared.tokenizer.convert_ids_to_tokens(list(prepared.stop_token_ids)),
        "vocab_size": prepared.vocab_size,
        "model_vocab_size": prepared.model_vocab_size,
        "context_length": prepared.context_length,
        "notes": list(prepared.notes),
    }


def _row(name: str, row: Row, encoded: Encoded | Problem, prepared: Prepared, data: Data, limit: int) -> dict[str, Any]:
    place = {"set": name, "number": row.number}
    if isinstance(encoded, Problem):
        return {**place, "problem": encoded.as_json()}
    kept = kept_tokens(encoded, prepared, limit, data.truncation)
    return {
        **place,
        "tokens": len(encoded),
        "trained_tokens": int((encoded.trained & kept).sum()),
        "over": len(encoded) > limit,
        "pieces": _pieces(encoded, row, prepared, kept.tolist()),
        "control_text": list(encoded.control_text),
        "endless": any(span.train and not span.ends for span in encoded.spans),
    }


def _pieces(encoded: Encoded, row: Row, prepared: Prepared, kept: list[bool]) -> list[dict[str, Any]]:
    """One entry a token. Their texts joined are the row's text: a character that several tokens share stands with the first."""
    roles = places_of(encoded, row)
    pieces, written = [], 0
    for token, trained, end, stays in zip(
        encoded.input_ids.tolist(), encoded.trained.tolist(), encoded.ends.tolist(), kept, strict=True
    ):
        pieces.append(
            {
                "id": token,
                "text": encoded.text[written:end],
                "trained": trained and stays,
                "special": token in prepared.reader.control_ids,
                "cut": not stays,
                "role": next((role for role, first, last in roles if first < max(end, 1) <= last), ""),
            }
        )
        written = max(written, end)
    return pieces
