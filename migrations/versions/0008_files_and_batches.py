"""Files, batches and their lines."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OPEN = sa.text("state IN ('validating', 'in_progress', 'finalizing', 'cancelling')")
MOMENTS = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
COUNTS = (
    "pause_ms",
    "read_bytes",
    "read_lines",
    "written_lines",
    "lines",
    "waiting",
    "running",
    "completed",
    "failed",
    "prompt_tokens",
    "completion_tokens",
)


def upgrade() -> None:
    _create_files()
    _create_batches()
    _create_lines()


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        _moment("created_at", now=True),
        _moment("written_at", now=True),
        _moment("completed_at"),
        _moment("expires_at"),
        sa.CheckConstraint("purpose IN ('batch', 'batch_output')", name=op.f("ck_files_purpose")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_files_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_account", "files", ["account_id", "id"])
    op.create_index(
        "ix_files_unfinished",
        "files",
        ["written_at"],
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    op.create_index(
        "ix_files_expiry",
        "files",
        ["expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_table(
        "file_chunks",
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name=op.f("fk_file_chunks_file_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_file_chunks_account_id")
        ),
        sa.PrimaryKeyConstraint("file_id", "number", name=op.f("pk_file_chunks")),
    )


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("input_file_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("output_expires_seconds", sa.BigInteger(), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("ending", sa.String(), nullable=True),
        sa.Column("errors", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        *(_moment(name) for name in MOMENTS),
        _moment("look_at", now=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.Column("output_file_id", sa.Uuid(), nullable=True),
        sa.Column("error_file_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "state IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired',"
            " 'cancelling', 'cancelled')",
            name=op.f("ck_batches_state"),
        ),
        sa.CheckConstraint(
            "ending IN ('completed', 'expired', 'cancelled')", name=op.f("ck_batches_ending")
        ),
        sa.CheckConstraint(
            "lines = waiting + running + completed + failed", name=op.f("ck_batches_adds_up")
        ),
        sa.CheckConstraint("waiting >= 0 AND running >= 0", name=op.f("ck_batches_not_negative")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_batches_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint(
            "account_id", "idempotency_key", name=op.f("uq_batches_account_id_idempotency_key")
        ),
    )
    op.create_index("ix_batches_account", "batches", ["account_id", "id"])
    op.create_index("ix_batches_due", "batches", ["look_at"], postgresql_where=OPEN)
    op.create_index("ix_batches_input", "batches", ["input_file_id"], postgresql_where=OPEN)


def _create_lines() -> None:
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("custom_id", sa.String(), nullable=False),
        sa.Column("first_byte", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'completed', 'failed')",
            name=op.f("ck_batch_lines_state"),
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'failed') OR job_id IS NOT NULL",
            name=op.f("ck_batch_lines_has_a_job"),
        ),
        sa.CheckConstraint(
            "job_id IS NULL OR error IS NULL", name=op.f("ck_batch_lines_job_or_error")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_lines_batch_id")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_batch_lines_account_id")
        ),
        sa.PrimaryKeyConstraint("batch_id", "number", name=op.f("pk_batch_lines")),
        sa.UniqueConstraint(
            "batch_id", "custom_id", name=op.f("uq_batch_lines_batch_id_custom_id")
        ),
        sa.UniqueConstraint("job_id", name=op.f("uq_batch_lines_job_id")),
    )
    for state in ("waiting", "running"):
        op.create_index(
            f"ix_batch_lines_{state}",
            "batch_lines",
            ["batch_id", "number"],
            postgresql_where=sa.text(f"state = '{state}'"),
        )


def _moment(name: str, *, now: bool = False) -> sa.Column[sa.DateTime]:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not now, server_default=default)


def downgrade() -> None:
    for table in ("batch_lines", "batches", "file_chunks", "files"):
        op.drop_table(table)
