"""Errors as RFC 9457 problem details, or under /v1 as OpenAI's; nowhere else they become HTTP."""

import json
from http import HTTPStatus

from flask import Flask, Response, g, request
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)

from app import errors
from app.api.operations import COMPATIBLE
from app.errors import GPTQueueError
from app.openai import errors as openai_errors

MEDIA_TYPE = "application/problem+json"


def install(app: Flask) -> None:
    """Render every exception that leaves a view."""
    app.register_error_handler(GPTQueueError, _known)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(InternalServerError, _unknown)


def _known(error: GPTQueueError) -> Response:
    compatible = request.path.startswith(f"{COMPATIBLE}/")
    response = _envelope(error) if compatible else _problem(error)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="gptqueue"'
    return response


def _problem(error: GPTQueueError) -> Response:
    problem = {
        "type": f"urn:gptqueue:error:{error.code}",
        "title": (type(error).__doc__ or "").split("\n")[0].strip(),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "request_id": g.get("request_id"),
        **error.details,
    }
    return Response(json.dumps(problem), status=error.status, mimetype=MEDIA_TYPE)


def _envelope(error: GPTQueueError) -> Response:
    response = Response(
        openai_errors.envelope(error).model_dump_json(),
        status=openai_errors.status(type(error)),
        mimetype="application/json",
    )
    # The SDK repeats calls by itself after 409, 429 and 5xx. Where the first may have made a job,
    # or another would fare no better, that must not be: a job would be done and paid twice.
    response.headers["X-Should-Retry"] = "false"
    return response


def _http(error: HTTPException) -> Response:
    if isinstance(error, NotFound):
        return _known(errors.RouteNotFound())
    if isinstance(error, RequestEntityTooLarge):
        return _known(errors.BodyTooLarge())
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        response = _known(errors.MethodNotAllowed(allowed=allowed))
        response.headers["Allow"] = ", ".join(allowed)
        return response
    return _known(errors.MalformedRequest(error.description))


def _unknown(error: InternalServerError) -> Response:
    # Flask has logged the traceback and told Sentry by now; the client never sees it.
    return _known(GPTQueueError())
