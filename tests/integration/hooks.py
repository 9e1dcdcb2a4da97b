"""What the tests of webhook endpoints ask the API for."""

from typing import Any

from flask.testing import FlaskClient

from tests.integration.conftest import Submit

ENDPOINTS = "/api/v1/webhooks/endpoints"
DELIVERIES = "/api/v1/webhooks/deliveries"
URL = "http://127.0.0.1:9/hook"
LONG_AGO = "2020-01-01T00:00:00Z"
# Why a delivery is abandoned whose endpoint went.
WITHDRAWN = "Its endpoint was deleted, or disabled by its owner."


def create(client: FlaskClient, url: str = URL, **fields: Any) -> dict[str, Any]:
    """Register an endpoint."""
    answer = client.post(ENDPOINTS, json={"url": url, **fields})
    assert answer.status_code == 201, answer.get_json()
    return dict(answer.get_json())


def end_one(client: FlaskClient, submit: Submit, **fields: Any) -> str:
    """A job that ends at once, as cancelled."""
    job_id = submit(**fields).get_json()["id"]
    client.post(f"/api/v1/jobs/{job_id}/cancel")
    return str(job_id)


def listed(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    """Deliveries, the newest first."""
    return list(client.get(f"{DELIVERIES}?{query}").get_json()["data"])


def read(client: FlaskClient, delivery_id: str) -> dict[str, Any]:
    """One delivery with its log."""
    return dict(client.get(f"{DELIVERIES}/{delivery_id}").get_json())
