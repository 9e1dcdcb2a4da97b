"""Finds the server and the model in it, before any job is claimed."""

from http import HTTPStatus
from typing import Any

from app.catalog import Version
from app.config import Settings
from app.errors import ModelLoadFailed
from workers.engines.base import Publisher, nowhere
from workers.engines.openai.engine import OpenAIEngine
from workers.engines.openai.link import Link, Server, ServerAway, ServerBroke, body

PATIENCE_SECONDS = 10.0


def load(
    version: Version, *, context_length: int, settings: Settings, publish: Publisher = nowhere
) -> OpenAIEngine:
    """The engine for the server that ``version`` names; raises ModelLoadFailed saying why not."""
    server = Server(version.source, settings.openai_api_key)
    model = _choose(_models(server), version.served_name)
    # The first is what vLLM and SGLang say, the second llama.cpp.
    longest = model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx")
    if isinstance(longest, int) and longest < context_length:
        raise ModelLoadFailed(
            f"The catalog promises {context_length} tokens of context; the server has {longest}."
        )
    return OpenAIEngine(server, model=model["id"], slots=settings.engine_slots, publish=publish)


def _models(server: Server) -> dict[str, dict[str, Any]]:
    """The server's models by name."""
    link = Link(server)
    try:
        link.connect()
        response = link.ask("GET", "models", patience=PATIENCE_SECONDS)
        said = body(response)
    except (ServerAway, ServerBroke) as error:
        raise ModelLoadFailed(str(error)) from error
    finally:
        link.close()
    if response.status != HTTPStatus.OK:
        hint = "; see GPTQUEUE_OPENAI_API_KEY" if response.status == HTTPStatus.UNAUTHORIZED else ""
        raise ModelLoadFailed(f"{server.url} answers {response.status} to /models{hint}.")
    try:
        return {model["id"]: model for model in said["data"]}
    except (KeyError, TypeError) as error:
        raise ModelLoadFailed(f"{server.url} does not list its models as OpenAI's API.") from error


def _choose(models: dict[str, dict[str, Any]], name: str | None) -> dict[str, Any]:
    names = ", ".join(sorted(models)) or "none"
    if name is None:
        if len(models) != 1:
            raise ModelLoadFailed(f"Set served_name to one of the server's models: {names}.")
        return next(iter(models.values()))
    if name not in models:
        raise ModelLoadFailed(f"The server has no model {name!r}; its models: {names}.")
    return models[name]
