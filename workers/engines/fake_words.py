"""What the fake engine says: a word is a token, and each is as likely as any other."""

import math
import random
from itertools import accumulate, takewhile

from workers.engines.base import FinishReason, Request, Sampling, TokenLogprob

NOUNS = ["queue", "job", "worker", "model", "token", "answer", "lease", "result"]
WORDS = ["a", "the", "every", "waits", "runs", "ends", "and", "then", "with", *NOUNS]
SHORTEST, LONGEST = 8, 64


def prompt_text(request: Request) -> str:
    """The text whose words are the prompt's tokens."""
    if request.messages is None:
        return request.prompt or ""
    return "\n".join(message.content for message in request.messages)


def answer(request: Request, prompt: str, length: int) -> list[str]:
    """``length`` words, 0 for 8 to 64 by prompt and seed."""
    sampling = request.sampling
    greedy = sampling.temperature == 0
    seed = random.random() if sampling.seed is None else sampling.seed
    chance = random.Random(f"{'greedy' if greedy else seed}\n{prompt}")
    return chance.choices(WORDS, k=length or chance.randint(SHORTEST, LONGEST))


def cut(words: list[str], limit: int, sampling: Sampling) -> tuple[list[str], FinishReason]:
    """The words that are generated, the one that completes a stop string included, and why."""
    last = {WORDS[each] for each in sampling.stop_token_ids if each < len(WORDS)}
    words = list(takewhile(lambda word: word not in last, words))
    stop = sampling.stop
    for count, text in enumerate(accumulate(words[:limit], "{} {}".format), start=1):
        if any(each in text for each in stop):
            return words[:count], FinishReason.STOP
        if not stop:
            break
    reason = FinishReason.LENGTH if len(words) > limit else FinishReason.STOP
    return words[:limit], reason


def logprobs(words: list[str]) -> tuple[TokenLogprob, ...]:
    """Of each word the same. Joined, the tokens are the text with its stop string."""
    logprob = -math.log(len(WORDS))
    top = tuple((f" {word}", logprob) for word in WORDS[:5])
    tokens = [f" {word}" if place else word for place, word in enumerate(words)]
    return tuple(TokenLogprob(token, logprob, top) for token in tokens)


def before_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text up to the first stop string in it."""
    found = [at for each in stop if (at := text.find(each)) >= 0]
    return text[: min(found)] if found else text
