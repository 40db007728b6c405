"""Lists of runs are narrowed and sorted by index"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index("ix_runs_state", "runs", ["state", "id"])
    op.create_index("ix_runs_owner_id", "runs", ["owner_id", "id"])
    op.create_index("ix_runs_ended_at", "runs", ["ended_at"])
    op.create_index("ix_runs_model_path", "runs", [sa.text("(model ->> 'path')"), "id"])
    op.create_index("ix_runs_data", "runs", ["data"], postgresql_using="gin", postgresql_ops={"data": "jsonb_path_ops"})


def downgrade() -> None:
    for name in ("ix_runs_data", "ix_runs_model_path", "ix_runs_ended_at", "ix_runs_owner_id", "ix_runs_state"):
        op.drop_index(name, table_name="runs")
