"""Secrets that are replaced while receivers still know the old one; ed25519 beside them."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flask.testing import FlaskClient
from sqlalchemy import text
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from app.db import Database
from tests.conftest import Customer
from tests.integration.conftest import Receiver, Submit
from tests.integration.hooks import ENDPOINTS, create, end_one
from workers.process import Process

Request = tuple[dict[str, str], bytes]
Send = Callable[[], Request]


@pytest.fixture
def send(client: FlaskClient, submit: Submit, process: Process, receiver: Receiver) -> Send:
    """Send one more event to the job's own URL, and read the request."""

    def run() -> Request:
        end_one(client, submit, webhook_url=receiver.url)
        process.courier.deliver_due()
        process.courier.settle()
        _, headers, body = receiver.received[-1]
        return headers, body

    return run


def accepts(secret: str, request: Request) -> bool:
    """Whether the reference package accepts it."""
    headers, body = request
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def verify_asymmetric(key: str, request: Request) -> None:
    """As a receiver would; raises InvalidSignature."""
    headers, body = request
    (signature,) = [
        each.removeprefix("v1a,")
        for each in headers["webhook-signature"].split(" ")
        if each.startswith("v1a,")
    ]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
    public.verify(base64.b64decode(signature), signed)


def pass_time(database: Database, table: str, hours: float) -> None:
    """Let the old secrets be so much older."""
    moved = f"""
        UPDATE {table} SET old_secrets = (
            SELECT coalesce(jsonb_agg(old || jsonb_build_object(
                'until', (old->>'until')::timestamptz - {hours} * interval '1 hour')), '[]')
            FROM jsonb_array_elements(old_secrets) old)
    """
    with database.transaction() as session:
        session.execute(text("SET LOCAL timezone TO 'UTC'"))
        session.execute(text(moved))


def signatures(request: Request) -> list[str]:
    return [each.partition(",")[0] for each in request[0]["webhook-signature"].split(" ")]


def test_both_secrets_verify_for_a_day_and_then_the_new_one_alone(
    client: FlaskClient, customer: Customer, send: Send, database: Database
) -> None:
    assert signatures(send()) == ["v1", "v1a"]
    new = client.post("/api/v1/webhooks/default/rotate").get_json()["key"]
    assert new != customer.secret
    assert client.get("/api/v1/webhooks/default/secret").get_json() == {"key": new}
    request = send()
    assert signatures(request) == ["v1", "v1", "v1a"]
    assert (accepts(new, request), accepts(customer.secret, request)) == (True, True)
    pass_time(database, "webhook_secrets", 23.99)
    request = send()
    assert (accepts(new, request), accepts(customer.secret, request)) == (True, True)
    pass_time(database, "webhook_secrets", 0.02)
    request = send()
    assert signatures(request) == ["v1", "v1a"]
    assert (accepts(new, request), accepts(customer.secret, request)) == (True, False)


def test_an_endpoint_has_its_own_secret_and_its_own_rotation(
    client: FlaskClient,
    customer: Customer,
    process: Process,
    receiver: Receiver,
    database: Database,
) -> None:
    made = create(client, receiver.url)
    path = f"{ENDPOINTS}/{made['id']}"

    def send_test() -> Request:
        assert client.post(f"{path}/test").status_code == 202
        process.courier.deliver_due()
        process.courier.settle()
        _, headers, body = receiver.received[-1]
        return headers, body

    request = send_test()
    assert accepts(made["secret"], request)
    assert not accepts(customer.secret, request)
    new = client.post(f"{path}/rotate").get_json()["key"]
    assert client.get(f"{path}/secret").get_json() == {"key": new}
    request = send_test()
    assert accepts(new, request)
    assert accepts(made["secret"], request)
    assert client.get("/api/v1/webhooks/default/secret").get_json() == {"key": customer.secret}
    pass_time(database, "webhook_subscriptions", 24)
    request = send_test()
    assert accepts(new, request)
    assert not accepts(made["secret"], request)


def test_a_second_rotation_takes_nothing_from_the_day_of_the_first(
    client: FlaskClient, customer: Customer, send: Send, database: Database
) -> None:
    known = [customer.secret]
    for _ in range(3):
        known.append(client.post("/api/v1/webhooks/default/rotate").get_json()["key"])
        pass_time(database, "webhook_secrets", 1)
    request = send()
    assert [accepts(each, request) for each in known] == [True] * 4
    pass_time(database, "webhook_secrets", 22)  # 25, 24 and 23 hours after each
    request = send()
    assert [accepts(each, request) for each in known] == [False, False, True, True]


def test_three_old_secrets_sign_at_most(
    client: FlaskClient, customer: Customer, send: Send
) -> None:
    path = "/api/v1/webhooks/default/rotate"
    known = [customer.secret, *(client.post(path).get_json()["key"] for _ in range(4))]
    request = send()
    assert signatures(request) == ["v1"] * 4 + ["v1a"]
    assert [accepts(each, request) for each in known] == [False] + [True] * 4


def test_what_was_signed_with_a_key_pair_is_verified_with_its_public_half(
    client: FlaskClient,
    client_of: Callable[[Customer], FlaskClient],
    new_customer: Callable[[], Customer],
    send: Send,
) -> None:
    path = "/api/v1/webhooks/public-key"
    key = client.get(path).get_json()["key"]
    assert key.startswith("whpk_")
    assert len(base64.b64decode(key.removeprefix("whpk_"), validate=True)) == 32
    headers, body = send()
    verify_asymmetric(key, (headers, body))
    client.post("/api/v1/webhooks/default/rotate")
    verify_asymmetric(key, send())
    assert client.get(path).get_json() == {"key": key}
    other = client_of(new_customer()).get(path).get_json()["key"]
    wrong: list[tuple[str, Any]] = [(other, (headers, body)), (key, (headers, body + b" "))]
    for wrong_key, request in wrong:
        with pytest.raises(InvalidSignature):
            verify_asymmetric(wrong_key, request)
