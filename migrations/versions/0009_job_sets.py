"""Batches of the native API: jobs that were submitted together."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SUMS = ("total", "unfinished", "succeeded", "failed", "cancelled", "expired")


def upgrade() -> None:
    op.create_table(
        "job_sets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("webhook_url", sa.String(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "total = unfinished + succeeded + failed + cancelled + expired",
            name=op.f("ck_job_sets_adds_up"),
        ),
        sa.CheckConstraint("unfinished >= 0", name=op.f("ck_job_sets_not_negative")),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (unfinished = 0)", name=op.f("ck_job_sets_finished")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_job_sets_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_sets")),
    )
    op.create_index("ix_job_sets_account", "job_sets", ["account_id", "id"])
    op.add_column("jobs", sa.Column("set_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_jobs_set_id_job_sets"), "jobs", "job_sets", ["set_id"], ["id"])
    op.create_index(
        "ix_jobs_set", "jobs", ["set_id", "id"], postgresql_where=sa.text("set_id IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_set", "jobs")
    op.drop_constraint(op.f("fk_jobs_set_id_job_sets"), "jobs")
    op.drop_column("jobs", "set_id")
    op.drop_table("job_sets")
