"""Our errors in OpenAI's form: its SDK raises its own exception classes, with code and param."""

from http import HTTPStatus

from pydantic import BaseModel

from app import errors
from app.errors import GPTQueueError

# Where the status of OpenAI's API for such a thing is another than ours.
_STATUS: dict[type[GPTQueueError], int] = {
    errors.InvalidRequest: 400,
    errors.UnknownModel: 404,
    errors.ContextLengthExceeded: 400,
    errors.WebhookURLRefused: 400,
    errors.IdempotencyKeyReused: 409,
    errors.InsufficientCredit: 429,
}
_CODES: dict[type[GPTQueueError], str] = {
    errors.UnknownModel: "model_not_found",
    errors.InvalidCredential: "invalid_api_key",
    errors.MissingCredential: "invalid_api_key",
    errors.InsufficientCredit: "insufficient_quota",
}
_PARAMS: dict[type[GPTQueueError], str] = {
    errors.UnknownModel: "model",
    errors.ContextLengthExceeded: "messages",
    errors.WebhookURLRefused: "webhook_url",
    errors.FileNotFound: "file_id",
    errors.FileInUse: "file_id",
    errors.BatchNotFound: "batch_id",
    errors.BatchEnded: "batch_id",
}
_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "insufficient_quota",
}


class ErrorDetail(BaseModel):
    """What went wrong; ``param`` names the parameter at fault, if it is one."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """An error, as OpenAI's API writes it."""

    error: ErrorDetail


def status(error: type[GPTQueueError]) -> int:
    """The HTTP status under /v1."""
    return _STATUS.get(error, error.status)


def code(error: type[GPTQueueError]) -> str:
    """The code under /v1."""
    return _CODES.get(error, error.code)


def envelope(error: GPTQueueError) -> ErrorEnvelope:
    """The error as a body."""
    number = status(type(error))
    kind = "server_error" if number >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return ErrorEnvelope(
        error=ErrorDetail(
            message=error.message,
            type=_TYPES.get(number, kind),
            param=_param(error),
            code=code(type(error)),
        )
    )


def _param(error: GPTQueueError) -> str | None:
    wrong = error.details.get("errors")
    if isinstance(wrong, list) and wrong:
        field = str(wrong[0]["field"])
        return None if field == "body" else field
    return _PARAMS.get(type(error))
