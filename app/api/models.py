"""What is served, and at which price."""

from flask import Blueprint

from app.accounts.principal import Principal
from app.api.operations import operation
from app.api.payloads import ModelDocument, ModelsDocument
from app.api.services import services
from app.catalog import Model

blueprint = Blueprint("models", __name__)


@operation(blueprint, "GET", "/models", answer=ModelsDocument)
def list_models(principal: Principal) -> ModelsDocument:
    """List the models that jobs can be submitted for."""
    enabled = services().catalog.enabled()
    return ModelsDocument(data=[_document(name, enabled[name]) for name in sorted(enabled)])


def _document(name: str, model: Model) -> ModelDocument:
    return ModelDocument(
        name=name,
        description=model.description,
        version=model.version,
        context_length=model.context_length,
        default_max_tokens=model.default_max_tokens,
        input_micros_per_million_tokens=model.input_price_micros,
        output_micros_per_million_tokens=model.output_price_micros,
    )
