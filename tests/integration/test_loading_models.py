from pathlib import Path

import pytest
import torch

from app import catalog
from app.config import Settings
from app.errors import ModelLoadFailed
from tests.integration import tiny
from workers import engines
from workers.engines.base import Request


def served(source: str, engine: str = "transformers") -> catalog.Model:
    version = {"source": source, "engine": engine}
    return catalog.Model(
        context_length=120,
        input_price_micros=1,
        output_price_micros=1,
        version="1",
        versions={"1": version},
    )


def test_a_saved_checkpoint_loads_and_answers(
    tmp_path: Path,
) -> None:
    tiny.llama().save_pretrained(tmp_path / "tiny")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny")
    settings = Settings(models_dir=tmp_path, device="cpu")
    engine = engines.load("tiny", served("tiny"), version="1", settings=settings)
    answer = engine.submit(Request(id="one", prompt="the quick", max_tokens=20)).result(timeout=30)
    engine.close()
    assert answer.prompt_tokens == 3


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (None, "does not exist"),
        ({}, "no config.json"),
        ({"config.json": "{}"}, "no safetensors"),
        ({"config.json": "{", "model.safetensors": ""}, "not a valid JSON"),
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
    ],
)
def test_a_model_that_cannot_load_says_why(
    files: dict[str, str] | None, reason: str, tmp_path: Path
) -> None:
    if files is not None:
        (tmp_path / "broken").mkdir()
    for name, content in (files or {}).items():
        (tmp_path / "broken" / name).write_text(content)
    settings = Settings(models_dir=tmp_path, device="cpu")
    with pytest.raises(ModelLoadFailed, match=reason):
        engines.load("broken", served("broken"), version="1", settings=settings)


def test_cuda_that_is_not_there_is_told(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelLoadFailed, match="no CUDA device"):
        engines.load(
            "any", served("any"), version="1", settings=Settings(models_dir=tmp_path, device="cuda")
        )
