"""Log-probabilities in the two forms that OpenAI's API has for them."""

from itertools import accumulate

from app.jobs.document import Document, JobDocument, LogprobDocument, TokenDocument


class TopLogprob(Document):
    """A token, its natural log-probability, and its bytes in UTF-8."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Document):
    """Of each token of a chat's answer."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(Document):
    """Of each token of a text; ``text_offset`` is where it begins, in characters of the answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def of_chat(job: JobDocument, top: int) -> ChatLogprobs | None:
    """With ``top`` likeliest tokens each; None where they were not asked for."""
    found = _found(job)
    if found is None:
        return None
    return ChatLogprobs(content=[_token(each, top) for each in found])


def of_completion(job: JobDocument, top: int) -> CompletionLogprobs | None:
    """The same, as columns."""
    found = _found(job)
    if found is None:
        return None
    tokens = [each.token for each in found]
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[each.logprob for each in found],
        top_logprobs=[{other.token: other.logprob for other in each.top[:top]} for each in found],
        text_offset=list(accumulate(map(len, tokens), initial=0))[: len(tokens)],
    )


def _found(job: JobDocument) -> list[LogprobDocument] | None:
    return job.output.logprobs if job.output else None


def _token(found: LogprobDocument, top: int) -> TokenLogprob:
    shown = _shown(found)
    return TokenLogprob(
        **shown.model_dump(), top_logprobs=[_shown(each) for each in found.top[:top]]
    )


def _shown(found: TokenDocument) -> TopLogprob:
    # Half a character has no bytes of its own in our text; its place holder's are no use.
    return TopLogprob(token=found.token, logprob=found.logprob, bytes=list(found.token.encode()))
