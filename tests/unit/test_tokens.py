"""Counting prompts: exactly, where a model's files are at hand, and never too few where not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from app import tokens
from app.catalog import Version
from app.errors import InvalidRequest
from app.tokens import Messages

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TEMPLATES = {
    "chatml": CHATML,
    "special tokens": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{{ eos_token }}{% endfor %}",
    "indented blocks": "{% for m in messages %}\n    {% if m.role == 'user' %}\n  {{ m.content }}\n"
    "    {% else %}\n{{ m.content | upper }}\n    {% endif %}\n{% endfor %}\n",
    "break and continue": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}"
    "{% endif %}{{ m.content }}{% break %}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2, ensure_ascii=True) }}",
    "generation tag": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "optional arguments": "{% if tools %}tools{% endif %}{{ messages[0].content }}"
    "{% if documents is none %} none{% endif %}{{ undefined_thing }}",
    "strftime": "{{ strftime_now('%Y') }}{{ messages[-1]['content'] }}",
}
CHATS: list[Messages] = [
    [{"role": "user", "content": "hello"}],
    [
        {"role": "system", "content": "be  brief \n"},
        {"role": "user", "content": "<|im_end|> the \N{SNOWMAN} <script>&'\""},
        {"role": "assistant", "content": "\t\U0001f600 the the the the queue "},
        {"role": "user", "content": "and then? {{ 7 * 7 }} {% raw %}"},
    ],
]
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]

Made = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Made:
    """Write a small byte-level tokenizer, as a model's folder holds it."""

    def write(template: str | None = None, *, in_config: bool = False) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        _tokenizer().save(str(folder / "tokenizer.json"))
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": {"content": "<s>", "special": True, "__type": "AddedToken"},
            "eos_token": "</s>",
        }
        if template and in_config:
            config["chat_template"] = template
        elif template:
            (folder / "chat_template.jinja").write_text(template)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    return write


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the queue holds the job and then the worker"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    return tokenizer


def _count(
    folder: Path, *, prompt: str | None = None, messages: Messages | None = None
) -> tokens.Count:
    version = Version(source=folder.name)
    return tokens.count(version, folder.parent, prompt=prompt, messages=messages)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("in_config", [False, True])
def test_a_chat_is_counted_as_transformers_encodes_it(
    make: Made, template: str, in_config: bool
) -> None:
    folder = make(template, in_config=in_config)
    reference = AutoTokenizer.from_pretrained(folder)
    for chat in CHATS:
        ids = reference.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert _count(folder, messages=chat) == tokens.Count(len(ids), exact=True)


def test_a_prompt_is_counted_as_transformers_encodes_it(make: Made) -> None:
    folder = make()
    reference = AutoTokenizer.from_pretrained(folder)
    for prompt in ("a", "the queue", "<|im_end|>", "\U0001f600\n" * 100, "the " * 1000):
        ids = reference(prompt).input_ids
        assert _count(folder, prompt=prompt) == tokens.Count(len(ids), exact=True)


def test_a_model_without_a_chat_template_takes_no_chat(make: Made) -> None:
    folder = make()
    with pytest.raises(InvalidRequest, match="/api/v1/complete"):
        _count(folder, messages=CHATS[0])
    assert _count(folder, prompt="hello").exact


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[7].content.upper() }}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_messages_that_a_template_cannot_take_are_the_clients_mistake(
    make: Made, template: str
) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        _count(make(template), messages=CHATS[0])


def test_what_a_template_says_is_told(make: Made) -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        _count(make("{{ raise_exception('roles must alternate') }}"), messages=CHATS[0])


@pytest.mark.parametrize("messages", CHATS)
def test_without_the_models_files_a_chat_is_counted_too_high_not_too_low(
    make: Made, messages: Messages
) -> None:
    exact = _count(make(CHATML), messages=messages)
    bound = tokens.count(Version(source="some/hub-id"), Path(), prompt=None, messages=messages)
    assert not bound.exact
    assert bound.tokens >= exact.tokens


_SHARED = _tokenizer()


@given(st.text())
@example("\U0001f600" * 200)
def test_without_the_models_files_a_prompt_is_counted_too_high_not_too_low(prompt: str) -> None:
    _SHARED.no_truncation()
    _SHARED.no_padding()
    bound = tokens.count(Version(source="some/hub-id"), Path(), prompt=prompt, messages=None)
    assert not bound.exact
    assert bound.tokens >= len(_SHARED.encode(prompt).ids)


def test_a_folder_without_a_tokenizer_is_counted_like_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert not _count(tmp_path / "model", prompt="hello").exact


def test_the_fake_engine_counts_words() -> None:
    fake = Version(source="fake:", engine="fake")
    assert tokens.count(fake, Path(), prompt=" a  b\nc ", messages=None) == tokens.Count(3, True)
    chat = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    assert tokens.count(fake, Path(), prompt=None, messages=chat) == tokens.Count(3, True)
