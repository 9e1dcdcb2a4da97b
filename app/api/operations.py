"""One decorator for every route: authenticate, validate, call, render.

What it is told (the pydantic models of body, query and answer) both validates requests and
becomes the OpenAPI document; so the two cannot differ. Written by hand because the kept libraries
(spectree, flask-openapi3) parse bodies leniently and answer with errors of their own form.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from flask import Blueprint, Response, request
from pydantic import BaseModel, ValidationError

from app.api.services import services
from app.errors import (
    BodyTooLarge,
    GPTQueueError,
    InvalidJSON,
    InvalidRequest,
    NotJSON,
)

Model = TypeVar("Model", bound=BaseModel)
View = Callable[..., BaseModel | Response]

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_MOST_ERRORS = 20  # a megabyte of unknown fields is answered briefly


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the OpenAPI document says of one route."""

    method: str
    path: str
    view: View
    answer: type[BaseModel] | None
    status: int
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    headers: Mapping[str, str]
    public: bool
    also: tuple[int, ...]
    errors: tuple[type[GPTQueueError], ...]


OPERATIONS: dict[str, Operation] = {}


def operation(
    blueprint: Blueprint,
    method: str,
    path: str,
    *,
    answer: type[BaseModel] | None,
    status: int = 200,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    headers: Mapping[str, str] = _NO_HEADERS,
    public: bool = False,
    also: tuple[int, ...] = (),
    errors: tuple[type[GPTQueueError], ...] = (),
) -> Callable[[View], View]:
    """Register a view. It is called with ``principal`` unless public, ``body`` and ``query`` if
    declared, and the variables of the path. ``headers`` says what those do that it reads itself;
    ``also`` names other statuses with the same answer.
    """

    def register(view: View) -> View:
        known = Operation(
            method=method,
            path=path,
            view=view,
            answer=answer,
            status=status,
            body=body,
            query=query,
            headers=headers,
            public=public,
            also=also,
            errors=errors,
        )
        name = view.__name__
        OPERATIONS[f"{blueprint.name}.{name}"] = known

        def handle(**path_variables: str) -> Response:
            return _handle(known, path_variables)

        blueprint.add_url_rule(path, endpoint=name, view_func=handle, methods=[method])
        return view

    return register


def _handle(known: Operation, path_variables: dict[str, str]) -> Response:
    arguments: dict[str, Any] = dict(path_variables)
    if not known.public:
        header = request.headers.get("Authorization", "")
        arguments["principal"] = services().authenticator.authenticate(header)
    if known.body is not None:
        arguments["body"] = parse_body(known.body)
    if known.query is not None:
        arguments["query"] = _parse_query(known.query)
    answer = known.view(**arguments)
    if isinstance(answer, Response):
        return answer
    return Response(answer.model_dump_json(), status=known.status, mimetype="application/json")


def parse_body(model: type[Model]) -> Model:
    """The validated body; raises NotJSON, BodyTooLarge, InvalidJSON or InvalidRequest."""
    if not request.is_json:
        raise NotJSON
    body = request.get_data(cache=True)
    if len(body) > services().settings.max_body_bytes:
        raise BodyTooLarge
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _parse_query(model: type[Model]) -> Model:
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> GPTQueueError:
    """Each field and what is wrong with it; never the value, which a client may not want back."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return InvalidJSON(f"The body is not valid JSON: {found[0]['msg']}.")
    problems = [
        {"field": ".".join(str(part) for part in each["loc"]) or "body", "message": each["msg"]}
        for each in found[:_MOST_ERRORS]
    ]
    first = problems[0]
    return InvalidRequest(f"{first['field']}: {first['message']}", errors=problems)
