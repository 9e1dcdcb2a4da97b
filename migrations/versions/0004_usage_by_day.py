"""Usage added up by day, so that reports and metrics read no jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What has ended so far.
FILL = """
INSERT INTO usage_days
SELECT jobs.account_id, (charges.settled_at AT TIME ZONE 'UTC')::date, model, status, count(*),
    sum(coalesce(prompt_tokens, 0)), sum(coalesce(completion_tokens, 0)), sum(charged_micros)
FROM jobs JOIN charges ON charges.job_id = jobs.id
WHERE jobs.finished_at IS NOT NULL
GROUP BY 1, 2, 3, 4
"""


def upgrade() -> None:
    op.create_table(
        "usage_days",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged_micros", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_usage_days_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "day", "model", "status", name=op.f("pk_usage_days")),
    )
    op.execute(FILL)
    op.drop_index("ix_jobs_usage", table_name="jobs")
    op.drop_index("ix_jobs_model_status", table_name="jobs")
    op.create_index("ix_jobs_account_status", "jobs", ["account_id", "status", "id"])
    op.create_index(
        "ix_webhook_deliveries_abandoned",
        "webhook_deliveries",
        ["ended_at"],
        postgresql_where=sa.text("state = 'abandoned'"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_webhook_deliveries_abandoned",
        table_name="webhook_deliveries",
        postgresql_where=sa.text("state = 'abandoned'"),
    )
    op.drop_index("ix_jobs_account_status", table_name="jobs")
    op.create_index("ix_jobs_model_status", "jobs", ["model", "status"])
    op.create_index("ix_jobs_usage", "jobs", ["account_id", "finished_at"])
    op.drop_table("usage_days")
