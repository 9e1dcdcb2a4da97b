"""What every call can be refused for, and the headers it reads."""

from app import errors

CALL_HEADERS = {
    "Idempotency-Key": "The same key with the same request is done once and answered alike; the "
    "job then goes on if the client is gone.",
}
CALL_ERRORS = (
    errors.MalformedRequest,
    errors.InvalidJSON,
    errors.InsufficientCredit,
    errors.BodyTooLarge,
    errors.NotJSON,
    errors.InvalidRequest,
    errors.UnknownModel,
    errors.ContextLengthExceeded,
    errors.WebhookURLRefused,
    errors.IdempotencyKeyReused,
    errors.JobCancelled,
    errors.JobExpired,
    errors.JobFailed,
    errors.CallTimedOut,
    errors.ClientGone,
)
