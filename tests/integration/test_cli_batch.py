"""``gptqueue batch``; what it shares with scripts/batch is in tests/acceptance/test_batch.py."""

import json
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db import Database
from tests.conftest import CATALOG
from tests.integration.commands import Commands, await_true, ended

LINES = 40


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model with 20 words a second."""
    path = tmp_path / "slow.toml"
    path.write_text(CATALOG.replace('source = "fake:"', 'source = "fake:tokens_per_second=20"', 1))
    return path


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    """Forty lines, and where the results go."""
    lines = [{"model": "fake", "prompt": f"number {n}", "max_tokens": 5} for n in range(LINES)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(source), str(tmp_path / "out.jsonl")


def test_an_interrupted_batch_resumes_and_submits_nothing_twice(
    gptqueue: Commands, paths: tuple[str, str], database: Database
) -> None:
    source, target = paths
    words = ("batch", source, "-o", target, "--concurrency", "4", "--json")
    running = gptqueue.start(*words)
    await_true(lambda: Path(target).exists() and Path(target).read_bytes().count(b"\n") >= 5)
    running.send_signal(signal.SIGINT)
    code, output, errors = ended(running)
    assert (code, output) == (130, "")
    assert f"Interrupted. To resume: gptqueue batch {source} -o {target}" in errors
    assert Path(target).read_bytes().count(b"\n") < LINES

    code, output, errors = gptqueue.run(*words)
    assert code == 0, errors
    counts = {"lines": LINES, "succeeded": LINES, "failed": 0}
    assert json.loads(output) == {**counts, "output": target}
    assert f"{LINES} of {LINES} lines succeeded" in errors
    with database.transaction() as session:
        jobs = session.execute(text("SELECT count(*), sum(charged_micros) FROM charges")).one()
    assert tuple(jobs) == (LINES, LINES * (2 + 5 * 2))


def test_a_wrong_key_is_told_before_anything_is_done(
    gptqueue: Commands, paths: tuple[str, str]
) -> None:
    gptqueue.environment["GPTQUEUE_API_KEY"] = "gq_wrong"
    code, _, errors = gptqueue.run("batch", paths[0], "-o", paths[1])
    assert (code, "not valid" in errors) == (2, True)
    assert not Path(paths[1]).exists()
