"""The benchmark of durable points looks at what was stored, and not only at how much."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.core import db
from backend.core.models import Point
from benchmarks.durable_points import check_points, ship, tell

STEPS = 40


def test_a_point_that_is_stored_with_another_value_than_was_told_is_found(database_url: str, tmp_path: Path) -> None:
    engine = db.engine(database_url, pool_size=2)
    path = tmp_path / "events.jsonl"
    tell(path, STEPS)
    ship(engine, path, STEPS)
    with Session(engine) as session:
        run_id = session.execute(select(Point.run_id).distinct()).scalar_one()
        check_points(engine, run_id, STEPS)
        session.execute(update(Point).where(Point.step == STEPS, Point.name == "loss").values(value=1.0))
        session.commit()
    with pytest.raises(AssertionError, match="of 320 points 319 are stored as they were told"):
        check_points(engine, run_id, STEPS)
    engine.dispose()
