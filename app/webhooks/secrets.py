"""The account's signing secret."""

from uuid import UUID

from sqlalchemy.orm import Session

from app.webhooks.signing import new_secret
from app.webhooks.tables import WebhookSecret


def create_secret(session: Session, account_id: UUID) -> str:
    """Give a new account its secret."""
    row = WebhookSecret(account_id=account_id, secret=new_secret())
    session.add(row)
    return row.secret


def read_secret(session: Session, account_id: UUID) -> str:
    """The secret that signs this account's events."""
    return session.get_one(WebhookSecret, account_id).secret
