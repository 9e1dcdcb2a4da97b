"""The sampler against distributions that are worked out here, token by token."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workers.engines.base import Sampling
from workers.engines.drawing import CANDIDATES, FACTOR
from workers.engines.sampling import Chosen, Sampler
from workers.engines.uniform import uniform

DRAWS = 6000
VOCABULARY = 40
LOGITS = np.random.default_rng(5).normal(0, 2, VOCABULARY).tolist()
PROMPT, ANSWER = [3, 7, 7, 11], [int(np.argmax(LOGITS)), 5, 5, 5, 7]
PENALTIES = {"repetition_penalty": 1.4, "presence_penalty": 0.6, "frequency_penalty": 0.3}

PARAMETERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.9},
    {"top_k": 6},
    {"top_k": 1000},
    {"top_p": 0.7},
    {"top_p": 0.05},
    {"min_p": 0.08},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.7},
    {"presence_penalty": 1.2},
    {"presence_penalty": -1.2},
    {"frequency_penalty": 0.9},
    {"top_k": 8, "top_p": 0.8},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.85, "min_p": 0.1},
    {"temperature": 0.7, "top_p": 0.9, "min_p": 0.02},
    PENALTIES,
    {**PENALTIES, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
]


def sampler(samplings: Sequence[Sampling], vocabulary: int = VOCABULARY) -> Sampler:
    """One slot for each; all have the same prompt and have chosen the same tokens."""
    made = Sampler(len(samplings), vocabulary, torch.device("cpu"))
    for slot, sampling in enumerate(samplings):
        made.admit(slot, sampling, np.array(PROMPT))
    slots = np.arange(len(samplings))
    for position, token in enumerate(ANSWER):
        only = torch.full((len(samplings), vocabulary), -math.inf)
        only[:, token] = 1
        chosen = made.choose(only, slots, np.full(len(slots), position)).known()
        assert set(chosen.tokens.tolist()) == {token}
    return made


def choose(logits: Any, *samplings: Sampling, position: int = 0) -> Chosen:
    """One step of new requests, whose rows of logits are in order."""
    rows = torch.as_tensor(logits)
    made = sampler(samplings, rows.shape[-1])
    return step(made, rows, range(len(rows)), position)


def step(made: Sampler, logits: torch.Tensor, slots: Iterable[int], position: int) -> Chosen:
    """One step of these slots, all at the same position."""
    rows = np.array(slots, np.int32)
    return made.choose(logits, rows, np.full(len(rows), position, np.int32)).known()


def draws(logits: Sequence[float], count: int = DRAWS, **parameters: Any) -> NDArray[np.int32]:
    """Tokens of one distribution: half of them by one seed, half by neighbouring seeds."""
    half = count // 2
    seeds = [1] * half + list(range(half))
    positions = np.array([*range(half), *[0] * half])
    made = sampler([Sampling(seed=seed, **parameters) for seed in seeds], len(logits))
    rows = torch.tensor(logits).expand(count, -1)
    return made.choose(rows, np.arange(count), positions).known().tokens


def expected(logits: Sequence[float], sampling: Sampling) -> list[float]:
    """The probability of each token, by the words of base.Sampling."""
    scores = list(logits)
    for token in {*PROMPT, *ANSWER}:
        penalty = sampling.repetition_penalty
        scores[token] *= penalty if scores[token] < 0 else 1 / penalty
    for token in set(ANSWER):
        scores[token] -= sampling.presence_penalty
        scores[token] -= sampling.frequency_penalty * ANSWER.count(token)
    likely = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    weights = {token: math.exp(scores[token] / sampling.temperature) for token in likely}
    weights = dict(list(weights.items())[: sampling.top_k or None])
    total, before = sum(weights.values()), 0.0
    for token, weight in list(weights.items()):
        if before >= sampling.top_p * total or weight < sampling.min_p * weights[likely[0]]:
            del weights[token]
        before += weight
    total = sum(weights.values())
    return [weights.get(token, 0) / total for token in range(len(scores))]


def surprise(tokens: NDArray[np.int32], probabilities: Sequence[float]) -> float:
    """Pearson's chi-square of the draws in units of its critical value at 0.001: below 1 is good.

    Tokens that are expected fewer than five times are taken together. The critical value is Wilson
    and Hilferty's (1931).
    """
    counts = np.bincount(tokens, minlength=len(probabilities))
    assert not counts[np.array(probabilities) == 0].any(), "drew what must be cut"
    wanted = np.array(probabilities) * len(tokens)
    rare = wanted < 5
    found = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    if not freedom:
        return 0
    square = ((found - wanted) ** 2 / wanted).sum()
    spread = 2 / (9 * freedom)
    return float(square / (freedom * (1 - spread + 3.09 * math.sqrt(spread)) ** 3))


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_draws_follow_the_distribution_that_the_parameters_describe(
    parameters: dict[str, Any],
) -> None:
    wanted = expected(LOGITS, Sampling(**parameters))
    assert surprise(draws(LOGITS, **parameters), wanted) < 1


@pytest.mark.parametrize(
    "parameters",
    # transformers has no presence and frequency penalty.
    [each for each in PARAMETERS if not {"presence_penalty", "frequency_penalty"} & each.keys()],
    ids=str,
)
def test_the_distribution_is_that_of_transformers(parameters: dict[str, Any]) -> None:
    sampling = Sampling(**parameters)
    steps = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
            TemperatureLogitsWarper(sampling.temperature),
            TopKLogitsWarper(sampling.top_k or VOCABULARY),
            TopPLogitsWarper(sampling.top_p),
            MinPLogitsWarper(sampling.min_p),
        ]
    )
    scores = steps(torch.tensor([PROMPT + ANSWER]), torch.tensor([LOGITS]))
    wanted = expected(LOGITS, sampling)
    assert scores.softmax(-1)[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_wrong_distribution_would_be_seen() -> None:
    nearly = expected(LOGITS, Sampling(temperature=1.1))
    assert surprise(draws(LOGITS), nearly) > 1


@pytest.mark.parametrize(
    "parameters", [{}, {"top_p": 0.9}, {"top_k": 2 * CANDIDATES}, {"min_p": 0.1}], ids=str
)
def test_a_flat_distribution_reaches_beyond_the_first_candidates(
    parameters: dict[str, Any],
) -> None:
    flat = np.random.default_rng(6).normal(0, 0.3, 3 * CANDIDATES).tolist()
    wanted = expected(flat, Sampling(**parameters))
    assert sum(share > 0 for share in wanted) > CANDIDATES
    assert surprise(draws(flat, **parameters), wanted) < 1


def test_a_nucleus_may_be_most_of_a_large_vocabulary() -> None:
    vocabulary = 2 * FACTOR * CANDIDATES
    tokens = draws(list(np.linspace(0, 0.1, vocabulary)), 300, top_p=0.98)
    assert tokens.min() < 0.1 * vocabulary
    assert tokens.max() > 0.9 * vocabulary


@pytest.mark.parametrize("vocabulary", [1, 7, 64, 50257])
def test_a_vocabulary_may_have_any_size(vocabulary: int) -> None:
    logits = torch.zeros(2, vocabulary)
    logits[:, -1] = 100
    chosen = choose_first(logits, Sampling(seed=1), Sampling(seed=1, top_p=0.5, logprobs=True))
    assert chosen.tokens.tolist() == [vocabulary - 1] * 2
    assert chosen.logprobs[1].top.shape == (1, min(5, vocabulary))


def choose_first(logits: torch.Tensor, *samplings: Sampling) -> Chosen:
    """One step of requests with prompts of the token 0."""
    made = Sampler(len(samplings), logits.shape[-1], torch.device("cpu"))
    for slot, sampling in enumerate(samplings):
        made.admit(slot, sampling, np.array([0]))
    return step(made, logits, range(len(logits)), 0)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    assert choose([LOGITS], Sampling(temperature=0)).tokens.tolist() == [np.argmax(LOGITS)]


def test_a_tiny_temperature_overflows_nowhere() -> None:
    rows = [[1000.0, 999.0] * 20] * 2
    chosen = choose(rows, Sampling(temperature=1e-6), Sampling(temperature=1e-45, top_p=0.9))
    assert set((chosen.tokens % 2).tolist()) == {0}


def test_the_repetition_penalty_pushes_down_on_both_sides_of_zero() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    assert choose_first(torch.tensor([[4.0, 3.0]]), sampling).tokens.tolist() == [1]
    assert choose_first(torch.tensor([[-2.0, -3.0]]), sampling).tokens.tolist() == [1]


def test_what_was_chosen_counts_for_the_penalties_of_its_slot_alone() -> None:
    made = sampler([Sampling(temperature=0, frequency_penalty=1.0), Sampling(temperature=0)])
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 0], logits[:, 1], logits[:, 2] = 3.5, 2.0, 1.2
    steps = [step(made, logits, [0, 1], n).tokens for n in range(6)]
    assert [first for first, _ in steps] == [0, 0, 1, 0, 2, 1]
    assert [second for _, second in steps] == [0] * 6


def test_it_may_be_used_in_inference_mode_and_outside_of_it() -> None:
    made = sampler([Sampling(temperature=0, presence_penalty=9.0)])
    with torch.inference_mode():
        made.admit(0, Sampling(temperature=0, presence_penalty=9.0), np.arange(200))
        step(made, torch.zeros(1, VOCABULARY), [0], 0)
    made.release(0)
    made.admit(0, Sampling(temperature=0, presence_penalty=9.0), np.arange(VOCABULARY))
    assert step(made, torch.zeros(1, VOCABULARY), [0], 0).tokens.tolist() == [0]


def test_more_tokens_than_there_was_room_for_are_counted() -> None:
    vocabulary = 300
    made = Sampler(1, vocabulary, torch.device("cpu"))
    made.admit(0, Sampling(temperature=0, presence_penalty=50.0), np.array([1, vocabulary + 5]))
    logits = torch.linspace(1, 0, vocabulary).unsqueeze(0)
    steps = [int(step(made, logits, [0], n).tokens[0]) for n in range(vocabulary)]
    assert steps == list(range(vocabulary))
    assert step(made, logits, [0], vocabulary).tokens.tolist() == [0]


def test_a_request_that_pauses_goes_on_as_if_it_had_not() -> None:
    logits = torch.randn(40, 1, VOCABULARY, generator=torch.Generator().manual_seed(3))
    sampling = Sampling(seed=9, temperature=1.5, top_p=0.9, **PENALTIES)
    steady = sampler([sampling])
    whole = [int(step(steady, row, [0], n).tokens[0]) for n, row in enumerate(logits)]
    pausing = sampler([Sampling(**PENALTIES), sampling])
    tokens = []
    for n, row in enumerate(logits):
        step(pausing, row, [0], n)
        tokens.append(int(step(pausing, row, [1], n).tokens[0]))
        step(pausing, row, [0], n)
    assert tokens == whole


@pytest.mark.parametrize(
    "next_one",
    [Sampling(temperature=1e-6), Sampling(temperature=0, presence_penalty=0.1)],
    ids=["without penalties", "with others"],
)
def test_a_released_slot_has_forgotten_its_request(next_one: Sampling) -> None:
    made = sampler([Sampling(temperature=0, presence_penalty=100.0)] * 2)
    made.release(0)
    made.admit(0, next_one, np.array(PROMPT))
    # Beside one that has penalties, so that they are applied.
    chosen = step(made, torch.tensor([LOGITS] * 2), [0, 1], 0).tokens
    assert chosen[0] == np.argmax(LOGITS) != chosen[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_seed_gives_the_same_tokens_in_any_company(dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    own = [Sampling(seed=n, **parameters) for n, parameters in enumerate(PARAMETERS)]
    own += [Sampling(temperature=0), Sampling(temperature=0, **PENALTIES)]
    logits = torch.randn(len(own), 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    alone = [int(choose(logits[n : n + 1], each).tokens[0]) for n, each in enumerate(own)]
    for _ in range(5):
        order = random.permutation(len(own))[: random.integers(2, len(own))]
        made = sampler(own, 500)
        chosen = step(made, logits[torch.from_numpy(order)], order, 0).tokens
        assert chosen.tolist() == [alone[place] for place in order]


def test_a_seed_gives_other_tokens_at_other_positions() -> None:
    sampling = Sampling(seed=4)
    rows = [[0.0] * VOCABULARY]
    assert len({int(choose(rows, sampling, position=n).tokens[0]) for n in range(20)}) > 5


def test_any_integer_is_a_seed() -> None:
    seeds = [0, -1, 2**63, 2**64 + 5, 5]
    chosen = choose([[0.0] * 4000] * 5, *(Sampling(seed=seed) for seed in seeds)).tokens
    assert len(set(chosen.tolist())) == 4
    assert chosen[3] == chosen[4]


def test_without_a_seed_every_request_is_random() -> None:
    chosen = choose([[0.0] * 4000] * 8, *[Sampling()] * 8).tokens
    assert len(set(chosen.tolist())) > 5


def test_random_numbers_are_those_of_splitmix64() -> None:
    # Its first outputs from the state 0, as published with Vigna's splitmix64.c.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    numbers = uniform(np.zeros(3, dtype=np.uint64), np.arange(3, dtype=np.int32))
    assert numbers.tolist() == [(value >> 11) / 2**53 for value in published]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_row_that_is_no_numbers_gets_no_token_and_leaves_the_others_alone(
    temperature: float, broken: float
) -> None:
    sampling = Sampling(temperature=temperature, seed=1)
    logits = torch.tensor([LOGITS] * 5)
    logits[1, 9] = broken
    logits[2] = -math.inf
    greedy = Sampling(temperature=0)
    cut = Sampling(seed=2, top_p=0.9, **PENALTIES)
    chosen = choose(logits, sampling, sampling, cut, greedy, cut).tokens
    alone = choose([LOGITS] * 3, sampling, greedy, cut).tokens
    assert chosen.tolist() == [alone[0], -1, -1, alone[1], alone[2]]


def test_a_request_without_a_token_can_still_be_asked_again() -> None:
    made = sampler([Sampling(temperature=0, **PENALTIES)])
    nothing = torch.full((1, VOCABULARY), math.nan)
    assert step(made, nothing, [0], 0).tokens.tolist() == [-1]
    assert step(made, torch.tensor([LOGITS]), [0], 1).tokens[0] >= 0


@pytest.mark.parametrize("parameters", [{"temperature": 0}, {"top_p": 0.9}, PENALTIES], ids=str)
def test_tokens_that_are_ruled_out_are_never_chosen(parameters: dict[str, Any]) -> None:
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, [7, 20]] = torch.tensor([1.0, 0.5])
    sampling = [Sampling(seed=seed, **parameters) for seed in range(50)]
    assert set(choose(logits.expand(50, -1), *sampling).tokens.tolist()) <= {7, 20}


def test_the_logits_are_left_as_they_are() -> None:
    logits = torch.tensor([LOGITS])
    choose(logits, Sampling(seed=1, **PENALTIES))
    assert logits.tolist() == torch.tensor([LOGITS]).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_those_of_the_logits_as_they_came(dtype: torch.dtype) -> None:
    logits = torch.tensor([LOGITS, LOGITS[::-1], LOGITS]).to(dtype)
    greedy = Sampling(temperature=0)
    asking = Sampling(seed=3, temperature=2.0, logprobs=True, **PENALTIES)
    chosen = choose(logits, greedy, asking, Sampling(temperature=0, logprobs=True))
    assert list(chosen.logprobs) == [1, 2]
    reference = logits.float().log_softmax(-1)
    for row, told in chosen.logprobs.items():
        own = reference[row]
        best = own.sort(descending=True).values[:5]
        assert told.chosen == pytest.approx(float(own[chosen.tokens[row]]), abs=1e-5)
        assert told.top[0] == pytest.approx(best.numpy(), abs=1e-5)
        assert own[told.top_ids[0]].tolist() == best.tolist()
        assert (told.chosen.shape, told.top_ids.shape, told.top.shape) == ((1,), (1, 5), (1, 5))
    assert choose(logits, greedy, greedy, greedy).logprobs == {}
