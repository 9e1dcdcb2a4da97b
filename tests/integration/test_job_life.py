"""One job's way through the parts, in one process: submit, claim, generate, settle, record."""

from collections.abc import Callable

from flask.testing import FlaskClient


def test_a_submitted_job_is_generated_charged_and_read_back(
    client: FlaskClient, work: Callable[[], None]
) -> None:
    submitted = client.post(
        "/api/v1/generate", json={"model": "fake", "prompt": "one two three", "max_tokens": 5}
    )
    assert submitted.status_code == 202
    job = submitted.json
    assert job["status"] == "queued"
    assert job["charge"]["state"] == "held"
    assert job["charge"]["held_micros"] == 3 * 1 + 5 * 2
    assert job["waiting"] == {"reason": "in_queue", "position": 0, "eta_seconds": None}

    work()

    done = client.get(f"/api/v1/jobs/{job['id']}").json
    assert done["status"] == "succeeded"
    assert done["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert done["charge"]["state"] == "charged"
    assert done["charge"]["charged_micros"] == 3 * 1 + 5 * 2
    assert len(done["output"]["text"].split()) == 5
    assert [each["outcome"] for each in done["attempts"]] == ["succeeded"]
