"""scripts/bench: that it measures, and what it prints; speed itself is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benching import __main__ as bench
from scripts.benching import figures, recovery
from tests.conftest import ROOT

COMPARED = {
    "submit": {"submit_rate", "submit_p50", "submit_p99", "submit_p50_1_connection"},
    "growth": {
        *("growth_submit", "growth_claim", "growth_finish", "growth_read", "growth_list"),
        *("growth_usage", "growth_metrics"),
    },
    "waiting": set(),
    "memory": {"api_rss"},
    "batches": {"batch_rate", "batch_api_rss", "batch_delivery_rss"},
    "webhooks": {"webhook_p50_beside_hanging", "webhook_p95_beside_hanging"},
}
ALONE = {
    "submit": {"empty_route_rate"},
    "waiting": {"told_p50", "told_p99", "waiting_transactions", "idle_transactions"},
    "memory": {"api_rss_most", "submit_rate"},
}
ENGINE = {"engine_in_worker", "engine_in_worker_batches"} | {
    f"engine_{load}_{other}"
    for load in ("1", "16", "64", "random")
    for other in ("static", "continuous", "transformers")
}
ENGINE |= {"engine_first_token_p50", "engine_first_token_p99", "engine_loop_512"}


@pytest.mark.parametrize(
    ("name", "quickly"),
    [
        ("submit", ["--seconds", "1", "--rounds", "1", "--connections", "4"]),
        ("growth", ["--jobs", "2000", "--calls", "5"]),
        ("waiting", ["--seconds", "1", "--rounds", "1", "--connections", "4"]),
        ("memory", ["--minutes", "0.1", "--connections", "4"]),
        ("webhooks", ["--seconds", "1", "--rounds", "1"]),
        ("batches", ["--lines", "300", "--rounds", "1"]),
    ],
)
def test_a_benchmark_prints_one_line_of_figures(name: str, quickly: list[str]) -> None:
    check(run(name, *quickly), compared=COMPARED[name], alone=ALONE.get(name, set()))


def test_the_benchmark_of_the_engine_compares_all_who_run_the_same_checkpoint(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    from tests.integration import tiny

    tiny.llama().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    quickly = ["--tokens", "2", "--seconds", "0.1", "--rounds", "1", "--jobs", "4"]
    model = ["--checkpoint", str(tmp_path), "--engine", "native"]
    finished = run("engine", *quickly, *model, "--llama-server", "/nowhere", "--gguf", "/nowhere")
    check(finished, compared=ENGINE, alone={"engine_memory_per_slot"})
    assert "llama does not take part: /nowhere cannot be started" in finished.stderr
    assert "not measured: 1 request, beside llama-server" in finished.stderr


def test_the_benchmark_of_clients_reads_along_and_holds_streams_open(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.integration import tiny

    tiny.llama().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    quickly = ["--rounds", "1", "--streams", "2", "--tokens", "20", "--connections", "20"]
    finished = run("clients", *quickly, "--checkpoint", str(tmp_path))
    check(finished, compared={"stream_token", "open_streams_rss"}, alone={"stream_memory"})


def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """One benchmark to its end."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.benching", name, "--json", *options],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=480,
    )


def check(finished: subprocess.CompletedProcess[str], compared: set[str], alone: set[str]) -> None:
    """It printed these figures, with a baseline and without."""
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("\n") == 1
    found = {figure["name"]: figure for figure in json.loads(finished.stdout)}
    assert set(found) == compared | alone
    for figure in found.values():
        assert set(figure) == {"name", "value", "unit", "baseline", "ratio"}
        assert figure["value"] >= 0
    for each in compared:
        assert found[each]["baseline"] > 0
        assert found[each]["ratio"] > 0
    for each in alone:
        assert found[each]["ratio"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["submit", "--seconds", "0"], "--seconds: must be a number above 0"),
        (["submit", "--seconds", "-1"], "--seconds: must be a number above 0"),
        (["submit", "--seconds", "nan"], "--seconds: must be a number above 0"),
        (["submit", "--seconds", "inf"], "--seconds: must be a number above 0"),
        (["submit", "--seconds", "soon"], "--seconds: must be a number above 0"),
        (["submit", "--rounds", "0"], "--rounds: must be a whole number above 0"),
        (["jobs", "--connections", "0"], "--connections: must be a whole number above 0"),
        (["recovery", "--rounds", "0"], "--rounds: must be a whole number above 0"),
        (["jobs", "--jobs", "0"], "--jobs: must be a whole number above 0"),
        (["jobs", "--jobs", "1.5"], "--jobs: must be a whole number above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        bench.parse()
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_ratio_above_one_is_better() -> None:
    assert figures.higher_is_better("rate", "1/s", values=[3, 1, 2], baselines=[1]).ratio == 2
    assert figures.lower_is_better("time", "ms", values=[3, 1, 2], baselines=[4]).ratio == 2


def test_a_percentile_is_one_of_the_values() -> None:
    assert figures.percentile([5], 99) == 5
    assert figures.percentile(list(range(1, 101)), 50) == 50
    assert figures.percentile(list(range(1, 101)), 99) == 99
    assert figures.percentile([1, 2, 3], 99) == 3


@pytest.mark.parametrize(
    ("ends", "now", "seconds"),
    [
        ([0.25, 0.5, 0.75, 1.0], 3.0, 0.25),
        ([0.25, 2.0, 2.25, 2.5, 2.75], 3.0, 2.0),  # one that was lucky is no recovery
        ([0.25, 2.0, 2.25, 2.5, 2.75], 2.9, None),  # it is too early to say
        ([0.25, 1.0, 1.75, 2.5], 4.0, None),
        ([-0.75, -0.5, -0.25, 0.0], 2.0, None),
        ([], 2.0, None),
    ],
)
def test_recovered_is_the_first_moment_from_which_jobs_end_as_quickly_as_before(
    ends: list[float], now: float, seconds: float | None
) -> None:
    assert recovery.recovered(ends, 4.0, now=now, seconds=1.0) == seconds
