"""A validated body -> a draft of a job: model and version chosen, tokens counted, price taken."""

from uuid import UUID

from app import tokens
from app.billing.prices import Price, Usage
from app.catalog import Catalog, Model
from app.config import Settings
from app.errors import ContextLengthExceeded
from app.jobs.bodies import ChatBody, JobBody, PromptBody
from app.jobs.submit import Draft, Idempotency
from app.tokens import Count, Messages
from app.webhooks import addresses


def draft(
    catalog: Catalog,
    settings: Settings,
    *,
    account_id: UUID,
    kind: str,
    body: JobBody,
    request_id: str,
    idempotency: Idempotency | None,
    of_a_batch: bool = False,
) -> Draft:
    """Check what only the catalog, the tokenizer and the resolver know, and put a job together;
    ``of_a_batch`` is the price.

    Raises UnknownModel, ContextLengthExceeded, WebhookURLRefused or InvalidRequest.
    """
    model = catalog.served(body.model)
    if body.webhook_url is not None:
        addresses.check(body.webhook_url, settings)
    prompt, messages = _content(kind, body)
    counted = tokens.count(
        catalog.running(model),
        settings.models_dir,
        prompt=prompt,
        messages=messages,
    )
    max_tokens = _max_tokens(model, body.max_tokens, counted)
    price = Price(model.input_price_micros, model.output_price_micros)
    if of_a_batch:
        price = price.percent(model.batch_price_percent)
    return Draft(
        account_id=account_id,
        kind=kind,
        model=body.model,
        version=model.version,
        price=price,
        at_most=_at_most(model, price, prompt_tokens=counted.tokens, max_tokens=max_tokens),
        parameters={"max_tokens": max_tokens, **body.parameters()},
        prompt=prompt,
        messages=messages,
        metadata=body.metadata,
        webhook_url=body.webhook_url,
        priority=body.priority,
        deadline_seconds=body.deadline_seconds or settings.default_deadline_seconds,
        request_id=request_id,
        idempotency=idempotency,
        exact=counted.exact,
        conversation=body.conversation_id if isinstance(body, ChatBody) else None,
    )


def _content(kind: str, body: JobBody) -> tuple[str | None, Messages | None]:
    if isinstance(body, ChatBody):
        return None, [{"role": each.role, "content": each.content} for each in body.messages]
    assert isinstance(body, PromptBody)
    if kind == "complete":
        return body.prompt, None
    return None, [{"role": "user", "content": body.prompt}]


def _max_tokens(model: Model, wanted: int | None, prompt: Count) -> int:
    """Completion tokens at most. A bound that is not exact refuses nothing that might fit."""
    room = model.context_length - prompt.tokens
    if prompt.exact and room < (wanted or 1):
        raise ContextLengthExceeded(
            f"The prompt has {prompt.tokens} tokens and asks for {wanted or 'at least 1'} more; "
            f"the model's context has {model.context_length}.",
            prompt_tokens=prompt.tokens,
            max_tokens=wanted,
            context_length=model.context_length,
        )
    if wanted is not None:
        return min(wanted, model.context_length - 1)
    return min(model.default_max_tokens, room) if prompt.exact else model.default_max_tokens


def _at_most(model: Model, price: Price, *, prompt_tokens: int, max_tokens: int) -> Usage:
    """The dearest use that fits into the context; matters where the count is only a bound."""
    read = min(prompt_tokens, model.context_length - 1)
    written = min(max_tokens, model.context_length - 1)
    long_prompt = Usage(read, min(written, model.context_length - read))
    long_answer = Usage(min(read, model.context_length - written), written)
    return max(long_prompt, long_answer, key=price.of)
