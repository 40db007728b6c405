"""`Idempotency-Key`: a POST that is sent again gets the answer of the first time and does nothing again.

The key's row is written in the same transaction as what the request does: either both stand or neither, and of two
requests at once the second waits for the first one's commit.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.core.errors import BadRequest, Conflict
from backend.core.models import Repeat

MAX_KEY = 200
KEPT = timedelta(days=7)


class Repeated(Exception):
    """The request was answered before; here is that answer."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(status)
        self.status, self.answer = status, answer


class KeyTaken(Conflict):
    """The key belongs to another request, which was answered like this."""

    code = "idempotency_key"

    def __init__(self, answer: Any) -> None:
        super().__init__("This Idempotency-Key was used for another request.", hint="Take a new key.")
        self.answer = answer


def check_key(key: str) -> str:
    if not key.isascii() or not key.isprintable() or len(key) > MAX_KEY:
        raise BadRequest(f"An Idempotency-Key is plain text of at most {MAX_KEY} characters.", where="Idempotency-Key")
    return key


def fingerprint(key: str, method: str, target: str, body: bytes) -> str:
    """What makes two requests the same. The key salts it and is itself stored hashed: a body may hold a password, and
    a plain hash of one could be guessed at leisure."""
    return hashlib.sha256(b"\0".join((key.encode(), method.encode(), target.encode(), body))).hexdigest()


def stored(key: str) -> str:
    """The key as the table knows it."""
    return hashlib.sha256(key.encode()).hexdigest()


def look_up(session: Session, user_id: UUID, key: str, print_: str) -> None:
    """Raises `Repeated` where this request was answered, `KeyTaken` where the key belongs to another request."""
    row = session.get(Repeat, (user_id, key), populate_existing=True)
    if row is None:
        return
    answer = row.answer and row.answer["body"]
    if row.fingerprint != print_:
        raise KeyTaken(answer)
    if row.status is not None and row.answer is not None:
        raise Repeated(row.status, answer)


def reserve(session: Session, user_id: UUID, key: str, print_: str) -> None:
    """Take the key for this transaction; waits for another one that holds it. Raises as `look_up` does."""
    taken = session.scalar(
        insert(Repeat)
        .values(user_id=user_id, key=key, fingerprint=print_)
        .on_conflict_do_nothing()
        .returning(Repeat.key)
    )
    if taken is None:
        look_up(session, user_id, key, print_)


def remember(session: Session, user_id: UUID, key: str, status: int, answer: Any) -> None:
    own = (Repeat.user_id == user_id, Repeat.key == key)
    session.execute(update(Repeat).where(*own).values(status=status, answer={"body": answer}))


def forget_old(session: Session) -> None:
    """Nobody sends the same request again after so long. For the start of a process."""
    session.execute(delete(Repeat).where(Repeat.created_at < func.clock_timestamp() - KEPT))
