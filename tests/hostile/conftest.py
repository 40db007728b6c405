"""One studio for the whole table: it has to bear one attack after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.core.models import Role
from tests.hostile.studio import Studio, signed_in
from tests.support.hub import Shelf, hub_of
from tests.support.webs import running_web

ANIMALS = b'{"instruction": "What eats mice?", "output": "The owl."}\n' * 2


@pytest.fixture(scope="session")
def shelf(tiny_base: Path) -> Shelf:
    """What the studio's hub has."""
    return Shelf({"owls/tiny": tiny_base})


@pytest.fixture(scope="session")
def studio(
    tiny_base: Path, shelf: Shelf, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Studio]:
    """With a data set `animals` and a model `tiny-qwen3`. What the attacks cost is told when all are over."""
    cache = tmp_path_factory.mktemp("hub")
    with hub_of(shelf) as hub, running_web(tiny_base, HF_ENDPOINT=hub, HF_HOME=str(cache)) as web:
        found = Studio(web, signed_in(web, "mallory", Role.ADMIN))
        assert found.client.put("/api/v1/datasets/animals?filename=a.jsonl", content=ANIMALS).status_code == 201
        yield found
    tell(request.config, found)


def tell(config: pytest.Config, studio: Studio) -> None:
    """The figures of the whole table, where somebody reads along."""
    told = config.pluginmanager.get_plugin("terminalreporter")
    if told is None or not studio.costs:
        return
    told.write_line(f"\nhostile: {len(studio.costs)} attacks measured; the dearest of them:")
    for what, cost in sorted(studio.costs.items(), key=lambda each: -each[1].cpu_seconds)[:8]:
        told.write_line(f"  {cost.cpu_seconds:5.2f} s of CPU {cost.seconds:6.2f} s {cost.memory_mib:5.0f} MiB  {what}")
    most = max(cost.memory_mib for cost in studio.costs.values())
    told.write_line(f"  most memory above the start, with all that was started: {most:.0f} MiB")
