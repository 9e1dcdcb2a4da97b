"""What kinds of requests can be refused for, and the headers that submits and calls read."""

from app import errors

BODY_ERRORS = (
    errors.MalformedRequest,
    errors.InvalidJSON,
    errors.BodyTooLarge,
    errors.NotJSON,
    errors.InvalidRequest,
)
QUOTE_ERRORS = (
    *BODY_ERRORS,
    errors.UnknownModel,
    errors.ContextLengthExceeded,
    errors.WebhookURLRefused,
)
SUBMIT_ERRORS = (*QUOTE_ERRORS, errors.InsufficientCredit, errors.IdempotencyKeyReused)
CALL_ERRORS = (
    *SUBMIT_ERRORS,
    errors.JobCancelled,
    errors.JobExpired,
    errors.JobFailed,
    errors.CallTimedOut,
    errors.ClientGone,
)

SUBMIT_HEADERS = {
    "Idempotency-Key": "The same key with the same request is done once and answered alike."
}
CALL_HEADERS = {
    "Idempotency-Key": "The same key with the same request is done once and answered alike; the "
    "job then goes on if the client is gone."
}
