"""Webhook endpoints of an account: registered, listed, changed, deleted; nobody else sees them."""

import json
from collections.abc import Callable
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, func, select, text

from app.db import Database
from app.webhooks.tables import Delivery, Subscription
from tests.conftest import Customer
from tests.integration.conftest import Problem, Receiver, Submit
from tests.integration.hooks import DELIVERIES, ENDPOINTS, URL, create, end_one
from workers.process import Process

ClientOf = Callable[[Customer], FlaskClient]


def recorded(database: Database) -> list[tuple[str, str | None]]:
    """The URL and the endpoint of each delivery."""
    with database.transaction() as session:
        rows = session.scalars(select(Delivery).order_by(Delivery.id))
        return [(row.url, row.subscription_id and str(row.subscription_id)) for row in rows]


def test_a_new_endpoint_is_shown_with_its_secret_once_and_then_without(
    client: FlaskClient,
) -> None:
    made = create(client, description="orders", events=["job.failed", "job.succeeded"])
    assert made.pop("secret").startswith("whsec_")
    assert {**made, "id": "", "created": ""} == {
        "id": "",
        "url": URL,
        "description": "orders",
        "events": ["job.failed", "job.succeeded"],
        "state": "enabled",
        "reason": None,
        "disabled": None,
        "failing_since": None,
        "created": "",
    }
    assert client.get(f"{ENDPOINTS}/{made['id']}").get_json() == made
    assert client.get(ENDPOINTS).get_json() == {"data": [made], "has_more": False, "next": None}


def test_every_endpoint_has_a_secret_of_its_own_which_can_be_read_or_brought_along(
    client: FlaskClient, customer: Customer
) -> None:
    brought = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    made = [create(client), create(client), create(client, secret=brought)]
    secrets = [each["secret"] for each in made]
    assert len({*secrets, customer.secret}) == 4
    assert secrets[2] == brought
    for each in made:
        read = client.get(f"{ENDPOINTS}/{each['id']}/secret").get_json()
        assert read == {"key": each["secret"]}


def test_endpoints_are_listed_newest_first_and_page_by_page(client: FlaskClient) -> None:
    newest_first = [create(client)["id"] for _ in range(5)][::-1]
    first = client.get(f"{ENDPOINTS}?limit=3").get_json()
    second = client.get(f"{ENDPOINTS}?limit=3&after={first['next']}").get_json()
    assert (first["has_more"], second["has_more"], second["next"]) == (True, False, None)
    assert [each["id"] for each in first["data"] + second["data"]] == newest_first


def test_a_change_changes_what_it_names(client: FlaskClient) -> None:
    made = create(client, description="old", events=["job.failed"])
    del made["secret"]
    path = f"{ENDPOINTS}/{made['id']}"
    assert client.patch(path, json={}).get_json() == made
    changed = client.patch(path, json={"description": "", "events": None}).get_json()
    assert changed == {**made, "description": ""}
    changed = client.patch(path, json={"url": f"{URL}/2", "events": []}).get_json()
    assert changed == {**made, "description": "", "url": f"{URL}/2", "events": []}
    assert client.get(path).get_json() == changed


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"url": ""}, "invalid_request"),
        ({"url": "x" * 2049}, "invalid_request"),
        ({"url": "ftp://127.0.0.1/"}, "webhook_url_refused"),
        ({"url": "http://10.0.0.1/"}, "webhook_url_refused"),
        ({"url": "http://[::1]/"}, "webhook_url_refused"),
        ({"url": URL, "events": ["job.done"]}, "invalid_request"),
        ({"url": URL, "events": "job.failed"}, "invalid_request"),
        ({"url": URL, "events": ["webhook.test"]}, "invalid_request"),
        ({"url": URL, "description": "\x00"}, "invalid_request"),
        ({"url": URL, "description": "x" * 257}, "invalid_request"),
        ({"url": URL, "secret": "whsec_" + "A" * 28}, "invalid_request"),
        ({"url": URL, "secret": "whsec_" + "A" * 88}, "invalid_request"),
        ({"url": URL, "secret": "A" * 32}, "invalid_request"),
        ({"url": URL, "secret": "whsec_" + "\u00e9" * 32}, "invalid_request"),
        ({"url": URL, "state": "disabled"}, "invalid_request"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(
    client: FlaskClient, problem: Problem, database: Database, body: dict[str, Any], code: str
) -> None:
    problem(client.post(ENDPOINTS, json=body), 422, code)
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Subscription)) == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"url": "http://10.0.0.1/"}, "webhook_url_refused"),
        ({"state": "gone"}, "invalid_request"),
        ({"events": ["job.done"]}, "invalid_request"),
        ({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "invalid_request"),
    ],
)
def test_a_change_that_cannot_be_changes_nothing(
    client: FlaskClient, problem: Problem, body: dict[str, Any], code: str
) -> None:
    made = create(client)
    path = f"{ENDPOINTS}/{made['id']}"
    problem(client.patch(path, json={"description": "new", **body}), 422, code)
    assert client.get(path).get_json()["description"] == ""


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "after=x", "order=id"])
def test_a_list_of_endpoints_refuses_what_it_does_not_know(
    client: FlaskClient, problem: Problem, query: str
) -> None:
    problem(client.get(f"{ENDPOINTS}?{query}"), 422, "invalid_request")


def test_an_account_has_twenty_endpoints_at_most_however_many_come_at_once(
    client_of: ClientOf, customer: Customer, client: FlaskClient, problem: Problem
) -> None:
    made = [create(client) for _ in range(17)]

    def one_more() -> None:
        client_of(customer).post(ENDPOINTS, json={"url": URL})

    threads = [Thread(target=one_more) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(client.get(f"{ENDPOINTS}?limit=100").get_json()["data"]) == 20
    problem(client.post(ENDPOINTS, json={"url": URL}), 409, "webhook_endpoint_limit")
    client.delete(f"{ENDPOINTS}/{made[0]['id']}")
    create(client)


ROUTES = [
    ("GET", ""),
    ("PATCH", ""),
    ("DELETE", ""),
    ("GET", "/secret"),
    ("POST", "/rotate"),
    ("POST", "/test"),
    ("POST", "/replay"),
]


def test_another_account_sees_and_changes_nothing(
    client: FlaskClient,
    client_of: ClientOf,
    new_customer: Callable[[], Customer],
    submit: Submit,
    problem: Problem,
    database: Database,
) -> None:
    made = create(client)
    end_one(client, submit)
    (told,) = client.get(DELIVERIES).get_json()["data"]
    stranger = client_of(new_customer())
    assert stranger.get(ENDPOINTS).get_json()["data"] == []
    assert stranger.get(DELIVERIES).get_json()["data"] == []
    narrowed = f"{DELIVERIES}?endpoint={made['id']}&job={told['job']}"
    assert stranger.get(narrowed).get_json()["data"] == []
    body = {"since": "2020-01-01T00:00:00Z"}
    for who, endpoint in [(stranger, made["id"]), (client, str(uuid4())), (client, "x")]:
        for method, path in ROUTES:
            sent = body if path == "/replay" else {} if method == "PATCH" else None
            answer = who.open(f"{ENDPOINTS}/{endpoint}{path}", method=method, json=sent)
            problem(answer, 404, "webhook_endpoint_not_found")
    for who, delivery in [(stranger, told["id"]), (client, str(uuid4())), (client, "x")]:
        for method, path in [("GET", ""), ("POST", "/replay")]:
            answer = who.open(f"{DELIVERIES}/{delivery}{path}", method=method)
            problem(answer, 404, "webhook_delivery_not_found")
    del made["secret"]
    assert client.get(f"{ENDPOINTS}/{made['id']}").get_json() == made


def test_an_end_is_told_to_every_endpoint_that_wants_it_and_to_the_url_of_the_job(
    client: FlaskClient,
    client_of: ClientOf,
    new_customer: Callable[[], Customer],
    submit: Submit,
    work: Callable[[], None],
    database: Database,
) -> None:
    everything = create(client, f"{URL}/all")["id"]
    succeeded = create(client, f"{URL}/ok", events=["job.succeeded"])["id"]
    bad = create(client, f"{URL}/bad", events=["job.failed", "job.cancelled"])["id"]
    disabled = create(client, f"{URL}/off")["id"]
    client.patch(f"{ENDPOINTS}/{disabled}", json={"state": "disabled"})
    create(client_of(new_customer()), f"{URL}/other")
    submit(webhook_url=f"{URL}/job")
    work()
    first = [(f"{URL}/job", None), (f"{URL}/all", everything), (f"{URL}/ok", succeeded)]
    assert recorded(database) == first
    end_one(client, submit)
    assert recorded(database) == [*first, (f"{URL}/all", everything), (f"{URL}/bad", bad)]
    with database.transaction() as session:
        bodies = session.scalars(select(Delivery.body).order_by(Delivery.id)).all()
    assert bodies[0] == bodies[1] == bodies[2]
    assert [json.loads(body)["type"] for body in bodies[2:4]] == ["job.succeeded", "job.cancelled"]


def test_a_job_whose_url_is_an_endpoint_as_well_is_told_of_twice(
    client: FlaskClient, submit: Submit, receiver: Receiver, process: Process
) -> None:
    endpoint = create(client, receiver.url)["id"]
    job_id = end_one(client, submit, webhook_url=receiver.url)
    process.courier.deliver_due()
    process.courier.settle()
    assert len(receiver.received) == 2
    assert len({headers["webhook-id"] for _, headers, _ in receiver.received}) == 2
    deliveries = client.get(f"{DELIVERIES}?job={job_id}").get_json()["data"]
    assert {each["endpoint"] for each in deliveries} == {None, endpoint}
    # The job speaks of its own, whichever was written last.
    for status, which in [(299, "NULL"), (298, "NOT NULL")]:
        statement = "UPDATE webhook_deliveries SET last_status = {} WHERE subscription_id IS {}"
        with process.database.transaction() as session:
            session.execute(text(statement.format(status, which)))
        shown = client.get(f"/api/v1/jobs/{job_id}").get_json()["webhook"]
        assert (shown["state"], shown["attempts"], shown["last_status"]) == ("delivered", 1, 299)


def test_a_job_without_a_url_shows_no_webhook_though_an_endpoint_was_told(
    client: FlaskClient, submit: Submit, database: Database
) -> None:
    create(client)
    job_id = end_one(client, submit)
    assert len(recorded(database)) == 1
    assert client.get(f"/api/v1/jobs/{job_id}").get_json()["webhook"] is None


def test_who_has_no_endpoint_pays_no_statement_for_those_who_do(
    client: FlaskClient,
    client_of: ClientOf,
    new_customer: Callable[[], Customer],
    submit: Submit,
    work: Callable[[], None],
    process: Process,
) -> None:
    create(client_of(new_customer()))
    asked = count_statements(process.database)
    submit()
    work()
    without = [each for each in asked if "webhook_subscriptions.url" in each]
    assert asked
    assert without == []
    create(client)
    submit()
    work()
    assert len([each for each in asked if "webhook_subscriptions.url" in each]) == 1


def count_statements(database: Database) -> list[str]:
    """What the database is asked from now on."""
    asked: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    return asked
