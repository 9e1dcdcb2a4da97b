"""What signs events: made, read, and replaced in a way that breaks no receiver."""

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from app.webhooks import signing
from app.webhooks.signing import Keys, new_secret
from app.webhooks.tables import (
    Delivery,
    Rotating,
    Subscription,
    SubscriptionState,
    WebhookSecret,
)

OLD_SIGNS_FOR = timedelta(hours=24)
Old = list[dict[str, str]]

_MOST_OLD = 3  # each makes every request some bytes longer


def create_secret(session: Session, account_id: UUID) -> str:
    """Give a new account its secret and its key pair."""
    row = WebhookSecret(
        account_id=account_id, secret=new_secret(), private_key=signing.new_private_key()
    )
    session.add(row)
    return row.secret


def read_secret(session: Session, account_id: UUID) -> str:
    """The secret that signs what goes to the URLs of this account's jobs."""
    return session.get_one(WebhookSecret, account_id).secret


def read_public_key(session: Session, account_id: UUID) -> str:
    """What verifies the ed25519 signatures of this account's events."""
    return signing.public_key(session.get_one(WebhookSecret, account_id).private_key)


def lock(session: Session, account_id: UUID) -> WebhookSecret:
    """The account's row, locked: what changes its webhooks goes one after the other."""
    return session.get_one(WebhookSecret, account_id, with_for_update=True)


def rotate(session: Session, row: Rotating) -> str:
    """A new secret at once; the old one signs beside it for a day. The row is locked by now."""
    now = session.scalars(select(func.now())).one()
    old = {"secret": row.secret, "until": (now + OLD_SIGNS_FOR).isoformat()}
    valid = [each for each in row.old_secrets if _until(each) > now]
    row.old_secrets = [old, *valid][:_MOST_OLD]
    row.secret = new_secret()
    return row.secret


_DEFAULTS = select(
    WebhookSecret.account_id.label("owner"),
    WebhookSecret.secret,
    WebhookSecret.old_secrets,
    WebhookSecret.private_key,
    func.now().label("now"),
).where(WebhookSecret.account_id.in_(bindparam("accounts", expanding=True)))
_OWN = select(
    Subscription.id.label("owner"),
    Subscription.secret,
    Subscription.old_secrets,
    func.now().label("now"),
).where(
    Subscription.id.in_(bindparam("subscriptions", expanding=True)),
    Subscription.state == SubscriptionState.ENABLED,
)


def keys_of(session: Session, deliveries: Collection[Delivery]) -> dict[UUID, Keys]:
    """What signs each of these now; nothing does where its subscription is gone or disabled."""
    accounts = {each.account_id for each in deliveries}
    rows = session.execute(_DEFAULTS, {"accounts": list(accounts)}).all()
    private = {row.owner: row.private_key for row in rows}
    valid = {row.owner: _valid(row.secret, row.old_secrets, row.now) for row in rows}
    subscriptions = {each.subscription_id for each in deliveries if each.subscription_id}
    if subscriptions:
        own = session.execute(_OWN, {"subscriptions": list(subscriptions)})
        valid |= {row.owner: _valid(row.secret, row.old_secrets, row.now) for row in own}
    return {
        each.id: Keys(valid[owner], private[each.account_id])
        for each in deliveries
        if (owner := each.subscription_id or each.account_id) in valid
    }


def _valid(secret: str, old: Old, now: datetime) -> tuple[str, ...]:
    return (secret, *(each["secret"] for each in old if _until(each) > now))


def _until(old: dict[str, str]) -> datetime:
    return datetime.fromisoformat(old["until"])
