"""Products that have one factor in common: the same inner products, at a fraction of the cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import low_rank
from potluck.aggregation import LowRank, Update
from potluck.aggregation.beside import ROWS, beside
from potluck.aggregation.lowrank import gram_of


@pytest.mark.parametrize("common", ["a", "b"])
@pytest.mark.parametrize("rows", [3, ROWS, ROWS + 1, 2 * ROWS + 7])
def test_inner_products_beside_one_factor_are_those_of_the_products(common: str, rows: int):
    rng = np.random.default_rng(rows)
    one = low_rank(rng, (rows, 9), 4)
    terms = [
        LowRank(one.b, rng.normal(size=(4, 9)), s) if common == "b" else LowRank(rng.normal(size=(rows, 4)), one.a, s)
        for s in (2.0, -0.5, 1.0)
    ]

    actual = gram_of(terms)

    expected = [[float(np.sum(x.dense() * y.dense())) for y in terms] for x in terms]
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10 * np.max(np.abs(expected)))
    assert np.array_equal(actual, actual.T)


@pytest.mark.parametrize("odd", [0, 1, 2])
@pytest.mark.parametrize("common", ["a", "b"])
def test_one_term_with_another_factor_is_not_taken_for_the_others(common: str, odd: int):
    rng = np.random.default_rng(odd)
    one, two = low_rank(rng, (6, 5), 2), low_rank(rng, (6, 5), 2)
    held = [two if place == odd else one for place in range(3)]
    terms = [
        LowRank(each.b, rng.normal(size=(2, 5))) if common == "b" else LowRank(rng.normal(size=(6, 2)), each.a)
        for each in held
    ]

    expected = [[float(np.sum(x.dense() * y.dense())) for y in terms] for x in terms]
    np.testing.assert_allclose(gram_of(terms), expected, rtol=1e-10, atol=1e-12)


def test_float32_factors_are_multiplied_in_double_precision():
    a, b = np.full((1, 3), 1e-30, np.float32), np.full((2, 1), 1e-30, np.float32)

    assert beside(a, [b, b], [1.0, 2.0]) == pytest.approx(np.array([[6e-120, 12e-120], [12e-120, 24e-120]]), rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["a", "b"]))
def test_a_factor_that_is_the_starts_own_changes_no_bit(seed: int, frozen: str):
    """The coordinator hands the public factor over as one array; a copy of it takes the longer way."""
    rng = np.random.default_rng(seed)
    start = low_rank(rng, (7, 5), 3, 2.0)
    moved = rng.normal(size=(7, 3) if frozen == "a" else (3, 5)).astype(np.float32)
    moved[:, 1:2] = start.b[:, 1:2] if frozen == "a" else moved[:, 1:2]
    own = LowRank(moved, start.a, 2.0) if frozen == "a" else LowRank(start.b, moved, 2.0)
    copy = LowRank(own.b.copy(), own.a.copy(), 2.0)

    short, long = (Update({"q": term}, {"q": start}, 1).innovation()["q"] for term in (own, copy))

    assert short.rank == (2 if frozen == "a" else 3)
    assert (short.b.tobytes(), short.a.tobytes(), short.scale) == (long.b.tobytes(), long.a.tobytes(), long.scale)
