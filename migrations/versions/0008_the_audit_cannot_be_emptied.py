"""The audit cannot be emptied at once either, and tells quickly from where somebody has signed in"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        "CREATE TRIGGER never_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
    )
    op.create_index(
        "ix_audit_sign_ins", "audit", ["user_id", "address"], postgresql_where=sa.text("action = 'sign_in'")
    )


def downgrade() -> None:
    op.drop_index("ix_audit_sign_ins", table_name="audit")
    op.execute("DROP TRIGGER never_emptied ON audit")
