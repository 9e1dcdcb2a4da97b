"""What pydantic refuses -> an error that says how to put it right."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import GPTQueueError, InvalidJSON, InvalidRequest

_MOST_ERRORS = 20  # a megabyte of unknown fields is answered briefly
_UNION = re.compile(r".[\[(]|^constrained-")
_MOST_SAID = 3  # of them in the one sentence


Model = TypeVar("Model", bound=BaseModel)


def made(model: type[Model], fields: dict[str, Any]) -> Model:
    """A body put together from another, whose own limits may be wider; raises InvalidRequest."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise refusal(error, model) from None


def refusal(error: ValidationError, model: type[BaseModel]) -> GPTQueueError:
    """Each field and what is wrong with it; never the value, which a client may not want back."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return InvalidJSON(f"The body is not valid JSON: {found[0]['msg']}.")
    problems = [_problem(each, model) for each in found[:_MOST_ERRORS]]
    said = [f"{each['field']}: {each['message']}" for each in problems[:_MOST_SAID]]
    return InvalidRequest("; ".join(said), errors=problems)


def named(place: Sequence[str | int]) -> str:
    """Where something is wrong, as its sender knows it: without the names that pydantic has for the
    members of a union, and as PostgreSQL can store it.
    """
    parts = [str(part)[:100] for part in place if not _is_of_union(part)]
    return ".".join(parts).replace("\x00", "\ufffd")


def _is_of_union(part: str | int) -> bool:
    return isinstance(part, str) and (part == "str" or bool(_UNION.search(part)))


def _problem(error: Any, model: type[BaseModel]) -> dict[str, str]:
    place = named(error["loc"]) or "body"
    if error["type"] != "extra_forbidden":
        return {"field": place, "message": error["msg"].removeprefix("Value error, ")}
    meant = get_close_matches(place, model.model_fields, n=1)
    hint = f"; did you mean {meant[0]}?" if meant else ""
    return {"field": place, "message": f"There is no such field{hint}"}
