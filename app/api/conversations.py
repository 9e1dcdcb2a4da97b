"""Conversations: list, read, delete; and what was said before, put in front of a chat."""

from uuid import UUID

from flask import Blueprint, Response

from app import errors, tokens
from app.accounts.principal import Principal
from app.api.operations import operation
from app.api.payloads import (
    ConversationDocument,
    ConversationsDocument,
    ConversationsQuery,
    PageQuery,
    TurnDocument,
    TurnsDocument,
)
from app.api.services import Services, services
from app.catalog import Model
from app.jobs import conversations
from app.jobs.bodies import ChatBody, MessageBody
from app.jobs.conversations import Messages

blueprint = Blueprint("conversations", __name__)

_MISSING = (errors.ConversationNotFound,)


@operation(
    blueprint,
    "GET",
    "/conversations",
    query=ConversationsQuery,
    answer=ConversationsDocument,
    errors=(errors.InvalidRequest,),
)
def list_conversations(principal: Principal, query: ConversationsQuery) -> ConversationsDocument:
    """List the account's conversations, those begun last first."""
    with services().database.transaction() as session:
        found, more = conversations.page(
            session, principal.account_id, after=query.after, limit=query.limit
        )
    data = [
        ConversationDocument(
            id=each.name, created=each.created, last_active=each.last_active, jobs=each.jobs
        )
        for each in found
    ]
    return ConversationsDocument(data=data, has_more=more, next=data[-1].id if more else None)


@operation(
    blueprint,
    "GET",
    "/conversations/<conversation>",
    query=PageQuery,
    answer=TurnsDocument,
    errors=(*_MISSING, errors.InvalidRequest),
)
def read_conversation(principal: Principal, conversation: str, query: PageQuery) -> TurnsDocument:
    """Read a conversation's turns in their order, also those that no longer fit into a prompt."""
    with services().database.transaction() as session:
        found, more = conversations.turns(
            session, principal.account_id, _name(conversation), after=query.after, limit=query.limit
        )
    data = [
        TurnDocument(
            job_id=each.job_id,
            status=each.status,
            created=each.created,
            messages=each.messages,
            answer=each.answer,
        )
        for each in found
    ]
    return TurnsDocument(data=data, has_more=more, next=data[-1].job_id if more else None)


@operation(
    blueprint,
    "DELETE",
    "/conversations/<conversation>",
    answer=None,
    status=204,
    errors=(*_MISSING, errors.JobStillRuns),
)
def delete_conversation(principal: Principal, conversation: str) -> Response:
    """Delete a conversation with its texts. Its jobs stay, with their tokens and charges."""
    account_id: UUID = principal.account_id
    with services().database.transaction() as session:
        conversations.check_ended(session, account_id, _name(conversation))
    more = True
    while more:
        with services().database.transaction() as session:
            more = conversations.delete_some(session, account_id, conversation)
    return Response(status=204)


def _name(conversation: str) -> str:
    """A name in an address; raises ConversationNotFound for what no conversation is called."""
    if not conversation.isprintable():
        raise errors.ConversationNotFound
    return conversation


def with_history(principal: Principal, body: ChatBody) -> tuple[ChatBody, dict[str, int]]:
    """The chat with what was said before in its conversation, as far as that fits; and what its job
    is to remember. Raises UnknownModel or InvalidRequest.
    """
    if body.conversation_id is None:
        return body, {}
    with services().database.transaction() as session:
        before = conversations.history(session, principal.account_id, body.conversation_id)
    new = [{"role": each.role, "content": each.content} for each in body.messages]
    messages = _fitting(services(), body, before, new=new)
    own = {conversations.NEW: len(new)}
    turns = [MessageBody.model_validate(each) for each in messages]
    return body.model_copy(update={"messages": turns}), own


def _fitting(parts: Services, body: ChatBody, before: Messages, *, new: Messages) -> Messages:
    """Without the oldest turns, so that there is room for an answer; system messages stay."""
    model = parts.catalog.served(body.model)
    lasting = [each for each in before if each["role"] == "system"]
    passing = [each for each in before if each["role"] != "system"]
    room = model.context_length - _answer_tokens(model, body)
    # Templates want questions and answers in turn, the question first.
    cuts = [place for place, each in enumerate(passing) if each["role"] == "user"]
    cuts.append(len(passing))
    low, high = 0, len(cuts) - 1
    while low < high:  # the first that fits: later ones never make the prompt longer
        middle = (low + high) // 2
        if _count(parts, model, [*lasting, *passing[cuts[middle] :], *new]) <= room:
            high = middle
        else:
            low = middle + 1
    return [*lasting, *passing[cuts[low] :], *new]


def _answer_tokens(model: Model, body: ChatBody) -> int:
    return body.max_tokens or min(model.default_max_tokens, model.context_length // 2)


def _count(parts: Services, model: Model, messages: Messages) -> int:
    version = parts.catalog.running(model)
    return tokens.count(version, parts.settings.models_dir, prompt=None, messages=messages).tokens
