"""A run that is still being written: the fields of its form, or its YAML, as a recipe and back."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backend.core.errors import Problem, StudioError
from backend.core.recipe import translate_old_names
from backend.core.strict import Path
from backend.core.yaml12 import BadYaml, as_yaml, read_yaml
from backend.web.contexts.new_run import Form
from backend.web.forms import (
    Control,
    Pairs,
    leaves,
    pencilled,
    recipe_controls,
    recipe_from_form,
    text_of,
    without,
)
from backend.web.security import pairs_in
from backend.web.shapes.common import ProblemOut

VIEWS = ("simple", "advanced", "yaml")
HEAD = "# What is left out takes the recommended value.\n"
COMMENT_COLUMN = 40
UNFOLDED = 1000
"""A setting stays on its line, behind which its recommendation stands."""


@dataclass(frozen=True)
class Draft:
    """What the form says at this moment: `raw` holds only what somebody set."""

    raw: Mapping[str, Any]
    view: str = "simple"
    yaml: str = ""
    """As it was typed, comments included. It is kept in the other views as long as it says the same."""
    parent: str = ""
    recipe: str = ""
    refusal: StudioError | None = None
    """YAML that cannot be read."""
    lines: Mapping[Path, int] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_model(self) -> bool:
        model = self.raw.get("model")
        return bool(model.get("path") if isinstance(model, Mapping) else model)

    @property
    def has_data(self) -> bool:
        data = self.raw.get("data")
        return bool(isinstance(data, Mapping) and data.get("sets"))

    @property
    def lacks_a_choice(self) -> bool:
        """Model or data are still to be chosen: a preflight would only scold."""
        return self.view != "yaml" and not (self.has_model and self.has_data)


def draft_from(pairs: Pairs) -> Draft:
    """What was sent, or what a browser had kept of it (`restored`). YAML that cannot be read is kept, with the reason.
    Raises `TooLarge`."""
    pairs = list(pairs)
    if kept := dict(pairs).get("restored"):
        pairs = [*pairs_in(kept), ("restored", "true")]
    fields = dict(pairs)
    view = fields.get("view", "")
    draft = Draft(
        {},
        view if view in VIEWS else "advanced",
        fields.get("yaml", ""),
        fields.get("parent", ""),
        fields.get("recipe", ""),
        fields=fields,
    )
    if draft.view == "yaml":
        return read(draft)
    return replace(draft, raw=without(recipe_from_form(pairs), _unchanged(fields.get("pencilled", ""))))


def read(draft: Draft) -> Draft:
    """The draft with its YAML understood."""
    try:
        raw, lines = read_yaml(draft.yaml)
    except StudioError as error:
        return replace(draft, refusal=error)
    return replace(draft, raw=raw if isinstance(raw, Mapping) else {}, lines=lines)


def _unchanged(text: str) -> dict[str, str]:
    """The hidden field of what was pencilled in; anything else says nothing."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return (
        {str(name): value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
    )


def form_of(draft: Draft, view: str, problems: Iterable[ProblemOut] = (), *, whole: bool = False) -> Form:
    """The form as it is to be drawn in this view, each problem at its field."""
    body, _ = translate_old_names(draft.raw)
    told = [Problem(each.code, each.message, each.where or "", each.hint or "") for each in problems]
    controls = recipe_controls(body, told)
    return Form(
        view=view,
        controls=controls,
        pencilled=pencilled(controls),
        set_by_hand=sum(each.is_changed for each in counted(controls)),
        yaml=yaml_of(draft, controls, whole=whole),
        parent=draft.parent,
        recipe=draft.recipe,
        once=secrets.token_urlsafe(16),
        is_restored=bool(draft.fields.get("restored")),
    )


def counted(controls: Sequence[Control]) -> list[Control]:
    """The settings that have a recommendation to differ from."""
    choices = ("name", "model.path", "data.sets", "method.kind", "stage.kind", "model.revision")
    return [each for each in leaves(controls) if each.name not in choices]


# ---- YAML -----------------------------------------------------------------------------------------------------------


def yaml_of(draft: Draft, controls: Sequence[Control], *, whole: bool = False) -> str:
    """As it was typed where that still says the same, else written anew."""
    if draft.refusal or (draft.view == "yaml" and not whole):
        return draft.yaml
    if draft.yaml and not whole and _says(draft.yaml, draft.raw):
        return draft.yaml
    body = _whole(controls, draft.raw) if whole else draft.raw
    return HEAD + with_recommendations(as_yaml(dict(body), width=UNFOLDED), controls) if body else HEAD


def _says(text: str, raw: Mapping[str, Any]) -> bool:
    try:
        return bool(read_yaml(text)[0] == raw)
    except StudioError:
        return False


def with_recommendations(text: str, controls: Sequence[Control]) -> str:
    """Behind each value that was set by hand, what is recommended."""
    rows, lines = text.splitlines(), read_yaml(text)[1]
    begun = {*lines.values(), len(rows) + 1}
    for control in leaves(controls):
        at = lines.get(tuple(control.name.split(".")), 0)
        is_whole = at + 1 in begun  # within a text of several lines a comment would be text
        if at and is_whole and control.is_changed and control.recommended and "#" not in rows[at - 1]:
            rows[at - 1] = f"{rows[at - 1]:<{COMMENT_COLUMN}}  # recommended {control.recommended}"
    return "\n".join(rows) + "\n"


def _whole(controls: Sequence[Control], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting written out, those of nobody as recommended."""
    pairs = [(each.name, text_of(each.value)) for each in leaves(controls) if each.kind not in ("sets", "texts")]
    body = recipe_from_form(pairs)
    for group, name in (("data", "sets"), ("evaluation", "prompts")):
        given = raw.get(group)
        if isinstance(given, Mapping) and name in given:
            body.setdefault(group, {})[name] = given[name]
    return body


def line_of(where: str, draft: Draft) -> int | None:
    """The line of a place such as `method.r`, or of the nearest thing around it that stands in the text."""
    if isinstance(draft.refusal, BadYaml):
        return draft.refusal.line
    path: Path = tuple(int(part) if part.isdecimal() else part for part in where.split("."))
    while path and path not in draft.lines:
        path = path[:-1]
    return draft.lines.get(path) if path else None


def lines_of(places: Iterable[str], draft: Draft) -> dict[str, int]:
    """The lines of those places that stand in the text."""
    found = ((where, line_of(where, draft)) for where in places if where)
    return {where: line for where, line in found if line}
