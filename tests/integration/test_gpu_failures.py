"""A GPU that falls off the bus, in step and in load: from its error to what operators read."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from app.catalog import Version
from app.config import Settings
from app.errors import EngineClosed, EngineLost, ModelLoadFailed
from tests.integration import tiny
from tests.integration.conftest import Open
from tests.integration.standin import FALLS
from workers.engines.base import Request
from workers.engines.native import opening
from workers.engines.native.restarts import Patience
from workers.engines.transformers import loading
from workers.engines.transformers.engine import TransformersEngine

HOW = "The GPU failed: CUDA error: unspecified launch failure."
GONE = "The GPU failed: CUDA error: no CUDA-capable device is detected."
END = f"{GONE} That happened again and again, so it is not started any more."
SECONDS = 60


def falls() -> Request:
    return Request(id=f"falls/{time.monotonic()}", prompt=FALLS, max_tokens=5)


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_gpu_that_fails_in_a_step_is_named_and_the_process_is_started_again(
    open_engine: Open,
) -> None:
    engine = open_engine(patience=Patience(first_seconds=3600))
    error = engine.submit(falls()).exception(timeout=SECONDS)
    assert (type(error), str(error)) == (EngineLost, HOW)
    assert engine.stats().problem == f"{HOW} It is being started again."
    assert not engine.ready()


def test_a_gpu_that_stays_away_ends_the_restarts_with_the_reason(
    open_engine: Open, tmp_path: Path
) -> None:
    engine = open_engine(lost=str(tmp_path / "lost"))
    assert type(engine.submit(falls()).exception(timeout=SECONDS)) is EngineLost
    wait_for(lambda: engine.stats().problem == END)
    assert engine.stats().restarts == 4
    with pytest.raises(EngineClosed, match="no CUDA-capable device"):
        engine.ready()


def test_a_gpu_that_is_away_from_the_start_fails_the_load(
    open_engine: Open, tmp_path: Path
) -> None:
    (tmp_path / "lost").touch()
    with pytest.raises(ModelLoadFailed) as failed:
        open_engine(lost=str(tmp_path / "lost"))
    assert failed.value.message == GONE


@pytest.fixture
def transformers() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(
        model=tiny.llama(), tokenizer=tiny.tokenizer(), context_length=120, slots=1
    )
    yield engine
    engine.close()


def test_the_transformers_engine_ends_when_its_gpu_failed_and_loses_only_what_ran(
    transformers: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted, error = threading.Event(), torch.AcceleratorError("CUDA error: device lost")

    def fail(**inputs: Any) -> None:
        submitted.wait()
        raise error

    monkeypatch.setattr(transformers._forward, "_model", fail)
    prompt = {"prompt": "the quick", "max_tokens": 5}
    ran, waited = (transformers.submit(Request(id=name, **prompt)) for name in ("ran", "waited"))
    submitted.set()
    reason = "The GPU failed: CUDA error: device lost."
    for future, kind in [(ran, EngineLost), (waited, EngineClosed)]:
        told = future.exception(timeout=SECONDS)
        assert (type(told), str(told)) == (kind, reason)
    with pytest.raises(EngineClosed, match="device lost"):
        transformers.ready()


def failed_load(error: Exception, tmp_path: Path) -> str:
    """What is said when the model library raises this while it reads a checkpoint."""
    tiny.llama().save_pretrained(tmp_path / "tiny")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny")
    with (
        mock.patch.object(loading.AutoModelForCausalLM, "from_pretrained", side_effect=error),
        pytest.raises(ModelLoadFailed) as failed,
    ):
        loading.load(Version(source="tiny"), models_dir=tmp_path, device="cpu")
    return failed.value.message


def test_a_gpu_that_fails_while_weights_are_read_is_not_taken_for_a_bad_checkpoint(
    tmp_path: Path,
) -> None:
    error = RuntimeError("CUDA error: unspecified launch failure\nmore")
    assert failed_load(error, tmp_path) == HOW


def test_a_model_too_large_for_one_gpu_names_the_way_out(tmp_path: Path) -> None:
    message = failed_load(torch.OutOfMemoryError("CUDA out of memory."), tmp_path)
    assert message.startswith("The model does not fit into what is free of the memory of one GPU")
    assert "vLLM" in message
    assert 'engine "openai"' in message


def test_a_restart_looks_for_the_gpu_again_and_never_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is told its device once, and has the GPU that its worker was given."""
    tiny.llama().save_pretrained(tmp_path / "tiny")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(opening, "on_cuda", lambda device: True)
    monkeypatch.setattr(opening, "FACTORY", "tests.integration.faults:say_where")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    settings = Settings(models_dir=tmp_path)
    assert settings.device == "auto"
    with pytest.raises(ModelLoadFailed) as told:
        opening.open_engine(
            Version(source="tiny"), settings=settings, context_length=120, adapters={}
        )
    assert told.value.message == "cuda on GPU-b"
