"""Work beside the requests that must not end by an error: it is told, and the work is begun again."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

from backend.core.errors import StudioError

log = logging.getLogger(__name__)

TOLD_SECONDS = 3600.0
"""An error that stays is told this often, and each kind by itself: once a second it would fill the log."""
WELL_SECONDS = 120.0
"""Work that has gone on for so long has made up for what was told, and what comes then is told anew. A bucket or a Postgres that
is away has let it fail by then."""


async def until_done(name: str, work: Callable[[], Awaitable[None]], again_seconds: float) -> None:
    """Do the work, again and again until it comes to its end, which some never does. `name` is what the log calls it."""
    told: dict[type[Exception], float] = {}

    def goes_well() -> None:
        if told:
            log.warning("%s: made up for", name)
            told.clear()

    while True:
        well = asyncio.get_running_loop().call_later(WELL_SECONDS, goes_well)
        try:
            await work()
            break
        except Exception as error:
            if time.monotonic() - told.get(type(error), -math.inf) > TOLD_SECONDS:
                told[type(error)] = time.monotonic()
                is_foreseen = isinstance(error, StudioError)
                log.warning("%s: tried again until it succeeds: %s", name, error, exc_info=not is_foreseen)
        finally:
            well.cancel()
        await asyncio.sleep(again_seconds)
    goes_well()
