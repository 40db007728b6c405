"""Acts on several runs at once. The page that they lead back to says what was done, and offers to undo it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core.errors import Conflict, Forbidden, Invalid
from backend.web.api.runs import own
from backend.web.contexts.page import Did
from backend.web.deps import AnEdge, Edge
from backend.web.pages.common import Pairs, go
from backend.web.pages.runs import acts
from backend.web.routers import page_router
from backend.web.security import safe_next

router = page_router()

AT_ONCE = 100
ACTS = ("pause", "resume", "stop", "discard", "restore")


@router.post("/runs/several")
async def several(
    pairs: Pairs, edge: AnEdge, act: Annotated[str, Query(max_length=20)] = "", back: str = "/runs"
) -> Response:
    """Do it to every `run` of the form that is one's own and where it is possible."""
    names = [value for name, value in pairs if name == "run"][:AT_ONCE]
    if act not in ACTS or not names:
        raise Invalid("Choose runs first, and what to do with them.", where="run")
    did = await edge.write(lambda session: done(edge, session, act, names))
    return go(with_word(safe_next(back), did))


def done(edge: Edge, session: Session, act: str, names: list[str]) -> Did:
    """Raises why the first cannot be, where none can."""
    what = acts(edge)[act]
    ready: list[str] = []
    refusals: list[Conflict | Forbidden] = []
    for name in dict.fromkeys(names):
        try:
            ready.append(what(session, own(edge, session, name).id).name)
        except (Conflict, Forbidden) as refusal:  # both are raised before anything is written
            refusals.append(refusal)
    if not ready:
        raise refusals[0]
    return Did(act, ready, len(refusals))


def with_word(back: str, did: Did) -> str:
    """The page that was left, with what was done in its address: a reload tells it again and does nothing."""
    place = urlsplit(back)
    kept = [pair for pair in parse_qsl(place.query) if pair[0] not in ("did", "run", "refused")]
    told = [("did", did.act), *(("run", name) for name in did.runs), ("refused", str(did.refused))]
    return f"{place.path}?{urlencode([*kept, *told])}"


def did_by(request: Request) -> Did | None:
    """What the address says was done just now."""
    said = request.query_params
    act, names, refused = said.get("did", ""), said.getlist("run")[:AT_ONCE], said.get("refused", "")
    if act not in ACTS or not names:
        return None
    return Did(act, names, int(refused) if refused.isascii() and refused.isdecimal() and len(refused) < 4 else 0)
