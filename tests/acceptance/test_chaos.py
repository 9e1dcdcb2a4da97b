"""scripts/chaos: a short bite of it, with a fixed seed; the nightly run takes half an hour."""

import json
import subprocess
import sys

import pytest

from scripts.breaking import __main__ as chaos
from tests.conftest import ROOT

SECONDS = 9
JOBS = 90


def test_under_faults_every_promise_is_kept() -> None:
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "scripts.breaking", "--json"),
            *("--seed", "7", "--minutes", str(SECONDS / 60), "--jobs", str(JOBS)),
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr + finished.stdout
    assert finished.stdout.count("\n") == 1
    found = json.loads(finished.stdout)
    assert found["clean"]
    assert found["problems"] == {}
    assert sum(found["faults"].values()) >= 2
    assert 0 < found["accepted"]["value"] <= JOBS
    assert found["terminal"]["value"] == found["accepted"]["value"]
    for nothing in ("lost", "duplicated", "drift", "changed", "unexpected", "crashes"):
        assert found[nothing]["value"] == 0
    assert found["charged"]["value"] > 0
    assert found["deliveries"]["value"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--minutes", "0"], "--minutes: must be a number above 0"),
        (["--minutes", "nan"], "--minutes: must be a number above 0"),
        (["--jobs", "0"], "--jobs: must be a whole number above 0"),
        (["--seed", "lucky"], "--seed: invalid int value"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/chaos", *arguments])
    with pytest.raises(SystemExit) as ended:
        chaos.parse()
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
