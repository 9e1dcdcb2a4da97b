"""Tokens to money: integers, rounded once, up."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.billing.prices import Price, Usage

TOKENS = st.integers(0, 10**9)
MICROS = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("price", "usage", "amount"),
    [
        (Price(1_000_000, 2_000_000), Usage(3, 5), 13),
        (Price(50_000, 200_000), Usage(0, 0), 0),
        (Price(0, 0), Usage(10**9, 10**9), 0),
        (Price(1, 0), Usage(1, 0), 1),
        (Price(1, 0), Usage(1_000_000, 0), 1),
        (Price(1, 0), Usage(1_000_001, 0), 2),
        (Price(500_000, 500_000), Usage(1, 1), 1),
        (Price(50_000, 200_000), Usage(19, 1), 2),
        (Price(2**60, 0), Usage(10**6, 0), 2**60),
    ],
)
def test_an_amount_is_rounded_once_and_up(price: Price, usage: Usage, amount: int) -> None:
    assert price.of(usage) == amount


@given(MICROS, MICROS, TOKENS, TOKENS)
def test_an_amount_is_exact_to_less_than_a_millionth_of_a_dollar(
    input_micros: int, output_micros: int, read: int, written: int
) -> None:
    amount = Price(input_micros, output_micros).of(Usage(read, written))
    exact = Fraction(read * input_micros + written * output_micros, 1_000_000)
    assert type(amount) is int
    assert exact <= amount < exact + 1


@given(st.builds(Price, MICROS, MICROS), st.builds(Usage, TOKENS, TOKENS), TOKENS, TOKENS)
def test_using_less_never_costs_more(
    price: Price, less: Usage, unread: int, unwritten: int
) -> None:
    more = Usage(less.prompt_tokens + unread, less.completion_tokens + unwritten)
    assert price.of(less) <= price.of(more)


@given(st.builds(Price, MICROS, MICROS), st.integers(0, 100))
def test_a_share_of_a_price_is_rounded_up_to_the_next_micro(price: Price, share: int) -> None:
    found = price.percent(share)
    for part, whole in (
        (found.input_micros, price.input_micros),
        (found.output_micros, price.output_micros),
    ):
        assert type(part) is int
        assert Fraction(whole * share, 100) <= part < Fraction(whole * share, 100) + 1
    assert price.percent(100) == price
