"""Registered webhook endpoints, secrets that rotate, ed25519 keys, attempts of deliveries."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Three of these have 366 random bits, which is more than a key has.
RANDOM = " || ".join(["gen_random_uuid()::text"] * 3)
# Any 32 bytes are a private key of ed25519.
PRIVATE_KEYS = f"""
UPDATE webhook_secrets
SET private_key = 'whsk_' || encode(sha256(convert_to({RANDOM}, 'UTF8')), 'base64')
"""
# The schema before knows neither deliveries without a job nor more than one of a job.
WITHOUT_SUBSCRIPTIONS = "DELETE FROM webhook_deliveries WHERE subscription_id IS NOT NULL"


def upgrade() -> None:
    _secrets()
    _subscriptions()
    _deliveries()
    _attempts()


def _secrets() -> None:
    op.add_column("webhook_secrets", _old_secrets())
    op.add_column("webhook_secrets", sa.Column("private_key", sa.String(), nullable=True))
    op.execute(PRIVATE_KEYS)
    op.alter_column("webhook_secrets", "private_key", nullable=False)


def _old_secrets() -> sa.Column[object]:
    return sa.Column(
        "old_secrets", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False
    )


def _subscriptions() -> None:
    op.create_table(
        "webhook_subscriptions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("events", sa.ARRAY(sa.String()), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        _old_secrets(),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('enabled', 'disabled')", name=op.f("ck_webhook_subscriptions_state")
        ),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (state = 'enabled')",
            name=op.f("ck_webhook_subscriptions_disabled"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_webhook_subscriptions_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_subscriptions")),
    )
    op.create_index(
        "ix_webhook_subscriptions_account", "webhook_subscriptions", ["account_id", "id"]
    )


def _deliveries() -> None:
    op.alter_column("webhook_deliveries", "job_id", nullable=True)
    op.add_column("webhook_deliveries", sa.Column("subscription_id", sa.Uuid(), nullable=True))
    op.add_column(
        "webhook_deliveries",
        sa.Column("attempts_before", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.drop_index("ix_webhook_deliveries_account_id", table_name="webhook_deliveries")
    op.create_index("ix_webhook_deliveries_account", "webhook_deliveries", ["account_id", "id"])
    op.create_index(
        "ix_webhook_deliveries_subscription",
        "webhook_deliveries",
        ["subscription_id", "id"],
        postgresql_where=sa.text("subscription_id IS NOT NULL"),
    )
    op.drop_index("ix_webhook_deliveries_abandoned", table_name="webhook_deliveries")
    op.create_index(
        "ix_webhook_deliveries_abandoned",
        "webhook_deliveries",
        ["account_id", "id"],
        postgresql_where=sa.text("state = 'abandoned'"),
    )


def _attempts() -> None:
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("request_headers", postgresql.JSONB(), nullable=True),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("answer", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_webhook_attempts_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name=op.f("fk_webhook_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_webhook_attempts")),
    )


def downgrade() -> None:
    op.drop_table("webhook_attempts")
    op.execute(WITHOUT_SUBSCRIPTIONS)
    op.drop_index("ix_webhook_deliveries_abandoned", table_name="webhook_deliveries")
    op.create_index(
        "ix_webhook_deliveries_abandoned",
        "webhook_deliveries",
        ["ended_at"],
        postgresql_where=sa.text("state = 'abandoned'"),
    )
    op.drop_index("ix_webhook_deliveries_subscription", table_name="webhook_deliveries")
    op.drop_index("ix_webhook_deliveries_account", table_name="webhook_deliveries")
    op.create_index("ix_webhook_deliveries_account_id", "webhook_deliveries", ["account_id"])
    op.drop_column("webhook_deliveries", "attempts_before")
    op.drop_column("webhook_deliveries", "subscription_id")
    op.alter_column("webhook_deliveries", "job_id", nullable=False)
    op.drop_table("webhook_subscriptions")
    op.drop_column("webhook_secrets", "private_key")
    op.drop_column("webhook_secrets", "old_secrets")
