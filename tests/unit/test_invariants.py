"""What must hold for every route, every queue and every setting there is."""

import re
from pathlib import Path

import pytest
from celery import Celery
from flask import Flask

from app.api import create_app
from app.config import Settings
from app.queues import GENERATE_PREFIX, MAINTENANCE, WEBHOOKS, make_celery

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {
    "/api/v1/health",
    "/api/v1/status",
    "/api/v1/metrics",
    "/api/v1/openapi.json",
    "/api/v1/docs",
}


@pytest.fixture
def nowhere() -> Flask:
    """The API with a database and a broker that are not there."""
    return create_app(
        Settings(database_url="postgresql://127.0.0.1:1/x", redis_url="redis://127.0.0.1:1/0")
    )


def test_every_route_wants_a_key_or_is_on_the_short_public_list(nowhere: Flask) -> None:
    client = nowhere.test_client()
    for rule in nowhere.url_map.iter_rules():
        if rule.rule.startswith("/api/v1/docs/"):
            continue  # the files of a public page
        path = re.sub(r"<[^>]+>", "01a1fc3a-29da-74b5-9ef5-fd778ec0e681", rule.rule)
        method = min(rule.methods - {"HEAD", "OPTIONS"})
        answer = client.open(path, method=method)
        assert (answer.status_code != 401) == (path in PUBLIC), (method, path)


def test_every_task_goes_to_a_queue_that_a_documented_worker_consumes() -> None:
    celery: Celery = make_celery(Settings())
    consumed = (ROOT / "docs" / "configuration.md").read_text()
    assert f"-Q {WEBHOOKS},{MAINTENANCE}" in consumed
    assert f"-Q {GENERATE_PREFIX}" in consumed
    scheduled = {entry["options"]["queue"] for entry in celery.conf.beat_schedule.values()}
    assert scheduled == {MAINTENANCE}
    assert celery.conf.task_default_queue == MAINTENANCE


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for name, setting in Settings.model_fields.items():
        variable = setting.validation_alias or f"GPTQUEUE_{name.upper()}"
        line = next((each for each in text.splitlines() if f"`{variable}`" in each), None)
        assert line is not None, f"{variable} is not in docs/configuration.md"
        assert setting.description, variable
        assert setting.description in line, variable


def test_every_documented_setting_exists() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    known = {f"GPTQUEUE_{name.upper()}" for name in Settings.model_fields}
    table = text.split("## Settings")[1].split("\n## ")[0]
    assert set(re.findall(r"`(GPTQUEUE_[A-Z_]+)`", table)) <= known
