"""Checkpoints that load, and what is said of those that do not: the same for both engines."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from safetensors.torch import load_file, save_file

from app import catalog
from app.config import Settings
from app.errors import InvalidRequest, ModelLoadFailed
from tests.integration import tiny
from workers import engines
from workers.engines.base import Engine, Message, Request
from workers.engines.native import opening

Open = Callable[..., Engine]
ENGINES = ["transformers", "native"]
BOTH = pytest.mark.parametrize("name", ENGINES)


def served(source: str, engine: str = "transformers") -> catalog.Model:
    version = {"source": source, "engine": engine}
    return catalog.Model(
        context_length=120,
        input_price_micros=1,
        output_price_micros=1,
        version="1",
        versions={"1": version},
    )


@pytest.fixture
def open_model(tmp_path: Path) -> Iterator[Open]:
    """Load a folder of this test's, or another, in one of the engines."""
    opened = []

    def load(source: str, engine: str, *, device: str = "cpu") -> Engine:
        settings = Settings(models_dir=tmp_path, device=device, engine_slots=2)
        opened.append(engines.load("tiny", served(source, engine), version="1", settings=settings))
        return opened[-1]

    yield load
    for engine in opened:
        engine.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint without fault."""
    return saved(tmp_path, tiny.llama())


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder / "tiny")
    tiny.tokenizer().save_pretrained(folder / "tiny")
    return folder / "tiny"


def answer(engine: Engine, **prompt: Any) -> Any:
    return engine.submit(Request(id="one", max_tokens=20, **prompt)).result(timeout=60)


@BOTH
def test_a_saved_checkpoint_without_chat_template_answers_completions_alone(
    name: str, checkpoint: Path, open_model: Open
) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    engine = open_model("tiny", name)
    assert engine.name == name
    with pytest.raises(InvalidRequest, match="no chat template"):
        answer(engine, messages=[Message("user", "hello")])
    assert answer(engine, prompt="the quick").prompt_tokens == 3


def test_what_the_native_engine_does_not_know_runs_on_transformers_and_the_log_says_so(
    tmp_path: Path, open_model: Open
) -> None:
    saved(tmp_path, tiny.phi())
    with structlog.testing.capture_logs() as logs:
        engine = open_model("tiny", "native")
    assert engine.name == "transformers"
    assert answer(engine, prompt="the quick").prompt_tokens == 3
    (falls_back,) = [each for each in logs if each["event"] == "engine_falls_back"]
    assert falls_back["reason"] == "The native engine has no forward for models of kind phi."


@BOTH
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (None, "does not exist"),
        ({}, "no config.json"),
        ({"config.json": "{}"}, "no safetensors"),
        (
            {"config.json": "{", "model.safetensors": ""},
            "The config.json of this checkpoint cannot be loaded: .* not a valid JSON",
        ),
        ({"config.json": '{"model_type": "vit"}', "model.safetensors": ""}, "no causal"),
        ({"config.json": '{"model_type": "t5"}', "model.safetensors": ""}, "no causal"),
        ({"config.json": '{"model_type": "mamba"}', "model.safetensors": ""}, "more than keys"),
        (
            {
                "config.json": '{"model_type": "llama", "quantization_config": '
                '{"quant_method": "awq"}}',
                "model.safetensors": "",
            },
            "quantized with awq",
        ),
        (
            {"config.json": '{"model_type": "llama"}', "model.safetensors": ""},
            "The tokenizer of this checkpoint cannot be loaded: ",
        ),
    ],
)
def test_a_model_that_cannot_load_says_why(
    name: str, files: dict[str, str] | None, reason: str, tmp_path: Path, open_model: Open
) -> None:
    if files is not None:
        (tmp_path / "broken").mkdir()
    for file, content in (files or {}).items():
        (tmp_path / "broken" / file).write_text(content)
    with pytest.raises(ModelLoadFailed, match=f"tiny, version 1: .*{reason}"):
        open_model("broken", name)


@BOTH
def test_weights_that_were_cut_off_are_told(name: str, checkpoint: Path, open_model: Open) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelLoadFailed, match=r"weights of this checkpoint cannot be .* covered"):
        open_model("tiny", name)


def lacks_a_matrix(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]


def has_a_smaller_matrix(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)


def is_not_quantized(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Though its config.json says so."""
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}


@pytest.mark.parametrize("damage", [lacks_a_matrix, has_a_smaller_matrix, is_not_quantized])
def test_a_checkpoint_whose_weights_are_not_those_of_its_config_is_refused(
    damage: Callable[..., None], checkpoint: Path, open_model: Open
) -> None:
    """The library would go on with random numbers in their place."""
    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    damage(weights, config)
    (checkpoint / "config.json").write_text(json.dumps(config))
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadFailed, match=r"missing or have other sizes .*layers.* among them"):
        open_model("tiny", "transformers")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (
            "no_room_for_weights",
            "not fit into what is free of the memory of one GPU.* vLLM .* engine .openai.",
        ),
        ("no_room_for_keys", "not fit into memory"),
        ("no_memory_left", "tiny, version 1: The catalog promises 120 tokens of .* values of 0"),
    ],
)
def test_a_process_that_finds_no_memory_while_it_loads_says_so(
    where: str, words: str, checkpoint: Path, open_model: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "FACTORY", f"tests.integration.faults:{where}")
    with pytest.raises(ModelLoadFailed, match=words):
        open_model("tiny", "native")


@BOTH
def test_cuda_that_is_not_there_is_told(name: str, checkpoint: Path, open_model: Open) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelLoadFailed, match="no CUDA device"):
        open_model("tiny", name, device="cuda")
