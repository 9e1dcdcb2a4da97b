"""The OpenAPI 3.1 document, from the operations that serve and the models that validate."""

import json
import re
from functools import cache
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from app.api import sse
from app.api.operations import NATIVE, OPERATIONS, Operation, operation
from app.errors import (
    DatabaseUnavailable,
    GPTQueueError,
    InvalidCredential,
    MissingCredential,
)
from app.openai import errors as openai_errors
from app.openai.errors import ErrorEnvelope

blueprint = Blueprint("openapi", __name__)


class Problem(BaseModel):
    """An error, as RFC 9457 problem details; ``code`` is stable."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None
    errors: list[dict[str, str]] = Field(default=[], description="Each field that is wrong.")


@operation(blueprint, "GET", "/openapi.json", answer=None, public=True)
def openapi() -> Response:
    """Read this document."""
    return Response(_text(), mimetype="application/json")


@cache
def _text() -> str:
    return json.dumps(document())


def document() -> dict[str, Any]:
    """The whole document as JSON types."""
    schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for known in OPERATIONS.values():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", known.path)
        paths.setdefault(path, {})[known.method.lower()] = _operation(known, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GPTQueue",
            "version": "1",
            "description": "Submit generation jobs, poll them, read along or get a webhook; read "
            "the charge. Under /v1 the same with the clients of OpenAI.",
        },
        "tags": [{"name": name} for name in _TAGS],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


# The groups that a reader sees, in their order; what is not here is named by its address.
_TAGS = (
    "jobs",
    "batches",
    "quote",
    "conversations",
    "models",
    "usage",
    "webhooks",
    "status",
    "document",
    "OpenAI",
)
_GROUPS = {
    **dict.fromkeys(("generate", "complete", "chat"), "jobs"),
    **dict.fromkeys(("health", "metrics"), "status"),
    **dict.fromkeys(("openapi.json", "docs"), "document"),
}


def _tag(known: Operation) -> str:
    if known.compatible:
        return "OpenAI"
    first = known.path.removeprefix(f"{NATIVE}/").partition("/")[0]
    return _GROUPS.get(first, first)


def _schemas() -> dict[str, Any]:
    bodies = {each.body for each in OPERATIONS.values() if each.body}
    bodies |= {each.form for each in OPERATIONS.values() if each.form}
    answers = {each.answer for each in OPERATIONS.values() if each.answer}
    answers |= {Problem, ErrorEnvelope}
    _, definitions = models_json_schema(
        [(body, "validation") for body in sorted(bodies, key=_name)]
        + [(answer, "serialization") for answer in sorted(answers, key=_name)],
        ref_template="#/components/schemas/{model}",
    )
    return definitions


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _operation(known: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": known.view.__name__,
        "tags": [_tag(known)],
        "summary": " ".join((known.view.__doc__ or "").split()),
        "responses": _responses(known),
    }
    parameters = _path_parameters(known) + _query_parameters(known) + _header_parameters(known)
    if parameters:
        described["parameters"] = parameters
    if known.body:
        described["requestBody"] = {"required": True, "content": _content(known.body)}
    if known.form:
        content = {"multipart/form-data": {"schema": _reference(known.form)}}
        described["requestBody"] = {"required": True, "content": content}
    if known.public:
        described["security"] = []
    return described


def _responses(known: Operation) -> dict[str, Any]:
    content = {"content": _answers(known)} if _answers(known) else {}
    responses: dict[str, dict[str, Any]] = {
        str(status): {"description": HTTPStatus(status).phrase, **_with(content, status)}
        for status in (known.status, *known.also)
    }
    possible: list[type[GPTQueueError]] = [*known.errors, GPTQueueError]
    if not known.public:
        possible += [MissingCredential, InvalidCredential, DatabaseUnavailable]
    for error in possible:
        status, code, content = _error(known, error)
        responses.setdefault(str(status), {"description": "", "content": content})[
            "description"
        ] += f"`{code}`: {error.__doc__} "
    return responses


def _error(
    known: Operation, error: type[GPTQueueError]
) -> tuple[int, str, dict[str, dict[str, Any]]]:
    """The status, code and content of an error, on the surface of this operation."""
    if known.compatible:
        return openai_errors.status(error), openai_errors.code(error), _content(ErrorEnvelope)
    return error.status, error.code, {"application/problem+json": {"schema": _reference(Problem)}}


def _answers(known: Operation) -> dict[str, Any]:
    content = _content(known.answer) if known.answer else {}
    if known.streams:
        content[sse.MEDIA_TYPE] = {"schema": {"type": "string"}}
    if known.downloads:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _with(content: dict[str, Any], status: int) -> dict[str, Any]:
    return {} if status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED} else content


def _path_parameters(known: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"<(?:\w+:)?(\w+)>", known.path)
    ]


def _query_parameters(known: Operation) -> list[dict[str, Any]]:
    if known.query is None:
        return []
    schema = known.query.model_json_schema()
    return [
        {"name": name, "in": "query", "required": False, "schema": each}
        for name, each in schema["properties"].items()
    ]


def _header_parameters(known: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": {"type": "string"}, "description": text}
        for name, text in known.headers.items()
    ]


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(model)}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
