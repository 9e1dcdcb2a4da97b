"""What a client sent -> a validated model, or an error that says how to put it right."""

from typing import TypeVar
from uuid import UUID

from flask import request
from pydantic import BaseModel, ValidationError

from app.api.services import services
from app.errors import BodyTooLarge, GPTQueueError, NotJSON
from app.validation import refusal

Model = TypeVar("Model", bound=BaseModel)


def body(model: type[Model]) -> Model:
    """The validated body; raises NotJSON, BodyTooLarge, InvalidJSON or InvalidRequest."""
    if not request.is_json:
        raise NotJSON
    sent = request.get_data(cache=True)
    if len(sent) > services().settings.max_body_bytes:
        raise BodyTooLarge
    try:
        return model.model_validate_json(sent)
    except ValidationError as error:
        raise refusal(error, model) from None


def query(model: type[Model]) -> Model:
    """The validated query string; raises InvalidRequest."""
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise refusal(error, model) from None


def identifier(text: str, missing: type[GPTQueueError]) -> UUID:
    """An id of a path; what is none raises ``missing``, since nothing has it."""
    try:
        return UUID(text)
    except ValueError:
        raise missing from None
