"""LoRA adapters in the native engine, beside peft's own."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.errors import ModelLoadFailed
from tests.integration import lora, tiny
from tests.integration.loops import CONTEXT, job, prompts, run
from workers.engines.native.adapters import Base
from workers.engines.native.building import assemble
from workers.engines.native.loop import Loop
from workers.engines.native.lora import read

VOCABULARY = len(tiny.tokenizer())
NAMES = [None, "wide", "narrow"]

# peft asks transformers for what it is to call otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two adapters of the tiny Llama."""
    return made(tmp_path, tiny.llama)


def made(folder: Path, family: Any) -> dict[str, Path]:
    return {
        "wide": lora.saved(folder / "wide", family(), seed=1, **lora.WIDE),
        "narrow": lora.saved(folder / "narrow", family(), seed=2, **lora.NARROW),
    }


def loop(model: Any, folders: dict[str, Path], *, blocks: int = 48) -> Loop:
    """A loop over a tiny model with adapters."""
    made = assemble(
        model, tiny.tokenizer(), context_length=CONTEXT, slots=6, blocks=blocks, adapters=folders
    )
    made._scheduler.budget = 30
    return made


class Watched:
    """Keeps the logits from which a loop's sampler chooses, by key."""

    def __init__(self, made: Loop) -> None:
        self._made, self._choose = made, made._sampler.choose
        made._sampler.choose = self
        self.logits: dict[int, list[Tensor]] = {}

    def __call__(self, logits: Tensor, slots: Any, *more: Any, **others: Any) -> Any:
        for row, key in zip(logits, self._made._slots.keys[slots].tolist(), strict=True):
            self.logits.setdefault(key, []).append(row.clone())
        return self._choose(logits, slots, *more, **others)


@torch.inference_mode()
def along(model: Any, adapter: str | None, prompt: list[int], answer: list[int]) -> Tensor:
    """peft's logits (tokens + 1, vocabulary) for each token of an answer and the one after it."""
    if adapter:
        model.set_adapter(adapter)
    with nullcontext() if adapter else model.disable_adapter():
        return model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 :]


@pytest.mark.parametrize("family", [tiny.llama, tiny.qwen2, tiny.gemma3])
def test_rows_of_the_base_and_of_several_adapters_share_steps_and_get_what_peft_gives_them_alone(
    family: Any, tmp_path: Path
) -> None:
    folders = made(tmp_path, family)
    asked = prompts(20, VOCABULARY)
    mixed = loop(family(), folders, blocks=9)
    watched = Watched(mixed)
    jobs = [
        job(number, prompt, limit, adapter=number % 3)
        for number, (prompt, limit) in enumerate(asked)
    ]
    heard = run(mixed, jobs)
    peft = lora.oracle(family(), folders)
    for number, (prompt, limit) in enumerate(asked):
        answer = heard.tokens.get(number, [])
        ours = torch.stack(watched.logits[number])
        theirs = along(peft, NAMES[number % 3], prompt, answer)[: len(ours)]
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max(), number
        ended = [] if len(answer) == limit else [0]
        assert theirs.argmax(-1).tolist() == answer + ended
    assert mixed.stats().preemptions > 0


def test_requests_with_the_same_beginning_share_it_only_where_their_adapter_is_the_same(
    folders: dict[str, Path],
) -> None:
    made = loop(tiny.llama(), folders)
    prompt = range(1, 41)
    computed = []
    for key, adapter in enumerate([0, 1, 2, 1, 0, 2]):
        before = made.stats().prefill_tokens
        run(made, [job(key, prompt, 1, adapter=adapter)])
        computed.append(made.stats().prefill_tokens - before)
    assert computed == [40, 40, 40, 8, 8, 8]


def test_a_step_without_adapters_says_so_and_one_with_some_which_tokens_are_theirs(
    folders: dict[str, Path],
) -> None:
    made = loop(tiny.llama(), folders)
    batches, keys, compute = [], [], made._runner.run

    def seen(batch: Any, newest: Tensor) -> Tensor:
        batches.append(batch)
        keys.append(made._slots.keys[batch.slots].tolist())
        return compute(batch, newest)

    made._runner.run = seen
    for key, adapter in enumerate([2, 0, 1, 2]):
        made.submit(job(key, [5] * (key + 2), 1 + (adapter == 0), adapter=adapter))
    while made.busy:
        made.step()
    first, second = batches
    assert first.adapters.tolist() == [0, 1, 2, 2]
    assert first.adapted == [(1, slice(3, 7)), (2, slice(7, 14))]
    assert keys[0] == [1, 2, 0, 3]  # each group in order of arrival
    assert second.adapted == []


def test_an_adapter_that_cannot_be_served_is_refused_and_the_others_and_the_base_are_served(
    folders: dict[str, Path],
) -> None:
    model = tiny.llama()
    (folders["wide"] / "adapter_model.safetensors").write_bytes(b"x" * 100)
    made = loop(model, folders)
    assert list(made.refused) == ["wide"]
    heard = run(made, [job(1, [5, 6, 7], 3), job(2, [5, 6, 7], 3, adapter=2)])
    peft = lora.oracle(tiny.llama(), {"narrow": folders["narrow"]})
    for key, name in ((1, None), (2, "narrow")):
        theirs = along(peft, name, [5, 6, 7], heard.tokens[key])
        assert theirs.argmax(-1).tolist()[:3] == heard.tokens[key]


def edited(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "It is a DoRA adapter, and only plain LoRA is served."),
        ({"bias": "lora_only"}, "It was trained with bias = 'lora_only', which is not served."),
        ({"modules_to_save": ["lm_head"]}, "It was trained with modules_to_save = ['lm_head']"),
        ({"target_modules": ["q_proj", "lm_head"]}, "It changes base_model.model.lm_head.lora_A"),
        ({"init_lora_weights": "pissa"}, "It changes its base's own weights, too (pissa)."),
    ],
)
def test_an_adapter_that_does_more_than_plain_lora_is_refused(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    model = tiny.llama()
    lora.saved(tmp_path, model, **{"target_modules": ["q_proj"], **settings})
    assert refusal(tmp_path).startswith(reason)


def test_settings_that_nobody_thought_of_refuse_their_own_adapter_only(
    folders: dict[str, Path],
) -> None:
    edited(folders["wide"], auto_mapping="x")
    assert loop(tiny.llama(), folders).refused == {"wide": "It cannot be read: AttributeError."}


def refusal(folder: Path) -> str:
    """Why the tiny Llama takes no such adapter."""
    with pytest.raises(ModelLoadFailed) as refused:
        read(folder, Base.of(tiny.llama()))
    return refused.value.message


def test_settings_that_are_newer_than_this_peft_are_refused_once_they_have_a_value(
    folders: dict[str, Path],
) -> None:
    edited(folders["wide"], use_magic=None)
    assert read(folders["wide"], Base.of(tiny.llama()))
    edited(folders["wide"], use_magic=True)
    assert refusal(folders["wide"]) == (
        "It was trained with use_magic = True, which is not served."
    )


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = LoHaConfig(target_modules=["q_proj"])
    lora.written(tmp_path, tiny.llama(), config)
    assert refusal(tmp_path) == "It is no LoRA adapter, but one of the kind LOHA."


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            {"hidden_size": 32},
            "its model.layers.0.mlp.up_proj goes from 32 to 96, and that of this one from 64 to 96",
        ),
        ({"num_hidden_layers": 4}, "this one has no model.layers.3.mlp.up_proj"),
    ],
)
def test_an_adapter_of_another_base_is_refused_by_its_sizes(
    other: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    lora.saved(tmp_path, tiny.llama(**other), target_modules=["up_proj"])
    edited(tmp_path, base_model_name_or_path="somebody/other")
    assert refusal(tmp_path) == f"It is an adapter of another base, somebody/other: {reason}."


def test_an_adapter_of_another_base_is_refused_by_the_kind_of_model_that_it_names(
    tmp_path: Path,
) -> None:
    """Mistral 7B and Llama 3 8B, say, have the same sizes."""
    lora.saved(tmp_path, tiny.mistral(), target_modules=["q_proj"], task_type=None)
    assert refusal(tmp_path) == (
        "It is an adapter of another base: it was made for a MistralForCausalLM, and this is a "
        "LlamaForCausalLM."
    )


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("adapter_model.safetensors", b"{" * 64, "Its adapter_model.safetensors cannot be read: "),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors."),
        ("adapter_config.json", b"{", "Its adapter_config.json cannot be read: JSONDecodeError"),
        ("adapter_config.json", b"[]", "Its adapter_config.json cannot be read: "),
        ("adapter_config.json", None, "has no adapter_config.json."),
    ],
)
def test_files_that_are_broken_or_not_there_are_named(
    file: str, content: bytes | None, reason: str, folders: dict[str, Path]
) -> None:
    path = folders["wide"] / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert reason in refusal(folders["wide"])


def test_a_half_of_a_matrix_or_another_rank_than_the_settings_say_is_refused(
    folders: dict[str, Path],
) -> None:
    edited(folders["narrow"], r=8)
    assert "has another rank than its adapter_config.json says" in refusal(folders["narrow"])
    path = folders["narrow"] / "adapter_model.safetensors"
    _, *others = load_file(path).items()
    save_file(dict(others), path)
    assert "has no two matrices for model.layers.0" in refusal(folders["narrow"])


def test_a_folder_that_is_not_there_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    assert refusal(tmp_path / "some" / "name") == (
        f"The folder {tmp_path / 'some' / 'name'} does not exist."
    )
