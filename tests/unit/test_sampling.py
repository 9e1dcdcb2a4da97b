import pytest
import torch

from workers.engines.base import Sampling
from workers.engines.transformers.sampling import NUCLEUS, Sampler, choose


def draws(logits: list[float], count: int = 200, **parameters: float) -> list[int]:
    sampler = Sampler(Sampling(seed=1, **parameters), prompt=[])
    return [choose(torch.tensor([logits]), [sampler])[0] for _ in range(count)]


def test_temperature_zero_takes_the_likeliest_token() -> None:
    assert draws([0.0, 3.0, 2.9], count=3, temperature=0) == [1, 1, 1]


def test_draws_follow_the_probabilities() -> None:
    chosen = draws(torch.tensor([0.7, 0.2, 0.1]).log().tolist(), count=4000)
    shares = [chosen.count(token) / len(chosen) for token in range(3)]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_a_low_temperature_sharpens_and_overflows_nowhere() -> None:
    assert set(draws([1000.0, 999.0], temperature=1e-6)) == {0}


def test_top_k_leaves_the_k_likeliest() -> None:
    assert set(draws([1.0, 1.2, 1.1, 0.9], top_k=2)) == {1, 2}


def test_top_p_leaves_the_fewest_tokens_that_reach_it() -> None:
    logits = torch.tensor([0.1, 0.5, 0.4]).log().tolist()
    assert set(draws(logits, top_p=0.85)) == {1, 2}
    assert set(draws(logits, top_p=0.45)) == {1}


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.3]).log().tolist()
    # Of the two that top_k leaves the first has 0.4 / 0.7 = 0.57, which reaches 0.5 alone.
    assert len(set(draws(logits, top_k=2, top_p=0.5))) == 1


def test_top_p_looks_beyond_the_first_candidates_when_they_do_not_reach_it() -> None:
    chosen = draws([0.0] * (4 * NUCLEUS), count=400, top_p=0.99)
    assert len(set(chosen)) > 300


@pytest.mark.parametrize("parameters", [{}, {"top_k": 5}, {"top_p": 0.9}])
def test_the_same_seed_gives_the_same_tokens(parameters: dict[str, float]) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist()
    assert draws(logits, **parameters) == draws(logits, **parameters)


def test_without_a_seed_every_row_is_random() -> None:
    def tokens() -> list[int]:
        sampler = Sampler(Sampling(), prompt=[])
        return [choose(torch.zeros(1, 1000), [sampler])[0] for _ in range(8)]

    assert tokens() != tokens()


def test_a_row_draws_the_same_beside_other_rows() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    alone = choose(logits[1:2].clone(), [Sampler(Sampling(seed=7), prompt=[])])
    others = [Sampler(Sampling(temperature=0), prompt=[]), Sampler(Sampling(seed=9), prompt=[])]
    together = choose(logits.clone(), [others[0], Sampler(Sampling(seed=7), prompt=[]), others[1]])
    assert together[1] == alone[0]
    assert together[0] == int(logits[0].argmax())


def test_the_repetition_penalty_pushes_seen_tokens_down_on_both_sides_of_zero() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    logits = torch.tensor([[4.0, 3.0, -1.0]])
    sampler = Sampler(sampling, prompt=[0])
    assert choose(logits, [sampler]) == [1]
    assert logits.tolist() == [[2.0, 3.0, -1.0]]
    sampler.saw(1)
    sampler.saw(2)
    assert choose(logits, [sampler]) == [1]
    assert logits.tolist() == [[1.0, 1.5, -2.0]]


def test_a_row_whose_logits_are_no_numbers_gets_no_token() -> None:
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])
    samplers = [Sampler(Sampling(temperature=0), prompt=[]), Sampler(Sampling(), prompt=[])]
    assert choose(logits, samplers) == [1, None]
