"""UUID version 7: ids that sort by the time they were made. RFC 9562, section 5.7."""

from __future__ import annotations

import secrets
import threading
import time
from uuid import UUID


class Order:
    """60 bits of which each is higher than the last, though the clock be set back: milliseconds, and 12 bits within them."""

    def __init__(self) -> None:
        self._lock, self._last = threading.Lock(), 0

    def next(self) -> int:
        now = time.time_ns() // 1_000_000 << 12 | secrets.randbits(12)
        with self._lock:
            self._last = max(now, self._last + 1)
            return self._last


order = Order()


def uuid7() -> UUID:
    """A fresh id, higher than all that this process made before (section 6.2): 48 bits of milliseconds, then 74 random bits."""
    milliseconds, within = divmod(order.next(), 1 << 12)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | within << 64 | 0b10 << 62 | secrets.randbits(62))


def as_uuid(text: str) -> UUID | None:
    """The id that `text` spells in the canonical form, if it is one; routes take names as well."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None
