"""Which models there are."""

from flask import Blueprint

from app import errors
from app.accounts.principal import Principal
from app.api.operations import COMPATIBLE, operation
from app.api.services import services
from app.catalog import Model
from app.openai.answers import ModelEntry, ModelList

blueprint = Blueprint("openai_models", __name__, url_prefix=COMPATIBLE)


@operation(blueprint, "GET", "/models", answer=ModelList)
def openai_models(principal: Principal) -> ModelList:
    """List the models that calls can name."""
    enabled = services().catalog.enabled()
    return ModelList(data=[_entry(name, model) for name, model in enabled.items()])


@operation(blueprint, "GET", "/models/<name>", answer=ModelEntry, errors=(errors.UnknownModel,))
def openai_model(principal: Principal, name: str) -> ModelEntry:
    """Read one of them."""
    return _entry(name, services().catalog.served(name))


def _entry(name: str, model: Model) -> ModelEntry:
    return ModelEntry(id=name, context_length=model.context_length)
