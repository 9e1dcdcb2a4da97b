"""Conversations: jobs that are turns of one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("conversation", sa.String(), nullable=True))
    op.create_index(
        "ix_jobs_conversation",
        "jobs",
        ["account_id", "conversation", "id"],
        postgresql_where=sa.text("conversation IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_conversation", "jobs")
    op.drop_column("jobs", "conversation")
