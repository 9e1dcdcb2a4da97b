"""Batches say that their next lines wait for credit."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("lacks_credit", sa.Boolean(), server_default=sa.false(), nullable=False)
    # For a time 0008 made it, before that was released.
    op.add_column("batches", column, if_not_exists=True)
    op.alter_column("batches", "lacks_credit", server_default=None)


def downgrade() -> None:
    op.drop_column("batches", "lacks_credit")
