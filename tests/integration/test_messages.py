"""The messages that we write ourselves are those that Celery sends."""

import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from app.config import Settings
from app.queues import (
    BATCH_TASK,
    DELIVER_TASK,
    GENERATE_TASK,
    MAINTENANCE,
    WEBHOOKS,
    Broker,
    generate_queue,
    make_celery,
)

Take = Callable[[str], dict[str, Any]]

# What differs from message to message and from process to process.
OWN_HEADERS = {"id", "root_id", "origin"}
OWN_PROPERTIES = {"correlation_id", "reply_to", "delivery_tag"}


@pytest.fixture
def take(settings: Settings) -> Take:
    """Take the only message of a queue."""

    def take_one(queue: str) -> dict[str, Any]:
        with Redis.from_url(settings.redis_url) as redis:
            assert redis.llen(queue) == 1
            message: dict[str, Any] = json.loads(redis.rpop(queue))
            return message

    return take_one


def _comparable(message: dict[str, Any]) -> dict[str, Any]:
    headers = {name: each for name, each in message["headers"].items() if name not in OWN_HEADERS}
    properties = {
        name: each for name, each in message["properties"].items() if name not in OWN_PROPERTIES
    }
    body = json.loads(base64.b64decode(message["body"]))
    return {**message, "headers": headers, "properties": properties, "body": body}


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        (GENERATE_TASK, generate_queue("fake")),
        (DELIVER_TASK, WEBHOOKS),
        (BATCH_TASK, MAINTENANCE),
    ],
)
def test_our_messages_equal_what_celery_sends_for_the_same_task(
    task: str, queue: str, settings: Settings, take: Take
) -> None:
    row_id = uuid4()
    with make_celery(settings) as celery:
        celery.send_task(task, args=[str(row_id)], queue=queue)
        theirs = take(queue)
    broker = Broker(settings)
    if task == GENERATE_TASK:
        broker.enqueue_jobs([("fake", row_id)])
    elif task == DELIVER_TASK:
        broker.enqueue_delivery(row_id)
    else:
        broker.enqueue_batch(row_id)
    ours = take(queue)
    assert _comparable(ours) == _comparable(theirs)
    assert ours["headers"].keys() == theirs["headers"].keys()
    assert ours["properties"].keys() == theirs["properties"].keys()


def test_each_message_has_an_id_of_its_own_that_it_repeats_where_celery_does(
    settings: Settings, take: Take
) -> None:
    messages = []
    with make_celery(settings) as celery:
        celery.send_task(GENERATE_TASK, args=["x"], queue=generate_queue("fake"))
        messages.append(take(generate_queue("fake")))
    broker = Broker(settings)
    for _ in range(2):
        broker.enqueue_jobs([("fake", uuid4())])
        messages.append(take(generate_queue("fake")))
    for message in messages:
        headers, properties = message["headers"], message["properties"]
        assert headers["id"] == headers["root_id"] == properties["correlation_id"]
        assert headers["origin"].startswith("gen")
        assert "@" in headers["origin"]
    assert len({message["headers"]["id"] for message in messages}) == 3
    assert len({message["properties"]["delivery_tag"] for message in messages}) == 3


def test_what_celery_sends_waits_where_our_messages_are_counted(settings: Settings) -> None:
    with make_celery(settings) as celery:
        celery.send_task(GENERATE_TASK, args=["x"], queue=generate_queue("fake"))
    assert Broker(settings).depths(["fake"]) == {"fake": 1}
