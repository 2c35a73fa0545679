"""Shares of a secret: any t give it back, t − 1 say nothing, and wrong ones are found and named."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation.errors import BadSetting, BadUpdate
from potluck.aggregation.secure.shamir import PRIME, Decoder, agreeing_places, combined, dealt, weights_at

SECRET = bytes(range(32))


def coefficients(count: int, seed: int = 7) -> list[int]:
    generator = np.random.default_rng(seed)
    return [int.from_bytes(generator.bytes(32), "big") for _ in range(count)]


@pytest.mark.parametrize(("n", "t"), [(n, t) for n in range(2, 8) for t in range(1, n + 1)])
def test_every_t_shares_give_the_secret_back(n: int, t: int):
    shares = dealt(SECRET, coefficients(t - 1), range(1, n + 1))

    for chosen in combinations(shares, t):
        assert combined({x: shares[x] for x in chosen}) == int.from_bytes(SECRET, "big")


def test_fewer_than_t_shares_say_nothing():
    """Over the field of 13: the two shares of t = 3 take every pair of values equally often, whatever the secret is."""
    prime, drawn = 13, np.random.default_rng(5).integers(0, 13, (40_000, 2))
    for secret in (b"\x00", b"\x0b"):
        pairs = Counter(tuple(dealt(secret, row, [1, 4], prime).values()) for row in drawn.tolist())
        expected = len(drawn) / prime**2
        chi2 = sum((pairs[a, b] - expected) ** 2 / expected for a in range(prime) for b in range(prime))

        assert 168 - 5 * 18.4 < chi2 < 168 + 5 * 18.4  # 168 degrees of freedom, σ = √336


def test_the_exact_count_over_a_tiny_field():
    """Over the field of 5 all 25 pairs of coefficients give each pair of shares exactly once."""
    for secret in range(5):
        pairs = Counter(tuple(dealt(bytes([secret]), (a, b), [1, 2], 5).values()) for a in range(5) for b in range(5))
        assert set(pairs.values()) == {1}


@given(st.integers(0, 2**32), st.integers(4, 16), st.data())
def test_wrong_shares_are_found_and_named(seed: int, n: int, data):
    t = data.draw(st.integers(2, n - 2))
    wrong = data.draw(st.sets(st.integers(1, n), max_size=(n - t) // 2))
    shares = dealt(SECRET, coefficients(t - 1, seed), range(1, n + 1))
    for x in wrong:
        shares[x] = (shares[x] + 1 + x) % PRIME

    found = Decoder(tuple(sorted(shares)), t).recovered(shares, SECRET.__eq__)

    assert found.secret == SECRET
    assert found.odd == tuple(sorted(wrong))
    assert set(agreeing_places(shares, t)) == set(shares) - wrong


def test_more_wrong_shares_than_can_be_told_apart_are_found_where_the_secret_is_known_by_its_hash():
    """Of 10 shares with t = 7 one wrong one can be told without it, and here are three."""
    shares = dealt(SECRET, coefficients(6), range(1, 11))
    for x in (1, 5, 9):
        shares[x] = (shares[x] * 3 + 5) % PRIME

    found = Decoder(tuple(shares), 7).recovered(shares, SECRET.__eq__)

    assert found.odd == (1, 5, 9)


@given(data=st.data(), seed=st.integers(0, 99))
def test_a_secret_is_found_despite_as_many_wrong_shares_as_is_said(data: st.DataObject, seed: int):
    n = data.draw(st.integers(2, 20))
    t = data.draw(st.integers(1, n))
    decoder = Decoder(tuple(range(1, n + 1)), t)
    wrong = data.draw(st.sets(st.integers(1, n)).filter(lambda xs: decoder.finds_despite(len(xs))))
    shares = dealt(SECRET, coefficients(t - 1, seed), range(1, n + 1))
    for x in wrong:
        shares[x] = (shares[x] + 1 + x) % PRIME

    assert decoder.recovered(shares, SECRET.__eq__).secret == SECRET


@pytest.mark.parametrize(
    ("shares", "threshold", "wrong", "found"),
    [
        (10, 7, 3, True),
        (10, 7, 4, False),
        (9, 7, 3, False),
        (6, 6, 1, False),
        (128, 86, 21, True),
        (128, 86, 42, False),
    ],
)
def test_how_many_wrong_shares_a_secret_is_found_despite(shares: int, threshold: int, wrong: int, *, found: bool):
    assert Decoder(tuple(range(1, shares + 1)), threshold).finds_despite(wrong) is found


def test_shares_that_fit_nothing_are_refused():
    shares = dealt(SECRET, coefficients(6), range(1, 11))

    with pytest.raises(BadUpdate, match="do not fit together"):
        Decoder(tuple(shares), 7).recovered(shares, lambda _: False)
    with pytest.raises(BadUpdate, match="takes 11"):
        Decoder(tuple(shares), 11).recovered(shares, lambda _: True)


def test_a_value_that_no_32_bytes_are_is_no_secret():
    """P is a little above 2²⁵⁶: a polynomial may be right and its value at 0 no secret."""
    shares = {x: (2**256 + 5 + x) % PRIME for x in (1, 2, 3)}

    with pytest.raises(BadUpdate, match="do not fit together"):
        Decoder((1, 2, 3), 2).recovered(shares, lambda _: True)


@pytest.mark.parametrize("places", [[0], [PRIME], [-1]])
def test_a_share_at_zero_would_be_the_secret(places):
    with pytest.raises(BadSetting, match="not in the field"):
        dealt(SECRET, [1], places)


def test_a_place_that_stands_twice_is_refused():
    with pytest.raises(BadSetting, match="one place"):
        weights_at([1, 2, 1])
