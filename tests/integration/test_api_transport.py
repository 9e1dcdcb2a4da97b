"""What HTTP adds: unchanged jobs, compression, pages of other origins."""

import gzip
import json
from collections.abc import Callable

from flask.testing import FlaskClient

from app.api import create_app
from app.config import Settings
from tests.integration.conftest import Submit

ORIGIN = "https://console.example.com"


def test_a_job_that_has_ended_is_sent_again_only_when_it_changed(
    client: FlaskClient, submit: Submit, work: Callable[[], None]
) -> None:
    job = submit().get_json()
    path = f"/api/v1/jobs/{job['id']}"
    assert "ETag" not in client.get(path).headers
    work()
    first = client.get(path)
    etag = first.headers["ETag"]
    again = client.get(path, headers={"If-None-Match": etag})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
    other = client.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.get_json()) == (200, first.get_json())


def test_long_answers_are_compressed_for_those_who_ask(
    client: FlaskClient, submit: Submit, work: Callable[[], None]
) -> None:
    job = submit(metadata={"a": "b" * 500, "c": "d" * 500}).get_json()
    work()
    path = f"/api/v1/jobs/{job['id']}"
    plain = client.get(path)
    assert "Content-Encoding" not in plain.headers
    assert "Accept-Encoding" in plain.headers["Vary"]
    small = client.get(path, headers={"Accept-Encoding": "gzip"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert len(small.data) < len(plain.data)
    assert json.loads(gzip.decompress(small.data)) == plain.get_json()
    etag = small.headers["ETag"]
    asked = {"Accept-Encoding": "gzip", "If-None-Match": etag}
    assert client.get(path, headers=asked).status_code == 304


def test_a_stream_is_never_compressed(
    client: FlaskClient, submit: Submit, work: Callable[[], None]
) -> None:
    job = submit().get_json()
    work()
    answer = client.get(f"/api/v1/jobs/{job['id']}/events", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers
    assert b"event: end" in answer.data


def test_pages_of_other_origins_may_ask_only_where_the_setting_says_so(settings: Settings) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    for origins, allowed in (("", None), (f"https://a.example, {ORIGIN}", ORIGIN)):
        app = create_app(settings.model_copy(update={"cors_origins": _split(origins)}))
        answer = app.test_client().options("/api/v1/generate", headers=asked)
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        app.extensions["gptqueue"].database.close()


def _split(origins: str) -> tuple[str, ...]:
    return Settings(cors_origins=origins).cors_origins
