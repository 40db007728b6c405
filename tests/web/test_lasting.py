"""Work that is begun again after an error, and what the log hears of it."""

from __future__ import annotations

import asyncio

import pytest

from backend.web import lasting
from backend.web.lasting import until_done


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def until_made_up_for(caplog: pytest.LogCaptureFixture, times: int) -> None:
    async with asyncio.timeout(10):
        while said(caplog).count("the news: made up for") < times:
            await asyncio.sleep(0.01)


async def test_an_error_that_stays_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    errors = [ConnectionError("away")] * 5

    async def work() -> None:
        if errors:
            raise errors.pop()

    await until_done("the news", work, 0)
    assert said(caplog) == ["the news: tried again until it succeeds: away", "the news: made up for"]


async def test_each_outage_of_work_without_an_end_is_told_and_so_is_that_it_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting, "WELL_SECONDS", 0.05)
    begun = 0

    async def work() -> None:
        """It fails at once, then goes well until that was told, and fails again; twice."""
        nonlocal begun
        begun += 1
        if begun % 2 == 0:
            await until_made_up_for(caplog, begun // 2)
        if begun < 4:
            raise ConnectionError("away")

    await until_done("the news", work, 0)
    outage = ["the news: tried again until it succeeds: away", "the news: made up for"]
    assert said(caplog) == outage * 2
