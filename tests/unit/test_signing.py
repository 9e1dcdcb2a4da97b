"""Signatures: the reference package accepts ours, and hostile requests are only ever refused."""

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from app.webhooks import signing
from app.webhooks.signing import Keys

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = json.dumps({"type": "job.succeeded", "text": "\N{SNOWMAN}"}).encode()
NOW = 1_700_000_000


def _signed(body: bytes = BODY, timestamp: int = NOW) -> dict[str, str]:
    return signing.headers(Keys((SECRET,)), body, message_id="msg_1", timestamp=timestamp)


def _verify(received: dict[str, str], body: bytes = BODY, now: float = NOW) -> bool:
    return signing.verify(SECRET, received, body, now=now)


def test_the_reference_package_accepts_our_signatures() -> None:
    received = _signed(timestamp=int(time.time()))
    assert Webhook(SECRET).verify(BODY, received) == json.loads(BODY)


def test_the_reference_package_accepts_them_with_a_secret_of_our_own_making() -> None:
    secret = signing.new_secret()
    now = int(time.time())
    received = signing.headers(Keys((secret,)), BODY, message_id="msg_1", timestamp=now)
    assert Webhook(secret).verify(BODY, received) == json.loads(BODY)


def test_the_signature_is_that_of_the_specification() -> None:
    received = signing.headers(
        Keys((SECRET,)),
        b'{"test": 2432232314}',
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
    )
    assert received["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_reference_package_finds_its_signature_among_those_of_other_secrets_and_kinds() -> None:
    secrets = tuple(signing.new_secret() for _ in range(3))
    keys = Keys(secrets, signing.new_private_key())
    received = signing.headers(keys, BODY, message_id="msg_1", timestamp=int(time.time()))
    kinds = [each.partition(",")[0] for each in received["webhook-signature"].split(" ")]
    assert kinds == ["v1", "v1", "v1", "v1a"]
    for secret in secrets:
        assert Webhook(secret).verify(BODY, received) == json.loads(BODY)
        assert signing.verify(secret, received, BODY, now=time.time())
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.new_secret()).verify(BODY, received)


def test_the_asymmetric_signature_is_ed25519_over_the_same_text() -> None:
    """The first vector of RFC 8032, section 7.1, is what the key is from."""
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    private = "whsk_" + base64.b64encode(bytes.fromhex(seed)).decode()
    key = signing.public_key(private)
    assert key == "whpk_" + base64.b64encode(bytes.fromhex(public)).decode()
    keys = Keys((SECRET,), private)
    received = signing.headers(keys, BODY, message_id="msg_1", timestamp=NOW)
    symmetric, asymmetric = received["webhook-signature"].split(" ")
    assert symmetric == _signed()["webhook-signature"]
    version, signature = asymmetric.split(",")
    assert version == "v1a"
    verifier = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    verifier.verify(base64.b64decode(signature), f"msg_1.{NOW}.".encode() + BODY)


def test_a_new_private_key_is_one_and_never_the_same() -> None:
    made = {signing.new_private_key() for _ in range(100)}
    assert len({signing.public_key(each) for each in made}) == 100
    assert all(each.startswith("whsk_") for each in made)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (SECRET, True),
        (SECRET.removeprefix("whsec_"), False),
        ("whsec_", False),
        *(
            ("whsec_" + base64.b64encode(bytes(length)).decode(), 24 <= length <= 64)
            for length in (23, 24, 64, 65)
        ),
        (SECRET + "!", False),
        (SECRET[:-1], False),
        ("whsec_\N{SNOWMAN}" + SECRET, False),
    ],
)
def test_a_secret_is_known_by_its_form_and_length(text: str, good: bool) -> None:
    assert signing.is_secret(text) is good


def test_a_new_secret_has_a_length_that_the_specification_allows_and_is_never_the_same() -> None:
    secrets = {signing.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert signing.is_secret(secret)
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64


def test_an_event_is_accepted_for_five_minutes_either_way() -> None:
    assert [_verify(_signed(), now=NOW + age) for age in (-301, -300, 0, 300, 301)] == [
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_2"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": _signed()["webhook-signature"].replace("v1,", "v2,")},
        {"webhook-signature": _signed()["webhook-signature"].removeprefix("v1,")},
        {"webhook-signature": _signed()["webhook-signature"] + "="},
        {"webhook-signature": _signed()["webhook-signature"].replace(" ", ",")[:-2]},
    ],
)
def test_a_changed_header_is_refused(change: dict[str, str]) -> None:
    assert not _verify({**_signed(), **change})


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_refused(name: str) -> None:
    received = _signed()
    del received[name]
    assert not _verify(received)


def test_a_changed_body_or_secret_is_refused() -> None:
    assert not _verify(_signed(), body=BODY + b" ")
    assert not signing.verify(signing.new_secret(), _signed(), BODY, now=NOW)


def test_one_right_signature_among_others_is_enough() -> None:
    right = _signed()["webhook-signature"]
    assert _verify({**_signed(), "webhook-signature": f"v1,AAAA v1a,xx  {right} "})


HOSTILE: list[dict[str, Any]] = [
    {"webhook-timestamp": "9" * 400},
    {"webhook-timestamp": "9" * 5000},
    {"webhook-timestamp": "-1"},
    {"webhook-timestamp": "nan"},
    {"webhook-timestamp": f" {NOW}"},
    {"webhook-timestamp": f"+{NOW}"},
    {"webhook-timestamp": f"{NOW}\n"},
    {"webhook-timestamp": "1_700_000_000"},
    {"webhook-timestamp": f"0{NOW}"},
    {"webhook-timestamp": "".join(chr(0x660 + int(digit)) for digit in str(NOW))},
    {"webhook-timestamp": f"{NOW}.0"},
    {"webhook-signature": "v1,\ud800"},
    {"webhook-signature": "v1,\u00e9"},
    {"webhook-id": "\ud800"},
    {"webhook-id": "msg.1"},
    {"webhook-signature": "v1,x " * 100_000},
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: ascii(change)[:40])
def test_a_hostile_header_is_refused_without_an_exception(change: dict[str, str]) -> None:
    assert _verify({**_signed(), **change}) is False


@given(st.text(), st.text(), st.text(), st.binary())
def test_no_request_makes_verification_fail(
    message_id: str, timestamp: str, signature: str, body: bytes
) -> None:
    received = {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature,
    }
    assert _verify(received, body) is False
    assert _verify({**received, "webhook-timestamp": str(NOW)}, body) is False


@given(st.binary())
def test_every_body_that_was_signed_is_accepted(body: bytes) -> None:
    assert _verify(_signed(body), body)


@pytest.mark.parametrize("secret", ["whsec_!", "whsec_YQ"])
def test_a_secret_that_is_no_base64_is_a_mistake_of_the_operator(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        signing.headers(Keys((secret,)), BODY, message_id="msg_1", timestamp=NOW)
