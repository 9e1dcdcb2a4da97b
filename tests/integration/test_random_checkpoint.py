"""The checkpoints with random weights that ``scripts/bench engine --gpu`` measures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedTokenizerFast

from scripts.benching.engine import weights
from scripts.benching.engine.shapes import SHAPES, Shape
from scripts.benching.engine.static import Static, loaded
from scripts.benching.engine.work import Work


def small(name: str) -> Shape:
    """A shape of the same kind, small enough for any machine."""
    return replace(
        SHAPES[name],
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=512,
    )


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("quantized", [True, False])
def test_it_loads_and_generates(name: str, quantized: bool, tmp_path: Path) -> None:
    folder = weights.make(tmp_path / "model", small(name), quantized=quantized, group_size=32)
    model = Static(*loaded(folder, "cpu"))
    work = Work(prompts=["1 2 3", "511"], tokens=3, arrivals=[0, 0], in_flight=2)
    assert [answer.tokens for answer in model.ask(work)] == [3, 3]


def test_the_packed_weights_are_as_small_as_trained_ones(tmp_path: Path) -> None:
    folder = weights.make(tmp_path / "model", small("8b"), quantized=True, group_size=32)
    tensors = load_file(folder / "model.safetensors")
    layer = "model.layers.0.mlp.up_proj."
    packed = tensors[layer + "qweight"]
    assert packed.shape == (128 // 8, 256)
    numbers = (packed.unsqueeze(-1) >> (4 * torch.arange(8))) & 15
    spread = ((numbers - 8) * tensors[layer + "scales"][0, 0]).float().std().item()
    assert spread == pytest.approx(weights.SPREAD, rel=0.05)


@pytest.mark.parametrize("name", SHAPES)
def test_its_texts_never_end(name: str, tmp_path: Path) -> None:
    folder = weights.make(tmp_path / "model", small(name), quantized=False)
    assert AutoConfig.from_pretrained(folder).eos_token_id is None
    assert PreTrainedTokenizerFast.from_pretrained(folder).eos_token_id is None


def test_a_prompt_has_as_many_tokens_as_numbers(tmp_path: Path) -> None:
    folder = weights.make(tmp_path / "model", small("1.5b"), quantized=False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert tokenizer("3 511 0").input_ids == [3, 511, 0]
