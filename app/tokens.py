"""How many tokens a prompt has, counted without torch.

Where a model's files are at hand, its own tokenizer and chat template count exactly. Where they
are not (a hub id, workers on other machines) the count is an upper bound: no tokenizer in use
makes more tokens than the text has UTF-8 bytes, and a template adds a few per message.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from app.catalog import Version
from app.errors import InvalidRequest

_TEMPLATE_TOKENS_PER_MESSAGE = 16
_TEMPLATE_TOKENS = 64

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Count:
    """Prompt tokens; ``exact`` says whether it is the number or a bound above it."""

    tokens: int
    exact: bool


def count(
    version: Version, models_dir: Path, *, prompt: str | None, messages: Messages | None
) -> Count:
    """The tokens of a prompt or of messages; raises InvalidRequest if the template refuses them."""
    if version.engine == "fake":
        return Count(sum(len(text.split()) for text in _texts(prompt, messages)), exact=True)
    folder = version.local_path(models_dir)
    if folder is None or not (folder / "tokenizer.json").is_file():
        return Count(_upper_bound(_texts(prompt, messages)), exact=False)
    counter = _counter(folder)
    if messages is None:
        return Count(counter.of_prompt(prompt or ""), exact=True)
    return Count(counter.of_messages(messages), exact=True)


def _texts(prompt: str | None, messages: Messages | None) -> list[str]:
    return [prompt or ""] if messages is None else [each["content"] for each in messages]


def _upper_bound(texts: list[str]) -> int:
    characters = sum(len(text.encode()) for text in texts)
    return characters + _TEMPLATE_TOKENS + _TEMPLATE_TOKENS_PER_MESSAGE * len(texts)


class Counter:
    """A model's tokenizer and chat template, read from its folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()  # some files keep how the model was trained
        self._tokenizer.no_padding()
        self._config = _config(folder)
        self._template = _template(folder, self._config)

    def of_prompt(self, prompt: str) -> int:
        """Tokens of a text, with those the tokenizer itself puts around it."""
        return len(self._tokenizer.encode(prompt).ids)

    def of_messages(self, messages: Messages) -> int:
        """Tokens of a chat, after its template."""
        if self._template is None:
            raise InvalidRequest("This model has no chat template: use /api/v1/complete.")
        special = {
            name: _token_text(self._config.get(name))
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        }
        try:
            text = self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None, **special
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(f"The model's chat template refuses this: {error}") from error
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=64)
def _counter(folder: Path) -> Counter:
    return Counter(folder)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return config


def _template(folder: Path, config: dict[str, Any]) -> Template | None:
    path = folder / "chat_template.jinja"
    source = path.read_text() if path.is_file() else config.get("chat_template")
    if not isinstance(source, str):
        return None
    # The environment that transformers renders templates in, so that the counts agree.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


class _Generation(Extension):
    """The tag that marks what an assistant said in some templates; it prints what it holds."""

    tags = {"generation"}  # noqa: RUF012  (so in the base class)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _token_text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token or ""


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
