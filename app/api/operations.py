"""One decorator for every route: authenticate, validate, call, render.

What it is told (the pydantic models of body, query and answer) both validates requests and
becomes the OpenAPI document; so the two cannot differ. Written by hand because the kept libraries
(spectree, flask-openapi3) parse bodies leniently and answer with errors of their own form.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Response, request
from pydantic import BaseModel

from app.api import parsing
from app.api.services import services
from app.errors import GPTQueueError

View = Callable[..., BaseModel | Response]

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the OpenAPI document says of one route."""

    method: str
    path: str  # from the root
    view: View
    answer: type[BaseModel] | None
    streams: bool
    status: int
    body: type[BaseModel] | None
    form: type[BaseModel] | None
    downloads: bool
    query: type[BaseModel] | None
    headers: Mapping[str, str]
    public: bool
    also: tuple[int, ...]
    errors: tuple[type[GPTQueueError], ...]

    @property
    def compatible(self) -> bool:
        """Whether it is of OpenAI's surface."""
        return self.path.startswith(f"{COMPATIBLE}/")


NATIVE, COMPATIBLE = "/api/v1", "/v1"  # our own surface, and OpenAI's
OPERATIONS: dict[str, Operation] = {}


def operation(
    blueprint: Blueprint,
    method: str,
    path: str,
    *,
    answer: type[BaseModel] | None,
    streams: bool = False,
    status: int = 200,
    body: type[BaseModel] | None = None,
    form: type[BaseModel] | None = None,
    downloads: bool = False,
    query: type[BaseModel] | None = None,
    headers: Mapping[str, str] = _NO_HEADERS,
    public: bool = False,
    also: tuple[int, ...] = (),
    errors: tuple[type[GPTQueueError], ...] = (),
) -> Callable[[View], View]:
    """Register a view. It is called with ``principal`` unless public, ``body`` and ``query`` if
    declared, and the variables of the path. ``headers`` says what those do that it reads itself,
    as it does a ``form`` (multipart); ``also`` names other statuses with the same answer;
    ``streams`` says that it can be server-sent events, ``downloads`` that it is bytes.
    """

    def register(view: View) -> View:
        known = Operation(
            method=method,
            path=(blueprint.url_prefix or NATIVE) + path,
            view=view,
            answer=answer,
            streams=streams,
            status=status,
            body=body,
            form=form,
            downloads=downloads,
            query=query,
            headers=headers,
            public=public,
            also=also,
            errors=errors,
        )
        name = view.__name__
        OPERATIONS[f"{blueprint.name}.{name}"] = known

        handle = partial(_handle, known)
        blueprint.add_url_rule(path, endpoint=name, view_func=handle, methods=[method])
        if status == HTTPStatus.SWITCHING_PROTOCOLS:  # Werkzeug takes those by rules of their own
            blueprint.add_url_rule(path, endpoint=name, view_func=handle, websocket=True)
        return view

    return register


def _handle(known: Operation, /, **path_variables: str) -> Response:
    arguments: dict[str, Any] = dict(path_variables)
    if not known.public:
        header = request.headers.get("Authorization", "")
        arguments["principal"] = services().authenticator.authenticate(header)
    if known.body is not None:
        arguments["body"] = parsing.body(known.body)
    if known.query is not None:
        arguments["query"] = parsing.query(known.query)
    answer = known.view(**arguments)
    if isinstance(answer, Response):
        return answer
    return Response(answer.model_dump_json(), status=known.status, mimetype="application/json")
