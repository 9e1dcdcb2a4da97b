"""The answer to a submit: 202, and where to read what was accepted."""

from flask import Response

from app.jobs.document import JobDocument
from app.jobs.sets import SetDocument


def accepted(document: JobDocument | SetDocument, *, replayed: bool) -> Response:
    """``replayed``: an equal earlier request, with the same Idempotency-Key, made it."""
    response = Response(document.model_dump_json(), status=202, mimetype="application/json")
    response.headers["Location"] = document.urls.get
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response
