"""The baseline: what a Flask route, one INSERT and a Celery task cost by themselves.

No keys, no checks, no money, no leases, no webhook record. The same libraries, gunicorn settings,
pool size, PostgreSQL and broker as the product has.
"""

import itertools
from typing import Any
from uuid import uuid4

import redis
import urllib3
from celery import Celery
from flask import Flask, request
from sqlalchemy import create_engine, text

from app import config
from app.db import psycopg2_url
from scripts.benching.baseline import DONE, QUEUE

INSERT = text("INSERT INTO bare_jobs (id, prompt) VALUES (:id, :prompt)")

settings = config.current()
celery = Celery("bare", broker=settings.redis_url)
celery.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
_http = urllib3.PoolManager(maxsize=16)
_redis = redis.Redis.from_url(settings.redis_url)
_executed = itertools.count(1)


def create_app() -> Flask:
    """The skeleton of a queueing API."""
    app = Flask("bare")
    engine = create_engine(
        psycopg2_url(settings.database_url),
        pool_size=settings.database_pool_size,
        max_overflow=0,
    )

    @app.get("/empty")
    def empty() -> dict[str, Any]:
        return {}

    @app.post("/jobs")
    def submit() -> tuple[dict[str, Any], int]:
        body = request.get_json()
        job_id = str(uuid4())
        with engine.begin() as connection:
            connection.execute(INSERT, {"id": job_id, "prompt": body["prompt"]})
        celery.send_task("call_back", args=[job_id, body.get("webhook_url")], queue=QUEUE)
        return {"id": job_id}, 202

    return app


@celery.task(name="call_back")
def call_back(job_id: str, url: str | None) -> None:
    """What a worker would do after a generation that takes no time."""
    if url:
        _http.request("POST", url, json={"id": job_id})


@celery.task(name="noop")
def noop(batch: int) -> None:
    """Nothing; the last of a batch says so."""
    if next(_executed) % batch == 0:
        _redis.rpush(DONE, batch)
