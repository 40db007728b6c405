"""Fill training rows with several documents each."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from backend.core.rendering.types import Example


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which documents share a row: the longest first, each into the fullest row that still has room for it.

    `lengths` are in tokens, at most `room` each. Every document is placed whole and once. Rows come in the order of
    their first document, so that what was shuffled stays shuffled.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of `with_room`, sorted
    for document in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        place = bisect_left(rooms, lengths[document])
        if place == len(rooms):
            rows.append([])
            row, left = len(rows) - 1, room
        else:
            left = rooms[place]
            row = with_room[left].pop()
            if not with_room[left]:
                del with_room[left], rooms[place]
        rows[row].append(document)
        left -= lengths[document]
        if left not in with_room:
            with_room[left] = []
            insort(rooms, left)
        with_room[left].append(row)
    return sorted(sorted(row) for row in rows)


def join(documents: Sequence[Example]) -> Example:
    """One row of several documents. Positions restart at each; that, without a mask, keeps them apart.

    No label stands on a document's first token: the document before it would have to predict it.
    """
    import numpy as np

    from backend.core.rendering.types import IGNORE_INDEX

    labels = [each.labels.copy() for each in documents]
    for each in labels:
        each[0] = IGNORE_INDEX
    return Example(
        input_ids=np.concatenate([each.input_ids for each in documents]),
        labels=np.concatenate(labels),
        position_ids=np.concatenate([np.arange(len(each.input_ids), dtype=np.int32) for each in documents]),
    )
