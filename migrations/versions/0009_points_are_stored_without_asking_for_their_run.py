"""Points and buckets are stored without asking for their run, whose row is locked meanwhile"""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    for table in ("points", "buckets"):
        op.drop_constraint(f"fk_{table}_run_id_runs", table, type_="foreignkey")


def downgrade() -> None:
    for table in ("points", "buckets"):
        op.create_foreign_key(f"fk_{table}_run_id_runs", table, "runs", ["run_id"], ["id"], ondelete="CASCADE")
