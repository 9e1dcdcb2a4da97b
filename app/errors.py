"""One tree of errors. Each class is a condition; its docstring is the message a client reads.

``code`` never changes once published; ``status`` is the HTTP status of RFC 9457 problem details.
The mapping to HTTP is rendered in ``app.api.problems`` and nowhere else.
"""

from typing import ClassVar


class GPTQueueError(Exception):
    """Something went wrong on our side; it has been recorded."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retry_after_seconds: ClassVar[int | None] = None

    def __init__(self, message: str | None = None, **details: object) -> None:
        """``message`` replaces the docstring; ``details`` become members of the problem."""
        self.message = message or (type(self).__doc__ or "").strip()
        self.details = details
        super().__init__(self.message)


class MissingCredential(GPTQueueError):
    """This needs an API key: send the header "Authorization: Bearer gq_..."."""

    code, status = "missing_credential", 401


class InvalidCredential(GPTQueueError):
    """This API key is not valid: mistyped, unknown or revoked."""

    code, status = "invalid_credential", 401


class InsufficientCredit(GPTQueueError):
    """The account's available credit does not cover the most this job can cost."""

    code, status = "insufficient_credit", 402


class JobNotFound(GPTQueueError):
    """There is no such job in this account."""

    code, status = "job_not_found", 404


class WebhookEndpointNotFound(GPTQueueError):
    """There is no such webhook endpoint in this account."""

    code, status = "webhook_endpoint_not_found", 404


class WebhookDeliveryNotFound(GPTQueueError):
    """There is no such webhook delivery in this account."""

    code, status = "webhook_delivery_not_found", 404


class WebhookEndpointLimit(GPTQueueError):
    """This account has as many webhook endpoints as it may have."""

    code, status = "webhook_endpoint_limit", 409


class WebhookEndpointDisabled(GPTQueueError):
    """Nothing is sent to this webhook endpoint while it is disabled."""

    code, status = "webhook_endpoint_disabled", 409


class WebhookDeliveryPending(GPTQueueError):
    """This webhook delivery has not ended: it is sent anyway."""

    code, status = "webhook_delivery_pending", 409


class FileNotFound(GPTQueueError):
    """There is no such file in this account."""

    code, status = "file_not_found", 404


class FileInUse(GPTQueueError):
    """A batch that has not ended still reads this file."""

    code, status = "file_in_use", 409


class BatchNotFound(GPTQueueError):
    """There is no such batch in this account."""

    code, status = "batch_not_found", 404


class BatchEnded(GPTQueueError):
    """A batch that has ended, or whose lines all have, cannot be cancelled."""

    code, status = "batch_ended", 409


class RouteNotFound(GPTQueueError):
    """There is nothing at this address."""

    code, status = "route_not_found", 404


class MethodNotAllowed(GPTQueueError):
    """This address does not answer to this method."""

    code, status = "method_not_allowed", 405


class BodyTooLarge(GPTQueueError):
    """The request body is too large."""

    code, status = "body_too_large", 413


class NotJSON(GPTQueueError):
    """The body must be JSON, sent with "Content-Type: application/json"."""

    code, status = "not_json", 415


class NotMultipart(GPTQueueError):
    """A file is sent as "multipart/form-data", in a part named "file"."""

    code, status = "not_multipart", 415


class InvalidJSON(GPTQueueError):
    """The body is not valid JSON."""

    code, status = "invalid_json", 400


class MalformedRequest(GPTQueueError):
    """The request cannot be understood."""

    code, status = "malformed_request", 400


class InvalidRequest(GPTQueueError):
    """The request is not valid; "errors" names each field and what is wrong with it."""

    code, status = "invalid_request", 422


class UnknownModel(GPTQueueError):
    """This model is not served here; "known_models" lists those that are."""

    code, status = "unknown_model", 422


class ContextLengthExceeded(GPTQueueError):
    """The prompt, with the tokens asked for, does not fit into the model's context."""

    code, status = "context_length_exceeded", 422


class WebhookURLRefused(GPTQueueError):
    """Webhooks are not sent to this address."""

    code, status = "webhook_url_refused", 422


class IdempotencyKeyReused(GPTQueueError):
    """This Idempotency-Key was used before with a different request."""

    code, status = "idempotency_key_reused", 422


class DatabaseUnavailable(GPTQueueError):
    """The database cannot be reached. Try again, with the same Idempotency-Key."""

    code, status, retry_after_seconds = "database_unavailable", 503, 5


class JobSetNotFound(GPTQueueError):
    """There is no such batch of jobs in this account."""

    code, status = "job_batch_not_found", 404


class ConversationNotFound(GPTQueueError):
    """There is no such conversation in this account."""

    code, status = "conversation_not_found", 404


class UpgradeRequired(GPTQueueError):
    """This address is a WebSocket: ask for it with "Upgrade: websocket"."""

    code, status = "upgrade_required", 426


class JobStillRuns(GPTQueueError):
    """The job has not ended; cancel it, or wait."""

    code, status = "job_still_runs", 409


class ResponseNotFound(GPTQueueError):
    """There is no such response in this account."""

    code, status = "response_not_found", 404


class JobCancelled(GPTQueueError):
    """The job was cancelled."""

    code, status = "job_cancelled", 409


class JobExpired(GPTQueueError):
    """The job did not end before its deadline."""

    code, status = "job_expired", 504


class JobFailed(GPTQueueError):
    """The job failed; it is free."""

    code, status = "job_failed", 500


class StreamInterrupted(GPTQueueError):
    """The job had to begin again, and says something else now; read it when it has ended."""

    code, status = "stream_interrupted", 500


class CallTimedOut(GPTQueueError):
    """The call took too long; its job goes on and can be asked for."""

    code, status = "call_timed_out", 504


class ClientGone(GPTQueueError):
    """The client closed its connection; its job was cancelled."""

    code, status = "client_gone", 499


class LeaseLost(GPTQueueError):
    """Another attempt owns this job now; what this one produced is discarded."""

    code, status = "lease_lost", 409


class EngineFailed(GPTQueueError):
    """The engine failed while it worked on this job."""

    code, status = "engine_failed", 500


class EngineClosed(EngineFailed):
    """The engine was stopped before this job was done; another worker takes it over."""

    code = "engine_closed"


class EngineLost(EngineFailed):
    """The engine died while it worked on this job; the job is started again."""

    code = "engine_lost"


class ModelLoadFailed(GPTQueueError):
    """The model could not be loaded."""

    code, status = "model_load_failed", 500


class UnknownArchitecture(ModelLoadFailed):
    """The native engine does not know this kind of model; another engine may."""

    code = "unknown_architecture"
