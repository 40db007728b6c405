"""The audit is append-only, and knows who it was after they are gone, and from which address"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The one change that is let through is that of the foreign key, when somebody's account is removed.
REFUSE = """
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.user_id IS NULL AND to_jsonb(NEW) - 'user_id' = to_jsonb(OLD) - 'user_id' THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'the audit is append-only';
END $$;
"""


def upgrade() -> None:
    op.add_column("audit", sa.Column("person", sa.Text(), nullable=True))
    op.add_column("audit", sa.Column("address", sa.Text(), nullable=True))
    op.execute("UPDATE audit SET person = users.name FROM users WHERE users.id = audit.user_id")
    op.execute("UPDATE audit SET address = data ->> 'address', data = data - 'address' WHERE data ? 'address'")
    op.execute(REFUSE)
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER append_only ON audit")
    op.execute("DROP FUNCTION audit_is_append_only()")
    op.drop_column("audit", "address")
    op.drop_column("audit", "person")
