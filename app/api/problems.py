"""Errors as RFC 9457 problem details; the only place where they become HTTP."""

import json

from flask import Flask, Response, g
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)

from app import errors
from app.errors import GPTQueueError

MEDIA_TYPE = "application/problem+json"


def install(app: Flask) -> None:
    """Render every exception that leaves a view."""
    app.register_error_handler(GPTQueueError, _known)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(InternalServerError, _unknown)


def _known(error: GPTQueueError) -> Response:
    problem = {
        "type": f"urn:gptqueue:error:{error.code}",
        "title": (type(error).__doc__ or "").split("\n")[0].strip(),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "request_id": g.get("request_id"),
        **error.details,
    }
    response = Response(json.dumps(problem), status=error.status, mimetype=MEDIA_TYPE)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="gptqueue"'
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
