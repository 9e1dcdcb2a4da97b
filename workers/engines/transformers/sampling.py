"""How the next token of every row is chosen from the logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engines.base import Sampling

# Nearly all probability lies in the first tokens: sorting these few is enough for most top_p.
NUCLEUS = 512


class Sampler:
    """The choices of one row: its own parameters, random numbers and tokens seen."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        """``prompt`` is the token ids that the repetition penalty counts as seen."""
        self.sampling = sampling
        self.greedy = sampling.temperature == 0
        self._seen = torch.tensor(sorted(set(prompt)), dtype=torch.long)
        # Uniform numbers come from the CPU on every device, so a seed means the same everywhere.
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def penalize(self, logits: Tensor) -> None:
        """Push seen tokens down, in place (CTRL, Keskar et al. 2019, section 4.1).

        ``logits`` has the shape (vocabulary,).
        """
        penalty = self.sampling.repetition_penalty
        if penalty != 1:
            seen = self._seen.to(logits.device)
            scores = logits[seen]
            logits[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)

    def draw(self, logits: Tensor) -> int:
        """A token from the distribution that temperature, top_k and top_p leave."""
        # The largest logit is taken off first, so that a tiny temperature overflows nowhere.
        probabilities = torch.softmax((logits - logits.max()) / self.sampling.temperature, dim=-1)
        weights, tokens = _candidates(probabilities, self.sampling)
        cumulative = weights.double().cumsum(0)
        uniform = torch.rand((), generator=self._random, dtype=torch.double)
        target = uniform.to(cumulative.device) * cumulative[-1]
        place = int(torch.searchsorted(cumulative, target, right=True))
        place = min(place, len(cumulative) - 1)
        return place if tokens is None else int(tokens[place])

    def saw(self, token: int) -> None:
        """Note a generated token for the repetition penalty."""
        if self.sampling.repetition_penalty != 1:
            self._seen = torch.unique(torch.cat([self._seen, torch.tensor([token])]))


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of every row; None where the logits are not numbers.

    ``logits`` has the shape (rows, vocabulary) and is changed in place.
    """
    for row, sampler in zip(logits, samplers, strict=True):
        sampler.penalize(row)
    best, tokens = logits.max(dim=-1)
    chosen: list[int | None] = tokens.tolist()
    for index, valid in enumerate(torch.isfinite(best).tolist()):
        if not valid:
            chosen[index] = None
        elif not samplers[index].greedy:
            chosen[index] = samplers[index].draw(logits[index])
    return chosen


def _candidates(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Weights and ids of the tokens that may be drawn; ids None means the whole vocabulary."""
    vocabulary = len(probabilities)
    if sampling.top_k:
        weights, tokens = probabilities.topk(min(sampling.top_k, vocabulary))
        return _nucleus(weights, sampling.top_p, weights.sum()), tokens
    if sampling.top_p >= 1:
        return probabilities, None
    weights, tokens = probabilities.topk(min(NUCLEUS, vocabulary))
    if weights.sum() < sampling.top_p:
        weights, tokens = probabilities.sort(descending=True)
    return _nucleus(weights, sampling.top_p, probabilities.sum()), tokens


def _nucleus(weights: Tensor, top_p: float, total: Tensor) -> Tensor:
    """The fewest leading weights whose sum reaches ``top_p`` of ``total`` (Holtzman et al. 2020).

    ``weights`` has the shape (candidates,) and falls; at least one stays.
    """
    before = weights.cumsum(0) - weights
    kept = int((before < top_p * total).sum())
    return weights[: max(kept, 1)]
