"""How the next token of every row is chosen, for all rows of a step together.

Requests sit in slots, and each row of logits belongs to a slot. Greedy rows without penalties need
only the place of their largest logit. For the others the order is that of transformers 5:
penalties, temperature, top_k, top_p, min_p; then one random number draws the token.
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.engines.base import Sampling
from workers.engines.devices import sent
from workers.engines.drawing import Cuts, draw
from workers.engines.native.wire import Ids, Logprobs
from workers.engines.penalties import Penalties
from workers.engines.uniform import uniform

# How many of the likeliest tokens are told with their log-probabilities.
TOP = 5
SEEDS = 1 << 64
# By such a temperature any difference is divided to infinity, and nothing is divided by zero.
COLDEST = float(np.finfo(np.float32).tiny)
PARAMETERS = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("min_p", np.float32),
        ("seed", np.uint64),
        ("penalized", np.bool_),
        ("logprobs", np.bool_),
    ]
)

# Places of rows in a step, or numbers of slots.
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The next token of each row, (rows,); -1 where the logits have no finite maximum.

    ``logprobs`` has one token each of the rows that asked, by row; of the logits as they came,
    before penalties, temperature and cuts.
    """

    tokens: NDArray[np.int32]
    logprobs: dict[int, Logprobs] = field(default_factory=dict)


class Choice:
    """What a step chooses, which a GPU may still have to work out."""

    def __init__(self, tokens: Tensor, asked: Places, logprobs: "_Told | None") -> None:
        self._tokens, self._asked, self._logprobs = _home(tokens), asked, logprobs
        self._done: torch.cuda.Event | None = None
        if tokens.is_cuda:
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def known(self) -> Chosen:
        """Wait for it."""
        if self._done is not None:
            self._done.synchronize()
        told = {} if self._logprobs is None else self._logprobs.by_row(self._asked)
        return Chosen(self._tokens.numpy(), told)


@dataclass(frozen=True, slots=True)
class _Told:
    """Log-probabilities of some rows: of the chosen (asked, 1), and the best (asked, TOP)."""

    chosen: Tensor
    top_ids: Tensor
    top: Tensor

    def by_row(self, rows: Places) -> dict[int, Logprobs]:
        """As Chosen has them; ``rows`` (asked,) are their places in the step."""
        chosen, top_ids, top = (each.numpy() for each in (self.chosen, self.top_ids, self.top))
        return {
            row: Logprobs(chosen=chosen[at], top_ids=top_ids[at : at + 1], top=top[at : at + 1])
            for at, row in enumerate(rows.tolist())
        }


@dataclass(frozen=True, slots=True)
class _Group:
    """What a step has to do beyond looking for the largest logits, for as long as its slots stay.

    ``step`` has the slot of each row, ``on_device`` too, ``asked`` the rows that want
    log-probabilities. The others are about the adjusted rows: their places in the step here
    (``places``) and on the device (``rows``), their slots and parameters, all (adjusted,); ``cut``
    and ``penalized`` are places among these.
    """

    step: Places
    on_device: Tensor
    asked: Places
    places: Places
    rows: Tensor
    slots: Tensor
    seeds: NDArray[np.uint64]
    random: Tensor
    draws: bool
    temperature: Tensor
    cuts: Cuts
    cut: Tensor
    penalized: Tensor
    penalized_slots: Places


class Sampler:
    """Chooses tokens for the requests that were admitted into its slots.

    It never differentiates, and its callers need not say so: tensors that were made in inference
    mode cannot be changed outside of it.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        """``vocabulary`` is the number of logits in a row; ``device`` is where they are."""
        self._device = device
        # The token that each slot was given last, (slots,) int32: there before the host knows it.
        self.newest = torch.zeros(slots, dtype=torch.int32, device=device)
        self._given = np.zeros(slots, dtype=PARAMETERS)
        self._penalties = Penalties(slots, vocabulary, device)
        self._group: _Group | None = None

    @torch.inference_mode()
    def admit(self, slot: int, sampling: Sampling, prompt: Ids) -> None:
        """A request begins in this slot, which is free; ``prompt`` (tokens,) is its ids.

        The slot is its own until ``release``, also while a preemption keeps it from the steps.
        Without a seed it gets a fresh one.
        """
        penalized = _penalized(sampling)
        self._given[slot] = (
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            secrets.randbits(64) if sampling.seed is None else sampling.seed % SEEDS,
            penalized,
            sampling.logprobs,
        )
        self._group = None
        if penalized:
            self._penalties.admit(slot, sampling, prompt)

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """The request in this slot is over."""
        if self._given["penalized"][slot]:
            self._penalties.release(slot)

    @torch.inference_mode()
    def choose(
        self, logits: Tensor, slots: Ids, positions: Ids, *, told: Tensor | None = None
    ) -> Choice:
        """The next token of each row, also in ``newest``; from now on it counts for the penalties.

        ``logits`` (rows, vocabulary) of any floating type are left as they are; ``slots`` (rows,)
        names none twice; ``positions`` (rows,) is each token's place in its answer, the first 0.
        With a seed, the same logits give the same token beside any other rows. ``told``, of the
        same shape, are those whose log-probabilities are told, None for the same.
        """
        group = self._grouped(slots)
        adjusted = len(group.places)
        if adjusted == len(slots):
            tokens = self._adjusted(logits.to(torch.float32, copy=True), group, positions)
        else:
            tokens = _valid(logits.max(-1))
            if adjusted:
                scores = logits[group.rows].float()
                tokens[group.rows] = self._adjusted(scores, group, positions)
        told = logits if told is None else told
        logprobs = _logprobs(told, tokens, group.asked) if len(group.asked) else None
        tokens = tokens.int()
        # A token that there is not, because its logits are no numbers, must not be looked up.
        self.newest[group.on_device] = tokens.clamp(min=0)
        choice = Choice(tokens, group.asked, logprobs)
        # Last: a step that finds no memory above is taken again, and must not count twice.
        if len(group.penalized_slots):
            counted = tokens[group.rows][group.penalized].long()
            self._penalties.count(group.penalized_slots, group.slots[group.penalized], counted)
        return choice

    def _adjusted(self, scores: Tensor, group: _Group, positions: Ids) -> Tensor:
        """The tokens of the adjusted rows; ``scores`` float32 (adjusted, vocabulary) are spent."""
        if len(group.penalized_slots):
            self._penalties.apply(scores, group.slots)
        best = scores.max(-1)
        tokens = _valid(best)
        if group.draws:
            # The largest score is taken off first, so that a low temperature overflows nowhere.
            scores.sub_(best.values.unsqueeze(-1)).div_(group.temperature.unsqueeze(-1))
            shares = self._sent(uniform(group.seeds, positions[group.places]))
            drawn = draw(scores.exp_(), shares, group.cuts, cut=group.cut)
            tokens = torch.where(group.random & (tokens >= 0), drawn, tokens)
        return tokens

    def _grouped(self, slots: Ids) -> _Group:
        """Worked out, and sent to the device, only when the slots or their requests change."""
        if self._group is None or not np.array_equal(self._group.step, slots):
            self._group = self._new_group(slots.astype(np.int64))
        return self._group

    def _new_group(self, step: Places) -> _Group:
        given = self._given[step]
        places = np.flatnonzero((given["temperature"] > 0) | given["penalized"])
        own = given[places]
        slots = step[places]
        return _Group(
            step=step,
            on_device=self._sent(step),
            asked=np.flatnonzero(given["logprobs"]),
            places=places,
            rows=self._sent(places),
            slots=self._sent(slots),
            seeds=own["seed"],
            random=self._sent(own["temperature"] > 0),
            draws=bool((own["temperature"] > 0).any()),
            temperature=self._sent(np.maximum(own["temperature"], COLDEST)),
            cuts=Cuts(
                top_k=self._sent(own["top_k"]),
                top_p=self._sent(own["top_p"]),
                min_p=self._sent(own["min_p"]),
            ),
            cut=self._sent(np.flatnonzero(_cut(own))),
            penalized=self._sent(np.flatnonzero(own["penalized"])),
            penalized_slots=slots[own["penalized"]],
        )

    def _sent(self, values: NDArray[Any]) -> Tensor:
        return sent(values, self._device)


def _penalized(sampling: Sampling) -> bool:
    added = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
    return added or sampling.repetition_penalty != 1


def _cut(given: NDArray[Any]) -> NDArray[np.bool_]:
    cut: NDArray[np.bool_] = (given["top_k"] > 0) | (given["top_p"] < 1) | (given["min_p"] > 0)
    return cut


def _valid(best: torch.return_types.max) -> Tensor:
    # Of all reductions over a row of bfloat16 on the CPU this is the fastest that knows the place,
    # and a NaN or an infinity anywhere in the row shows in it.
    return torch.where(best.values.isfinite(), best.indices, -1)


def _logprobs(logits: Tensor, tokens: Tensor, asked: Places) -> _Told:
    rows = sent(asked, logits.device)
    scores = logits[rows].float()
    total = scores.logsumexp(-1, keepdim=True)
    best, best_ids = scores.topk(min(TOP, scores.shape[-1]))
    own = scores.gather(1, tokens[rows].clamp(min=0).unsqueeze(-1))
    return _Told(_home(own - total), _home(best_ids.int()), _home(best - total))


def _home(values: Tensor) -> Tensor:
    """A copy for the host, which does not wait for it: see Choice."""
    if not values.is_cuda:
        return values
    home = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return home.copy_(values, non_blocking=True)
