"""Many readers of one run's stream in one process: `python -m benchmarks.readers ADDRESS COOKIE RUN COUNT LAST_STEP`.

Each stops at the last step. Prints, as JSON, the steps whose metrics each got, in order, and how old each was on arrival.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


async def read(address: str, cookie: str, run: str, last_step: int, ages: list[float]) -> list[int]:
    """Follow the run up to `last_step`; the steps that came."""
    target = urlsplit(address)
    reader, writer = await asyncio.open_connection(target.hostname, target.port, limit=1 << 20)
    head = f"GET /api/v1/runs/{run}/events HTTP/1.1\r\nHost: {target.netloc}\r\nCookie: studio={cookie}\r\n\r\n"
    writer.write(head.encode())
    steps: list[int] = []
    while line := await reader.readline():
        if not line.startswith(b'data: {"run"') or b'"kind":"metrics"' not in line:
            continue
        event = json.loads(line[6:])
        ages.append(time.time() - event["data"]["t"])
        steps.append(event["step"])
        if event["step"] >= last_step:
            break
    writer.close()
    return steps


async def main() -> None:
    address, cookie, run, count, last_step = sys.argv[1:]
    ages: list[float] = []
    each = [read(address, cookie, run, int(last_step), ages) for _ in range(int(count))]
    print(json.dumps({"steps": await asyncio.gather(*each), "ages": ages}))


if __name__ == "__main__":
    asyncio.run(main())
