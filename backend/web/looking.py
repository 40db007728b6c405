"""What a person looks at on the page of a data set: all of it stands in the address."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, get_args
from urllib.parse import quote, urlencode

from fastapi import Depends, Request

from backend.core.lengths import Lens, Truncation

TEMPLATES = ("auto", "chatml", "llama3", "zephyr", "plain")
LEARN = ("answers", "everything")
VIEWS = ("raw", "normalised", "rendered", "tokens")
CUTS = get_args(Truncation)
SHORTEST, LONGEST = 8, 1_048_576
USUAL_LENGTH = 2048
"""What `max_length` of a recipe is where nobody says: the model's context, and no more than this."""


@dataclass(frozen=True)
class Look:
    """One state of the page. Whatever an address says that makes no sense counts as unsaid."""

    name: str
    version: int | None = None
    model: str = ""
    chat_template: str = "auto"
    learn: str = "answers"
    max_length: int | None = None
    truncation: Truncation = "refuse"
    row: int = 1
    """The number of the first row that is shown."""
    which: str = "all"
    """All rows, or only some: cut, problems, barren, refused, endless, control, or the name of a finding."""
    q: str = ""
    view: str = "rendered"
    open: int | None = None
    """The place of a row that is shown whole, however long."""
    wait: bool = False
    """Whoever has no script waits for what takes long."""

    @property
    def lens(self) -> Lens | None:
        """None without a model: nobody can tell tokens then."""
        return Lens(self.model, self.chat_template, self.learn == "answers") if self.model else None

    @property
    def needs_tokens(self) -> bool:
        return self.view in ("rendered", "tokens")

    @property
    def address(self) -> str:
        return f"/datasets/{quote(self.name, safe='')}"

    def cut_at(self, context_length: int | None) -> int:
        """Where rows are cut: as said, else as a recipe would that says nothing."""
        usual = min(USUAL_LENGTH, context_length or USUAL_LENGTH)
        return self.max_length if self.max_length is not None else usual

    def query(self, **changes: Any) -> str:
        """The query of this look with some of it changed, what is as usual left out."""
        wanted = replace(self, **{"open": None, "wait": False, **changes})
        usual = Look(self.name)
        pairs = {field: getattr(wanted, field) for field in FIELDS if getattr(wanted, field) != getattr(usual, field)}
        return urlencode(pairs | ({"wait": 1} if wanted.wait else {}))

    def link(self, **changes: Any) -> str:
        query = self.query(**changes)
        return f"{self.address}?{query}" if query else self.address

    def run_link(self, **changes: Any) -> str:
        """The form of a new run on what is looked at."""
        chosen, usual = replace(self, **changes), Look(self.name)
        names = {
            "version": "data.sets.0.version",
            "model": "model.path",
            "chat_template": "model.chat_template",
            "max_length": "data.max_length",
            "truncation": "data.truncation",
        }
        said = {
            key: getattr(chosen, field)
            for field, key in names.items()
            if getattr(chosen, field) != getattr(usual, field)
        }
        everything = {"data.assistant_only_loss": "false"} if chosen.learn == "everything" else {}
        pairs = {"dataset": chosen.name, **said, **everything}
        return f"/runs/new?{urlencode(pairs)}"


FIELDS = (
    "version",
    "model",
    "chat_template",
    "learn",
    "max_length",
    "truncation",
    "row",
    "which",
    "q",
    "view",
    "open",
)


def look_of(request: Request, name: str) -> Look:
    asked = request.query_params

    def one_of(key: str, choices: tuple[str, ...], usual: str) -> str:
        return asked[key] if asked.get(key) in choices else usual

    length = whole(asked.get("max_length", ""))
    return Look(
        name=name,
        version=whole(asked.get("version", "")) or None,
        model=asked.get("model", "")[:400],
        chat_template=one_of("chat_template", TEMPLATES, "auto"),
        learn=one_of("learn", LEARN, "answers"),
        max_length=None if length is None else min(max(length, SHORTEST), LONGEST),
        truncation=one_of("truncation", CUTS, "refuse"),  # type: ignore[arg-type]
        row=whole(asked.get("row", "")) or 1,
        which=asked.get("which", "all")[:40] or "all",
        q=asked.get("q", "").strip()[:200],
        view=one_of("view", VIEWS, "rendered"),
        open=whole(asked.get("open", "")),
        wait=asked.get("wait") == "1",
    )


def whole(text: str) -> int | None:
    """`1,234` → 1234; None for what is no number."""
    digits = text.replace(",", "").strip()
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 12 else None


ALook = Annotated[Look, Depends(look_of)]
