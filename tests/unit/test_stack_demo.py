import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from app.webhooks import signing
from scripts.stack import demo, ports
from scripts.stack.lines import readable
from scripts.stack.receiver import Delivery, Receiver

SECRET = signing.new_secret()
PRICE = {"input_micros_per_million_tokens": 50_000, "output_micros_per_million_tokens": 200_000}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver(ports.find_free(), SECRET, [].append)
    receiver.start()
    yield receiver
    receiver.stop()


def job(charged: int, *, status: str = "succeeded", state: str = "charged") -> dict[str, Any]:
    """A job with 14 tokens read and 47 written, as the API shows it."""
    usage = {"prompt_tokens": 14, "completion_tokens": 47, "total_tokens": 61}
    charge = {"state": state, "charged_micros": charged, "held_micros": 99, "price": PRICE}
    return {"status": status, "usage": usage, "charge": charge}


def delivery(*, verified: bool = True, type_: str = "job.succeeded") -> Delivery:
    """An event that came."""
    event = {"type": type_, "data": {"id": "1"}}
    return Delivery(received_at=0.0, message_id="m", verified=verified, event=event)


def test_the_amount_is_rounded_up_once() -> None:
    assert demo.amount(job(0)) == 11  # 14 x 0.05 + 47 x 0.2 = 10.1


def test_the_right_charge_passes_and_a_wrong_one_is_named() -> None:
    assert demo.charge_failures(job(11)) == []
    assert "price x tokens is 11" in demo.charge_failures(job(10))[0]
    assert "held, not charged" in demo.charge_failures(job(0, state="held"))[0]


def test_a_job_that_did_not_succeed_is_named() -> None:
    assert demo.job_failures(job(11)) == []
    assert "failed, not succeeded" in demo.job_failures(job(11, status="failed"))[0]


def test_a_webhook_that_is_missing_forged_or_untrue_is_named() -> None:
    assert demo.webhook_failures(job(11), delivery()) == []
    assert "No webhook" in demo.webhook_failures(job(11), None)[0]
    assert "signature" in demo.webhook_failures(job(11), delivery(verified=False))[0]
    assert "job.failed" in demo.webhook_failures(job(11), delivery(type_="job.failed"))[0]


def test_the_receiver_keeps_what_is_signed_and_refuses_what_is_not(receiver: Receiver) -> None:
    body = json.dumps({"type": "job.succeeded", "data": {"id": "7"}}).encode()
    headers = signing.headers(
        signing.Keys((SECRET,)), message_id="message", timestamp=int(time.time()), body=body
    )
    assert requests.post(receiver.url, body, headers=headers, timeout=5).status_code == 204
    assert requests.post(receiver.url, body + b" ", headers=headers, timeout=5).status_code == 401
    kept = receiver.of_job("7")
    assert kept is not None
    assert kept.verified
    assert [each["verified"] for each in requests.get(receiver.url, timeout=5).json()] == [
        False,
        True,
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"data": 1}'])
def test_the_receiver_survives_any_body(receiver: Receiver, body: bytes) -> None:
    assert requests.post(receiver.url, body, timeout=5).status_code == 401


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain text", "plain text"),
        ("[1, 2]", "[1, 2]"),
        ('{"event": "job_started", "level": "info", "job_id": "7"}', "job_started  job_id=7"),
        ('{"event": "lost", "level": "error"}', "ERROR: lost"),
        ('{"event": "x", "exception": "Traceback\\nValueError: no"}', "x  ValueError: no"),
        (
            '{"event": "x", "exception": [{"exc_type": "KeyError", "exc_value": "7"}]}',
            "x  KeyError: 7",
        ),
    ],
)
def test_a_log_line_is_shown_as_a_person_reads_it(line: str, text: str) -> None:
    assert readable(line) == text
