"""How quickly our engine decodes, beside what else could decode the same model.

Contestants: our engine, the one it replaces, transformers' ``generate`` on padded batches,
transformers' continuous batching and, given its binary, llama.cpp's server; greedy, every request
the same number of new tokens. Then the engine inside the worker, beside the engine alone.
"""

import argparse
import tempfile
from pathlib import Path

from app import catalog
from app.config import Settings
from scripts.arguments import count
from scripts.benching.engine import checkpoint, loop, worker
from scripts.benching.engine.contest import Contest, Rounds, started
from scripts.benching.engine.entries import entries
from scripts.benching.engine.prompts import Prompts
from scripts.benching.engine.targets import GPU_TARGETS, TARGETS, verdicts
from scripts.benching.figures import Figure, alone, higher_is_better, lower_is_better
from scripts.benching.notes import Notes
from scripts.quantization import demo
from scripts.stack.problem import Problem
from scripts.stack.state import State

SEED = 20261121


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of this benchmark alone."""
    command.add_argument(
        "--checkpoint", type=Path, help="the model's folder (default: the demo model's)"
    )
    command.add_argument(
        "--engine", help="ours, as the catalog calls it (default: the demo model's)"
    )
    command.add_argument("--tokens", type=count, default=48, help="new ones of each (default: 48)")
    command.add_argument("--jobs", type=count, default=200, help="in the worker (default: 200)")
    command.add_argument("--llama-server", type=Path, help="the binary of llama.cpp's server")
    command.add_argument("--gguf", type=Path, help="its model (default: the demo model's)")
    command.add_argument(
        "--gpu", action="store_true", help="large models with random weights on a CUDA device"
    )


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Measure, then say which targets hold."""
    if options.gpu:
        # It brings torch.
        from scripts.benching.engine import gpu

        found, targets = gpu.run(options, notes), GPU_TARGETS
    else:
        found, targets = on_cpu(options, notes), TARGETS
    for line in verdicts(targets, found):
        notes.say(line)
    return found


def on_cpu(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """A model of the demo model's size, on this machine's cores."""
    ours = options.engine or catalogued()
    prompts = Prompts(options.tokens, SEED)
    with tempfile.TemporaryDirectory(prefix="gptqueue-bench-") as name:
        scratch = Path(name)
        # PostgreSQL and the worker's processes are other users' at times.
        scratch.chmod(0o711)
        folder = checkpoint.endless(chosen(options), scratch / "checkpoint")
        everyone = entries(ours=ours, folder=folder, llama=llama(options, scratch, notes))
        with started(everyone, ours=ours, notes=notes) as hosts:
            contest = Contest(hosts, ours=ours, notes=notes)
            contest.warm(prompts)
            for number in range(options.rounds):
                contest.measure(number, prompts, seconds=options.seconds)
            rates = worker.measure(
                hosts[0],
                prompts,
                folder=folder,
                jobs=options.jobs,
                rounds=options.rounds,
                notes=notes,
            )
    if ours not in contest.rounds.first_p50:
        notes.say("-  not measured: time to the first token, since the engine does not stream")
    return [
        *compared(contest.rounds, ours),
        *first_token(contest.rounds, ours),
        alone("engine_memory_per_slot", "MiB", [contest.rounds.memory[ours]]),
        *loop_cost(ours),
        *in_worker(rates),
    ]


def catalogued() -> str:
    """The engine that the catalog runs the demo model with."""
    models = catalog.load(Settings().catalog_file).models.values()
    versions = [model.current for model in models]
    for version in versions:
        if version.source == demo.NAME:
            return version.engine
    raise Problem("The catalog has no demo model: --engine names the engine to measure.")


def chosen(options: argparse.Namespace) -> Path:
    """The checkpoint to run."""
    given: Path | None = options.checkpoint
    return given or State.here().models / demo.NAME


def llama(options: argparse.Namespace, scratch: Path, notes: Notes) -> tuple[Path, Path] | None:
    """llama.cpp's server and its model, if it takes part."""
    if not options.llama_server:
        return None
    try:
        gguf = options.gguf or demo.gguf(scratch, notes.say)
    except demo.DemoModelFailed as error:
        raise Problem(str(error)) from error
    return options.llama_server.absolute(), gguf.absolute()


def compared(rounds: Rounds, ours: str) -> list[Figure]:
    """Ours beside each other contestant, by load."""
    return [
        higher_is_better(
            f"engine_{load}_{name}", "tokens/s", values=rates[ours], baselines=baselines
        )
        for load, rates in rounds.rates.items()
        for name, baselines in rates.items()
        if name != ours
    ]


def first_token(rounds: Rounds, ours: str) -> list[Figure]:
    """Time to the first token with 16 requests always under way, where both sides tell it."""
    percentiles = {"p50": rounds.first_p50, "p99": rounds.first_p99}
    return [
        lower_is_better(
            f"engine_first_token_{name}", "ms", values=times[ours], baselines=times["continuous"]
        )
        if "continuous" in times
        else alone(f"engine_first_token_{name}", "ms", times[ours])
        for name, times in percentiles.items()
        if ours in times
    ]


def in_worker(rates: dict[str, list[float]]) -> list[Figure]:
    """The engine inside the worker, beside the engine alone."""
    names = {"engine_in_worker": worker.SINGLE, "engine_in_worker_batches": worker.BATCHES}
    return [
        higher_is_better(name, "tokens/s", values=rates[how], baselines=rates[worker.ALONE])
        for name, how in names.items()
    ]


def loop_cost(ours: str) -> list[Figure]:
    """A step of the loop alone, beside what was measured of transformers' before."""
    if ours != "native":
        return []
    steps, before = [loop.step_milliseconds()], [loop.CONTINUOUS_MS]
    return [lower_is_better("engine_loop_512", "ms", values=steps, baselines=before)]
