"""Checkpoints that the native engine quantizes to int8 when it loads them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app import catalog
from app.config import Settings
from app.errors import ModelLoadFailed
from tests.integration import tiny
from tests.integration.loops import job
from workers import engines
from workers.engines.base import Engine, Request, Sampling
from workers.engines.native import opening
from workers.engines.native.batch import Batch
from workers.engines.native.building import assemble
from workers.engines.native.int8 import Int8

Open = Callable[..., Engine]

pytestmark = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="this processor is refused"
)


@pytest.fixture
def open_model(tmp_path: Path) -> Iterator[Open]:
    """Save a model as a checkpoint and load it, quantized."""
    opened = []

    def load(model: Any, **config: Any) -> Engine:
        model.save_pretrained(tmp_path / "tiny")
        tiny.tokenizer().save_pretrained(tmp_path / "tiny")
        file = tmp_path / "tiny" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        served = catalog.Model.model_validate(entry(engine="native"))
        settings = Settings(models_dir=tmp_path, device="cpu", engine_slots=2)
        opened.append(engines.load("tiny", served, version="1", settings=settings))
        return opened[-1]

    yield load
    for engine in opened:
        engine.close()


def entry(**version: str) -> dict[str, Any]:
    return {
        "context_length": 120,
        "input_price_micros": 1,
        "output_price_micros": 1,
        "version": "1",
        "versions": {"1": {"source": "tiny", "quantization": "int8", **version}},
    }


def first_logits(model: Any, *, int8: bool) -> Tensor:
    """What the native loop computes behind each of some prompts: (prompts, vocabulary)."""
    made: Any = assemble(model, tiny.tokenizer(), context_length=120, slots=1, blocks=8, int8=int8)
    kept: list[Tensor] = []
    run = made._runner.run

    def keep(batch: Batch, newest: Tensor) -> Tensor:
        kept.append(run(batch, newest))
        return kept[-1]

    made._runner.run = keep
    for start in range(1, 41):
        made.submit(job(start, range(start, start + 30), 1))
        while made.busy:
            made.step()
    return torch.cat(kept).float()


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen2, tiny.qwen3, tiny.gemma3])
def test_logits_are_near_those_of_float32(make: Callable[[], Any]) -> None:
    exact, got = (first_logits(make(), int8=int8) for int8 in (False, True))
    apart = (got - exact).norm(dim=1) / exact.norm(dim=1)
    # Up to 0.15 with these small random matrices; 0.4 and 0.5 with scales that are wrong by half.
    assert 0 < float(apart.mean()) < 0.25


def test_every_matrix_of_the_layers_is_quantized_and_the_head_is_not() -> None:
    made: Any = assemble(tiny.llama(), tiny.tokenizer(), context_length=64, slots=1, int8=True)
    model = made._runner._model
    for layer in model.layers:
        for each in (layer.qkv, layer.output, layer.gate_up, layer.down):
            assert isinstance(each, Int8)
    assert not isinstance(model._head, Int8)


def test_a_version_in_int8_answers(open_model: Open) -> None:
    engine = open_model(tiny.llama())
    assert engine.name == "native"
    request = Request(id="one", prompt="the quick", max_tokens=20, sampling=Sampling(temperature=0))
    answer = engine.submit(request).result(timeout=60)
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 20)


@pytest.mark.parametrize("engine", ["transformers", "openai", "fake"])
def test_other_engines_take_no_quantization(engine: str, tmp_path: Path) -> None:
    text = "\n".join(
        [
            "[models.tiny]",
            "context_length = 120",
            "input_price_micros = 1",
            "output_price_micros = 1",
            'version = "1"',
            "[models.tiny.versions.1]",
            'source = "tiny"',
            f'engine = "{engine}"',
            'quantization = "int8"',
        ]
    )
    file = tmp_path / "catalog.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r'models\.tiny\.versions\.1\s+.*engine "native" only'):
        catalog.load(file)


def test_a_checkpoint_that_is_quantized_already_is_refused(open_model: Open) -> None:
    already = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    with pytest.raises(ModelLoadFailed, match=r'tiny, version 1: .*"int8", but .* GPTQ already'):
        open_model(tiny.llama(), quantization_config=already)


def test_a_gpu_is_refused(open_model: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "on_cuda", lambda device: True)
    with pytest.raises(ModelLoadFailed, match=r'tiny, version 1: .*"int8", which is for the CPU'):
        open_model(tiny.llama())


def test_what_would_run_on_another_engine_is_refused(open_model: Open) -> None:
    with pytest.raises(ModelLoadFailed, match=r"Only the native engine .* int8. .* of kind phi"):
        open_model(tiny.phi())
