"""The ledger cannot be changed by privilege; endpoints that fail; due deliveries by host."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# An owner has these privileges of its own table like anybody else: they can be taken away.
WITHOUT_CHANGES = "REVOKE UPDATE, DELETE, TRUNCATE ON transfers FROM CURRENT_USER"
WITH_CHANGES = "GRANT UPDATE, DELETE, TRUNCATE ON transfers TO CURRENT_USER"


def upgrade() -> None:
    op.execute(WITHOUT_CHANGES)
    op.create_table(
        "webhook_endpoints",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)",
            name=op.f("ck_webhook_endpoints_disabled"),
        ),
        sa.CheckConstraint(
            "disabled_reason IN ('gone', 'failing')", name=op.f("ck_webhook_endpoints_reason")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_webhook_endpoints_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "url", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index(
        "ix_webhook_deliveries_host",
        "webhook_deliveries",
        ["host", "next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_webhook_deliveries_host",
        table_name="webhook_deliveries",
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.drop_table("webhook_endpoints")
    op.execute(WITH_CHANGES)
