"""A run has one live attempt, and so has a device"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

LIVE = sa.text("ended_at IS NULL")
# Attempts that were left behind without a word, should there be any, are over.
LEFT_BEHIND = """
    UPDATE attempts SET ended_at = clock_timestamp(), cause = 'lost' FROM runs
    WHERE runs.id = attempts.run_id AND attempts.ended_at IS NULL
      AND (runs.attempt <> attempts.number OR runs.lease_until IS NULL)
"""
# A claim whose answer was lost left one on a device that was given another run, though its own run was still held.
REPLACED = """
    UPDATE attempts SET ended_at = clock_timestamp(), cause = 'lost'
    WHERE ended_at IS NULL AND EXISTS (
        SELECT FROM attempts AS later
        WHERE later.worker = attempts.worker AND later.device = attempts.device AND later.ended_at IS NULL
          AND (later.started_at, later.run_id) > (attempts.started_at, attempts.run_id)
    )
"""


def upgrade() -> None:
    op.execute(LEFT_BEHIND)
    op.execute(REPLACED)
    op.create_index("uq_attempts_live_run", "attempts", ["run_id"], unique=True, postgresql_where=LIVE)
    op.create_index("uq_attempts_live_device", "attempts", ["worker", "device"], unique=True, postgresql_where=LIVE)


def downgrade() -> None:
    op.drop_index("uq_attempts_live_device", "attempts")
    op.drop_index("uq_attempts_live_run", "attempts")
