"""One studio for the whole table: it has to bear one attack after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.core.models import Role
from tests.hostile.rows import OTHERWISE, PROVED
from tests.hostile.studio import (
    INNOCENT,
    PREFLIGHT,
    PREVIEW,
    STUDIOS,
    Cost,
    Studio,
    costs_of_all,
    put,
    recipe,
    signed_in,
)
from tests.support.hub import Shelf, hub_of
from tests.support.webs import running_web

SHOWN = 12
ANIMALS = b'{"instruction": "What eats mice?", "output": "The owl."}\n' * 2


@pytest.fixture(scope="session")
def shelf(tiny_base: Path) -> Shelf:
    """What the studio's hub has."""
    return Shelf({"owls/tiny": tiny_base})


@pytest.fixture(scope="session")
def studio(tiny_base: Path, shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """With a data set `animals` and a model `tiny-qwen3`. What the attacks cost is told when all are over."""
    cache = tmp_path_factory.mktemp("hub")
    with hub_of(shelf) as hub, running_web(tiny_base, HF_ENDPOINT=hub, HF_HOME=str(cache)) as web:
        found = Studio(web, signed_in(web, "mallory", Role.ADMIN))
        found.clocked(found.client)
        assert found.client.put("/api/v1/datasets/animals?filename=a.jsonl", content=ANIMALS).status_code == 201
        STUDIOS.append(found)
        yield found


@pytest.fixture(autouse=True)
def held(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever proves a row of the table holds to the bounds what it costs."""
    if not any(request.function in tests for tests in PROVED.values()):
        yield
        return
    studio: Studio = request.getfixturevalue("studio")
    before = len(studio.held)
    yield
    assert len(studio.held) > before, "nothing that this costs was held to the bounds"


@pytest.fixture
def previewed(studio: Studio) -> Cost:
    """What an innocent preview costs: nearly all of it goes into importing what reads a tokenizer."""
    return studio.innocent("a preview", lambda: studio.client.get(PREVIEW, params={"model": "tiny-qwen3"}))


@pytest.fixture
def examined(studio: Studio) -> Cost:
    """The same of a preflight."""
    return studio.innocent("a preflight", lambda: studio.client.post(PREFLIGHT, json=recipe("animals")))


@pytest.fixture
def taught(studio: Studio) -> Cost:
    """The same of a file of rows."""
    return studio.innocent("a file of a row", lambda: put(studio, "short", ANIMALS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the whole table, where one process ran it."""
    if not (costs := costs_of_all()):
        return
    terminalreporter.write_line(f"hostile: {len(costs)} attacks measured; the dearest of them:")
    innocent = [each for each in costs.items() if each[0].startswith(INNOCENT)]
    dearest = sorted((each for each in costs.items() if each not in innocent), key=lambda each: -each[1].cpu_seconds)
    for what, cost in [*innocent, *dearest[:SHOWN]]:
        figures = f"{cost.cpu_seconds:5.2f} s of CPU {cost.seconds:6.2f} s {cost.memory_mib:5.0f} MiB"
        terminalreporter.write_line(f"  {figures}  {what}")
    for what, cost in sorted(costs.items(), key=lambda each: -each[1].seconds)[:3]:
        terminalreporter.write_line(f"  longest by the clock: {cost.seconds:.2f} s  {what}")
    most = max(cost.memory_mib for cost in costs.values())
    terminalreporter.write_line(f"  most memory above the start, with all that was started: {most:.0f} MiB")
    for row, why in OTHERWISE.items():
        terminalreporter.write_line(f"  row {row} says it otherwise: {why}")
