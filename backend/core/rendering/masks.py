"""Which tokens of a row the model learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backend.core.datasets.schema import Row
from backend.core.errors import Invalid, Problem
from backend.core.rendering.chat import Rendered, TemplateRefused, tools_of, turns_of
from backend.core.rendering.reader import ALIASES, GUARD, RESERVED, ControlTextError, Tokens
from backend.core.rendering.types import Encoded, Prepared, Span, Truncation

if TYPE_CHECKING:
    from backend.core.rendering.types import Flags


def encode(
    row: Row, prepared: Prepared, *, assistant_only_loss: bool = True, max_length: int, truncation: Truncation
) -> Encoded:
    """One row, cut to `max_length` tokens where `truncation` cuts; `drop` leaves a longer row whole, for the caller to drop.

    Raises `Invalid` where it cannot be rendered or would have to be cut without consent.
    """
    encoded = encode_rows([row], prepared, assistant_only_loss=assistant_only_loss)[0]
    if isinstance(encoded, Problem):
        raise Invalid(encoded.message, code=encoded.code, where=encoded.where, hint=encoded.hint)
    if len(encoded) > max_length and truncation == "refuse":
        words = f"is {len(encoded):,} tokens long, {len(encoded) - max_length:,} over."
        raise Invalid(words, code="rows.too_long", where=f"row {row.number}")
    return cut(encoded, prepared, max_length, truncation)


def encode_rows(rows: Sequence[Row], prepared: Prepared, *, assistant_only_loss: bool) -> list[Encoded | Problem]:
    """Each row as the model reads it, whole, or why it cannot be read. Many rows at once are faster than one by one."""
    drafts = [_draft(row, prepared) for row in rows]
    plain = [each for each in drafts if isinstance(each, _Draft) and not each.control_text]
    read = dict(zip(map(id, plain), prepared.reader.read([each.body for each in plain]), strict=True))
    return [
        draft if isinstance(draft, Problem) else _encode(draft, read.get(id(draft)), prepared, assistant_only_loss)
        for draft in drafts
    ]


def encode_prompt(prompt: str, prepared: Prepared) -> list[int]:
    """A person's prompt up to where the model begins to answer: as a user's turn, or as a plain text to go on from.

    Raises `Invalid` where the template refuses it.
    """
    reader = prepared.reader
    text = reader.guard(prompt)
    try:
        if prepared.chat is not None:
            text = prepared.chat.render([{"role": "user", "content": text}], add_generation_prompt=True)
    except TemplateRefused as refused:
        words = f"The chat template refuses it: {refused}."
        raise Invalid(words, code="prompts.template", where="evaluation.prompts") from None
    tokens = reader.read_guarded(text) if GUARD in text else reader.read([text])[0]
    starts = prepared.chat is None and prepared.bos_token_id is not None
    return [*([prepared.bos_token_id] if starts else []), *tokens.ids.tolist()]


def cut(encoded: Encoded, prepared: Prepared, max_length: int, truncation: Truncation) -> Encoded:
    """The row with what `truncation` takes from it. The BOS of a row that begins with one stays."""
    import numpy as np

    kept = kept_tokens(encoded, prepared, max_length, truncation)
    if kept.all():
        return encoded
    trained = encoded.trained[kept]
    trained[:1] = False
    return replace(
        encoded,
        input_ids=encoded.input_ids[kept],
        trained=trained,
        starts=np.ascontiguousarray(encoded.starts[kept]),
        ends=np.ascontiguousarray(encoded.ends[kept]),
    )


def kept_tokens(encoded: Encoded, prepared: Prepared, max_length: int, truncation: Truncation) -> Flags:
    """One flag a token: does it stay?"""
    import numpy as np

    kept = np.ones(len(encoded), dtype=np.bool_)
    over = len(encoded) - max_length
    if over <= 0 or truncation in ("refuse", "drop"):
        return kept
    if truncation == "cut_end":
        kept[max_length:] = False
        return kept
    first = int(prepared.bos_token_id is not None and encoded.input_ids[0] == prepared.bos_token_id)
    kept[first : first + over] = False
    return kept


@dataclass(frozen=True, eq=False)
class _Draft:
    """A rendered row before it is encoded. Where `control_text` is not empty, `body` still holds guards."""

    number: int
    body: str
    spans: tuple[Span, ...]
    control_text: tuple[str, ...]
    is_text: bool


def _draft(row: Row, prepared: Prepared) -> _Draft | Problem:
    where = f"row {row.number}"
    try:
        rendered, control_text = _render(row, prepared)
    except TemplateRefused as refused:
        hint = "Choose another chat template, or change the row."
        return Problem("rows.template", f"The chat template refuses it: {refused}.", where, hint)
    if RESERVED.search(rendered.text.replace(GUARD, "") if control_text else rendered.text) or (
        control_text and ALIASES.search(rendered.text)
    ):
        return Problem("rows.private_characters", "It holds private characters that the studio needs itself.", where)
    if not rendered.text.strip():
        return Problem("rows.empty", "It is empty.", where)
    return _Draft(row.number, rendered.text, rendered.spans, control_text, row.text is not None)


def _render(row: Row, prepared: Prepared) -> tuple[Rendered, tuple[str, ...]]:
    """The text with the control tokens of the data guarded, and which these were."""
    found: list[str] = []
    reader = prepared.reader

    def guard(text: str) -> str:
        found.extend(reader.control.findall(text))
        return str(reader.guard(text))

    if row.text is not None:
        return Rendered(guard(row.text)), tuple(dict.fromkeys(found))
    if prepared.chat is None:
        raise TemplateRefused("the model was loaded without one")
    turns, tools = _each_text(turns_of(row), guard), _each_text(tools_of(row), guard)
    train = [message.train for message in row.messages if message.role == "assistant"]
    return prepared.chat.render_row(turns, tools, train), tuple(dict.fromkeys(found))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """JSON data with every text in it changed; names stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    if isinstance(value, dict):
        return {key: _each_text(each, change) for key, each in value.items()}
    return value


def _encode(draft: _Draft, tokens: Tokens | None, prepared: Prepared, assistant_only: bool) -> Encoded | Problem:
    text, spans = draft.body, draft.spans
    if tokens is None:
        try:
            tokens = prepared.reader.read_guarded(text)
        except ControlTextError as error:
            words = f"It spells out {error}, which this tokenizer cannot read as plain text."
            return Problem("rows.control_text", words, f"row {draft.number}", "Remove it from the row.")
        text, spans = _unguarded(text, spans)
    if draft.is_text:
        text, tokens = _document(text, tokens, prepared)
        trained = _everything(tokens)
    elif assistant_only:
        trained = _inside(tokens, [each for each in spans if each.train], prepared)
    else:
        trained = _everything(tokens) & ~_inside(tokens, [each for each in spans if not each.train], prepared)
    trained[:1] = False  # nothing predicts the first token
    return Encoded(draft.number, text, tokens.ids, trained, tokens.starts, tokens.ends, spans, draft.control_text)


def _unguarded(text: str, spans: tuple[Span, ...]) -> tuple[str, tuple[Span, ...]]:
    """The text as the model reads it, and the spans where they lie in it."""

    def moved(position: int) -> int:
        return position - text.count(GUARD, 0, position)

    return text.replace(GUARD, ""), tuple(replace(s, start=moved(s.start), end=moved(s.end)) for s in spans)


def _document(text: str, tokens: Tokens, prepared: Prepared) -> tuple[str, Tokens]:
    """A plain text between its BOS, where the tokenizer writes one, and its end token."""
    import numpy as np

    def control(token_id: int | None) -> tuple[str, list[int]]:
        return ("", []) if token_id is None else (prepared.tokenizer.convert_ids_to_tokens(token_id), [token_id])

    (before, first), (after, last) = control(prepared.bos_token_id), control(prepared.document_end_id)
    shift, whole = len(before), before + text + after
    ids = np.array([*first, *tokens.ids, *last], dtype=np.int32)
    starts = np.array(
        [*(0 for _ in first), *(tokens.starts + shift), *(len(whole) - len(after) for _ in last)], np.int32
    )
    ends = np.array([*(shift for _ in first), *(tokens.ends + shift), *(len(whole) for _ in last)], np.int32)
    return whole, Tokens(ids, starts, ends)


def _everything(tokens: Tokens) -> Flags:
    import numpy as np

    return np.ones(len(tokens.ids), dtype=np.bool_)


def _inside(tokens: Tokens, spans: Sequence[Span], prepared: Prepared) -> Flags:
    """The tokens that share a character with a span.

    A control token in front of a span may claim the white space that the span begins with; it is not part of the span.
    """
    import numpy as np

    inside = np.zeros(len(tokens.ids), dtype=np.bool_)
    for span in spans:
        first = int(np.searchsorted(tokens.ends, span.start, side="right"))
        last = int(np.searchsorted(tokens.starts, span.end, side="left"))
        if first < last and tokens.starts[first] < span.start and int(tokens.ids[first]) in prepared.reader.control_ids:
            first += 1
        inside[first:last] = True
    return inside
