"""The secret with which a customer verifies our webhooks."""

from flask import Blueprint

from app.accounts.principal import Principal
from app.api.operations import operation
from app.api.payloads import SecretDocument
from app.api.services import services
from app.webhooks.secrets import read_secret

blueprint = Blueprint("webhooks", __name__)


@operation(blueprint, "GET", "/webhooks/default/secret", answer=SecretDocument)
def default_secret(principal: Principal) -> SecretDocument:
    """Read the secret that signs this account's webhooks (Standard Webhooks, HMAC-SHA256)."""
    with services().database.transaction() as session:
        return SecretDocument(key=read_secret(session, principal.account_id))
