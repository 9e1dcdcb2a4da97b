"""Draws one token per row from weights that need not add up to 1."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Sums of blocks say in which block a draw falls: running sums over the vocabulary are slow.
BLOCK = 256
# Candidates that are sorted at first. Rows whose cuts lie beyond sort 32 times as many.
CANDIDATES = 64
FACTOR = 32
# A share closer to 1 counts as this, so that its product with a sum stays below the sum.
LAST = 1 - 1e-12


@dataclass(frozen=True, slots=True)
class Cuts:
    """What is left of each row's distribution; all of the shape (rows,), on one device.

    ``top_k`` int64, 0 where it is off; ``top_p`` float64, 1 where it is off; ``min_p`` float32, 0
    where it is off.
    """

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor

    def of(self, rows: Tensor) -> "Cuts":
        """The cuts of some of the rows."""
        return Cuts(self.top_k[rows], self.top_p[rows], self.min_p[rows])


def draw(weights: Tensor, shares: Tensor, cuts: Cuts, *, cut: Tensor) -> Tensor:
    """A token for each row, (rows,), by the inverse of the cumulative weights.

    ``weights`` float32 (rows, vocabulary), the largest of each row 1; ``shares`` float64 (rows,) in
    [0, 1), the random numbers; ``cut`` the places of the rows with any cut. These come in the order
    of transformers 5: top_k, then top_p as a share of what that left (Holtzman et al. 2020), then
    min_p as a share of the largest weight (Nguyen et al. 2024).
    """
    if len(cut) == len(weights):
        return _from_candidates(weights, shares, cuts)
    tokens = _from_all(weights, shares)
    if len(cut):
        tokens[cut] = _from_candidates(weights[cut], shares[cut], cuts.of(cut))
    return tokens


def _from_all(weights: Tensor, shares: Tensor) -> Tensor:
    blocks = _blocks(weights)
    block, rest = _pick(blocks.sum(-1), shares)
    rows = torch.arange(len(weights), device=weights.device)
    inside, _ = _pick(blocks[rows, block], rest)
    return block * blocks.shape[-1] + inside


def _from_candidates(
    weights: Tensor, shares: Tensor, cuts: Cuts, *, candidates: int = CANDIDATES
) -> Tensor:
    vocabulary = weights.shape[-1]
    count = min(candidates, vocabulary)
    best, tokens = weights.topk(count)
    kept = _kept(best, _blocks(weights).sum(-1).sum(-1, dtype=torch.double), cuts)
    place, _ = _pick(kept, shares)
    chosen = tokens.gather(1, place.unsqueeze(-1)).squeeze(-1)
    beyond = torch.where(cuts.top_k > 0, cuts.top_k > count, kept[:, -1] > 0)
    if count < vocabulary and beyond.any():
        rows = beyond.nonzero().squeeze(-1)
        chosen[rows] = _from_candidates(
            weights[rows], shares[rows], cuts.of(rows), candidates=FACTOR * candidates
        )
    return chosen


def _kept(best: Tensor, totals: Tensor, cuts: Cuts) -> Tensor:
    """The candidates' weights with 0 for those that are cut, float64 (rows, candidates).

    ``best`` (rows, candidates) falls; ``totals`` (rows,) is the sum of all weights.
    """
    ranks = torch.arange(best.shape[-1], device=best.device)
    limited = cuts.top_k > 0
    left = (best * (~limited.unsqueeze(-1) | (ranks < cuts.top_k.unsqueeze(-1)))).double()
    sums = left.cumsum(-1)
    wanted = cuts.top_p * torch.where(limited, sums[:, -1], totals)
    inside = (sums - left < wanted.unsqueeze(-1)) & (best >= cuts.min_p.unsqueeze(-1))
    return left * inside


def _pick(weights: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's running sum passes its share of the sum, and how far into that weight.

    ``weights`` (rows, places), ``shares`` (rows,); a weight of 0 is never picked.
    """
    sums = weights.cumsum(-1, dtype=torch.double)
    targets = shares.clamp(max=LAST).unsqueeze(-1) * sums[:, -1:]
    place = (sums <= targets).sum(-1, keepdim=True).clamp(max=sums.shape[-1] - 1)
    weight = weights.gather(1, place).double()
    before = sums.gather(1, place) - weight
    return place.squeeze(-1), ((targets - before) / weight).clamp(0, LAST).squeeze(-1)


def _blocks(values: Tensor) -> Tensor:
    """A view of the shape (rows, blocks, size); the size divides the vocabulary."""
    return values.reshape(len(values), -1, math.gcd(values.shape[-1], BLOCK))
