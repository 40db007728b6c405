"""What a search finds, each with its page. The page of the search and the API share it."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from sqlalchemy.orm import Session

from backend.core.bases import list_bases
from backend.core.search import search
from backend.web.deps import Edge
from backend.web.shapes.studio import HitOut

PLACES = {"run": "/runs/", "dataset": "/datasets/", "model": "/models?model=", "recipe": "/recipes/"}


async def hits(edge: Edge, words: str, limit: int) -> list[HitOut]:
    """Runs, data sets and recipes from the database, models from where they lie."""
    models = [each.path for each in await asyncio.to_thread(list_bases, edge.settings)]

    def found(session: Session) -> list[HitOut]:
        return [
            HitOut(kind=hit.kind, name=hit.name, note=hit.note, address=PLACES[hit.kind] + quote(hit.name, safe=""))
            for hit in search(session, words, models, limit)
        ]

    return await edge.read(found)
