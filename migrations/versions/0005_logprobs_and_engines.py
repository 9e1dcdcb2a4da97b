"""Log-probabilities beside outputs, and what engines say of themselves beside their workers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outputs", sa.Column("logprobs", postgresql.JSONB(), nullable=True))
    op.add_column("workers", sa.Column("engine", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "engine")
    op.drop_column("outputs", "logprobs")
