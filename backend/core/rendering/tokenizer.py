"""Load a tokenizer from a model folder and make it ready for training: template, special tokens, padding, ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from backend.core.errors import Invalid
from backend.core.rendering.chat import Chat, TemplateRefused, unusable
from backend.core.rendering.reader import Reader
from backend.core.rendering.templates import BUILT_IN, source_of
from backend.core.rendering.types import AddedToken, Prepared

TemplateName = Literal["auto", "chatml", "llama3", "zephyr", "plain"]
PADS = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")
"""Tokens that models without a padding token have to spare, the best first."""
MOST_GROWTH = 1000
"""Characters that a normalizer may make of one."""


def load_tokenizer(folder: Path, chat_template: TemplateName = "auto", *, conversations: bool = True) -> Prepared:
    """Everything that rendering needs to know of a model, from its folder alone: nothing is fetched, no code is run.

    Without `conversations` (data of plain texts only) no template is chosen and no token is added.
    Raises `Invalid` where the folder's tokenizer or template cannot be used.
    """
    tokenizer = _load(folder)
    config, generation = _read_json(folder / "config.json"), _read_json(folder / "generation_config.json")
    work = _Work(tokenizer)
    writes_bos, document_end = _writes_bos(tokenizer), tokenizer.eos_token_id
    source = work.choose_template(chat_template, writes_bos) if conversations else "none"
    stops = _ids_of(generation.get("eos_token_id", config.get("eos_token_id")))
    chat = _chat(tokenizer, stops) if source != "none" else None
    if chat is not None and "strftime_now" in chat.template:
        work.notes.append(
            f"The template writes a date: {chat.variables.get('date_string', 'that of the day it runs')}."
        )
    if chat is not None and source != "model":
        work.end_with(chat.turn_end)
    work.choose_pad()
    turn_end = tokenizer.convert_tokens_to_ids(chat.turn_end) if chat is not None and chat.turn_end else None
    ends = [turn_end, tokenizer.eos_token_id, document_end, *stops]
    rows = _number(config, "vocab_size") or len(tokenizer)
    return Prepared(
        tokenizer=tokenizer,
        template_source=source,
        added_tokens=tuple(work.added),
        model_vocab_size=rows,
        vocab_size=max(rows, 1 + max(tokenizer.get_vocab().values())),
        context_length=_context_length(config),
        bos_token_id=tokenizer.bos_token_id if writes_bos else None,
        document_end_id=document_end,
        pad_token_id=tokenizer.pad_token_id,
        stop_token_ids=tuple(dict.fromkeys(each for each in ends if each is not None)),
        notes=tuple(work.notes),
        chat=chat,
        reader=_reader(tokenizer, chat),
    )


@dataclass
class _Work:
    """A tokenizer while decisions are made about it."""

    tokenizer: Any
    notes: list[str] = field(default_factory=list)
    added: list[AddedToken] = field(default_factory=list)

    def choose_template(
        self, name: TemplateName, writes_bos: bool
    ) -> Literal["model", "chatml", "llama3", "zephyr", "plain"]:
        if name == "auto" and self.tokenizer.chat_template:
            self.notes.append("Conversations are written with the model's own chat template.")
            return "model"
        chosen: Literal["chatml", "llama3", "zephyr", "plain"] = "chatml" if name == "auto" else name
        if name == "auto":
            self.notes.append("The model has no chat template, so conversations are written as ChatML.")
        elif self.tokenizer.chat_template:
            self.notes.append(f"The model's own chat template is replaced by {name}.")
        if not BUILT_IN[chosen].tokens and self.tokenizer.eos_token is None:
            words = f"The {chosen} template ends answers with the tokenizer's end token, and this one has none."
            raise Invalid(words, hint="Choose chatml, which brings its own.", code="template.no_end", where="model")
        self._add(BUILT_IN[chosen].tokens)
        self.tokenizer.chat_template = source_of(chosen, writes_bos=writes_bos)
        return chosen

    def _add(self, tokens: tuple[str, ...]) -> None:
        from tokenizers import AddedToken as Special

        known = self.tokenizer.get_vocab()
        wanted = [Special(token, special=True, normalized=False) for token in tokens]
        self.tokenizer.add_tokens(wanted, special_tokens=True)
        ids = self.tokenizer.convert_tokens_to_ids(list(tokens))
        self.added += [AddedToken(t, number) for t, number in zip(tokens, ids, strict=True) if t not in known]
        if self.added:
            words = ", ".join(f"{each.token} ({each.id})" for each in self.added)
            self.notes.append(f"Special tokens added to the vocabulary, to be trained with the model: {words}.")

    def end_with(self, token: str | None) -> None:
        """Make the end of a turn the end token that every program stops at."""
        if token is not None and token != self.tokenizer.eos_token:
            self.notes.append(f"An answer ends with {token}, which becomes the end token.")
            self.tokenizer.eos_token = token

    def choose_pad(self) -> None:
        tokenizer = self.tokenizer
        if tokenizer.pad_token is not None and tokenizer.pad_token != tokenizer.eos_token:
            if tokenizer.pad_token == tokenizer.unk_token:
                self.notes.append(f"{tokenizer.pad_token} pads, as the model has it, and is learned nowhere.")
            return
        vocabulary = tokenizer.get_vocab()
        spare = next((each for each in PADS if each in vocabulary and each != tokenizer.eos_token), None)
        if spare is None and tokenizer.eos_token is None:
            raise Invalid(
                "The tokenizer has neither an end token nor one to pad with.", code="tokenizer", where="model"
            )
        tokenizer.pad_token = spare or tokenizer.eos_token
        same = "" if spare else ", the end token; the end of an answer is learned all the same"
        self.notes.append(f"The model names no padding token of its own: {tokenizer.pad_token} pads{same}.")


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        # Before it is loaded, which has its added tokens normalised.
        _refuse_growth(_read_json(folder / "tokenizer.json").get("normalizer"))
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Invalid:
        raise
    except Exception as error:  # the library raises whatever a broken file makes it meet
        raise _broken(error) from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        words = "The tokenizer is written in Python alone, so text cannot be traced to its tokens."
        raise Invalid(words, hint="Convert it to a tokenizer.json.", code="tokenizer", where="model")
    if normalizer := tokenizer.backend_tokenizer.normalizer:  # another file than the usual may have been named
        _refuse_growth(json.loads(normalizer.__getstate__()))
    return tokenizer


def _refuse_growth(normalizer: Any) -> None:
    """Raise `Invalid` for a normalizer that makes a book of a letter: each of twenty steps may double what it is given."""
    if _growth(normalizer) > MOST_GROWTH:
        words = f"The tokenizer's normalizer can make more than {MOST_GROWTH:,} characters of one."
        raise Invalid(words, hint="Choose another base model.", code="tokenizer", where="model")


def _growth(normalizer: Any) -> float:
    """How many characters may become of one. A pattern may match between any two of them; Unicode's own forms, which grow
    but once, are not counted."""
    match normalizer:
        case {"type": "Sequence", "normalizers": list(steps)}:
            return prod(map(_growth, steps), start=1.0)
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
            return max(1.0, len(new) / len(old))
        case {"type": "Replace", "content": str(new)} | {"type": "Prepend", "prepend": str(new)}:
            return 1.0 + len(new)
    return 1.0


def _broken(error: Exception) -> Invalid:
    words = f"The tokenizer cannot be loaded ({type(error).__name__}: {str(error)[:300]})."
    hint = "The folder needs a tokenizer.json that works without code of its own."
    return Invalid(words, hint=hint, code="tokenizer", where="model")


def _reader(tokenizer: Any, chat: Chat | None) -> Reader:
    """It writes the tokenizer down and reads that again, which not every tokenizer that can be loaded survives."""
    try:
        return Reader(tokenizer.backend_tokenizer, _control(tokenizer, chat))
    except Exception as error:
        raise _broken(error) from None


def _chat(tokenizer: Any, stops: list[int]) -> Chat:
    ends = [tokenizer.eos_token or "", *tokenizer.convert_ids_to_tokens([s for s in stops if s < len(tokenizer)])]
    special, others = _added(tokenizer)
    try:
        return Chat(
            tokenizer.get_chat_template(),
            tokenizer.special_tokens_map,
            added=[*special, *others],
            special=special,
            ends=ends,
        )
    except (TemplateRefused, ValueError) as error:
        raise unusable(str(error)[:500]) from None


def _added(tokenizer: Any) -> tuple[list[str], list[str]]:
    """The tokens that text is split at: those that steer the model, and others, such as `<think>`, which data may use."""
    tokens = tokenizer.added_tokens_decoder.values()
    named = tokenizer.all_special_tokens
    special = [each for each in tokens if each.special or str(each) in named]
    return [str(each) for each in special], [str(each) for each in tokens if each not in special]


def _control(tokenizer: Any, chat: Chat | None) -> list[str]:
    """The tokens that data cannot write. One of a single character could not be told from that character."""
    ends = chat.ends if chat is not None else ()
    found = dict.fromkeys((*_added(tokenizer)[0], *tokenizer.all_special_tokens, *ends))
    return [each for each in found if len(each) > 1]


def _writes_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _context_length(config: dict[str, Any]) -> int | None:
    return _number(config, "max_position_embeddings", "n_positions", "n_ctx")


def _number(config: dict[str, Any], *names: str) -> int | None:
    """The first of these that is a positive whole number, in the configuration or in that of its text model."""
    inner = config.get("text_config")
    parts = (config, inner if isinstance(inner, dict) else {})
    found = (part.get(name) for part in parts for name in names)
    return next((value for value in found if type(value) is int and value > 0), None)


def _ids_of(value: Any) -> list[int]:
    return [each for each in (value if isinstance(value, list) else [value]) if type(each) is int and each >= 0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
