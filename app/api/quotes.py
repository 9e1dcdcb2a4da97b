"""What a job would cost, and when it would start, before it is submitted."""

from flask import Blueprint, g

from app.accounts.principal import Principal
from app.api.operations import operation
from app.api.payloads import QuoteDocument
from app.api.refusals import QUOTE_ERRORS
from app.api.services import services
from app.billing.prices import CURRENCY, Usage
from app.billing.tables import Balance
from app.jobs import waiting
from app.jobs.bodies import QuoteBody
from app.jobs.document import PriceDocument, WaitingDocument
from app.jobs.drafts import draft
from app.jobs.submit import Draft
from app.jobs.waiting import Place

blueprint = Blueprint("quotes", __name__)


@operation(
    blueprint,
    "POST",
    "/quote",
    body=QuoteBody,
    answer=QuoteDocument,
    errors=QUOTE_ERRORS,
)
def quote(principal: Principal, body: QuoteBody) -> QuoteDocument:
    """Say what a job would cost at least and at most, whether the credit covers it, and whether and
    when a worker could start it. Nothing is submitted.
    """
    kind, job = body.as_job()
    prepared = draft(
        services().catalog,
        services().settings,
        account_id=principal.account_id,
        kind=kind,
        body=job,
        request_id=g.request_id,
        idempotency=None,
    )
    place = Place(prepared.model, prepared.version, prepared.priority)
    with services().database.transaction() as session:
        balance = session.get_one(Balance, principal.account_id)
        found = waiting.at_the_end(session, [place], services().settings.lease_seconds)
    return _document(prepared, balance.available_micros, found[place])


def _document(prepared: Draft, available_micros: int, waits: WaitingDocument) -> QuoteDocument:
    highest = prepared.hold.amount_micros
    at_most = prepared.at_most
    shortest = Usage(at_most.prompt_tokens if prepared.exact else 0, 0)
    return QuoteDocument(
        model=prepared.model,
        version=prepared.version,
        prompt_tokens=at_most.prompt_tokens,
        prompt_tokens_exact=prepared.exact,
        max_tokens=prepared.parameters["max_tokens"],
        lowest_micros=prepared.price.of(shortest),
        highest_micros=highest,
        currency=CURRENCY,
        price=PriceDocument(
            input_micros_per_million_tokens=prepared.price.input_micros,
            output_micros_per_million_tokens=prepared.price.output_micros,
        ),
        available_micros=available_micros,
        covered=available_micros >= highest,
        servable=waits.reason == "in_queue",
        waiting=waits,
    )
