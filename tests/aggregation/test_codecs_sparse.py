"""The largest values only: which they are, and the four means that stand for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potluck.aggregation import BadTensor, Limits, decode, encode
from potluck.aggregation.codecs.sparse import four_means, kept_of, largest

ROOMY = Limits()


def back(values, codec: str, **settings: int):
    """Return *values* after a trip through *codec*."""
    return decode(encode({"v": np.asarray(values)}, codec, **settings), limits=ROOMY)["v"]


@pytest.mark.parametrize(
    ("values", "chunk", "k", "kept"),
    [(0, 64, 2, 0), (64, 64, 2, 2), (65, 64, 2, 3), (128, 64, 64, 128), (63, 64, 8, 8), (70, 64, 4, 5)],
)
def test_a_last_chunk_keeps_the_same_share_rounded_up(values: int, chunk: int, k: int, kept: int):
    assert kept_of(values, chunk, k) == kept


def test_the_first_of_equal_values_are_kept():
    """A partial sort leaves any of them; two machines must not differ."""
    flat = np.array([0.0] * 64 + [3, -3, 3, 1] * 16 + [1, 1, -2], np.float32)

    assert largest(flat, 64, 2).tolist() == [0, 1, 64, 65, 130]


@given(values=arrays(np.float32, st.integers(1, 400), elements=st.integers(-9, 9).map(float)), k=st.integers(1, 64))
def test_the_k_largest_of_every_chunk_travel(values, k: int):
    """Against the plain rule: sort a chunk by size, the first of equal ones first, and take the share."""
    expected = np.zeros_like(values)
    for begin in range(0, len(values), 64):
        part = values[begin : begin + 64]
        order = np.argsort(-np.abs(part), kind="stable")[: -(-len(part) * k // 64)]
        expected[begin + order] = part[order]

    assert np.array_equal(back(values, "topk", chunk=64, k=k), expected)


def test_topk_keeps_values_exactly_or_in_half_precision():
    values = np.zeros(64, np.float32)
    values[[3, 9]] = np.pi, -1e5

    assert np.array_equal(back(values, "topk", chunk=64, k=2, bits=32), values)
    assert back(values / 10, "topk", chunk=64, k=2, bits=16)[3] == np.float16(np.float32(np.pi) / np.float32(10))
    with pytest.raises(BadTensor, match="v: a value over 65504 does not fit 16 bits"):
        encode({"v": values}, "topk", chunk=64, k=2)


def test_four_means_known_answer():
    """Edges at ±1.5σ first, then halfway between the means: worked by hand.

    σ = √(127 / 8) = 3.98, edges ±5.98: (−8), (−1, −2), (1, 1, 2, 4), (6).  Halfway between 2 and 6 is 4, which stays;
    halfway between −8 and −1.5 is −4.75.
    """
    values = np.array([1, -8, 1, -1, 2, 4, 6, -2], float)

    codes, means = four_means(values, np.zeros(8, np.int64), 1)

    assert codes.tolist() == [2, 0, 2, 1, 2, 2, 3, 1]
    assert means.tolist() == [[-8, -1.5, 2, 6]]


def test_four_means_of_mirrored_values_are_mirrored():
    """Halfway is the smaller size on this side too: −4 stays with −1 and −2."""
    values = -np.array([1, -8, 1, -1, 2, 4, 6, -2], float)

    codes, means = four_means(values, np.zeros(8, np.int64), 1)

    assert codes.tolist() == [1, 3, 1, 2, 1, 1, 0, 2]
    assert means.tolist() == [[-6, -2, 1.5, 8]]


def test_four_means_move_their_edges():
    """The same with 4.1 in place of 4: it is nearer to 6, moves there, and the means follow."""
    values = np.array([1, -8, 1, -1, 2, 4.1, 6, -2], float)

    codes, means = four_means(values, np.zeros(8, np.int64), 1)

    assert codes.tolist() == [2, 0, 2, 1, 2, 3, 3, 1]
    np.testing.assert_allclose(means, [[-8, -1.5, 4 / 3, 5.05]], rtol=1e-12)


def test_four_means_stop_after_four_moves():
    """Against the plain rule on values that would take longer: start at ±1.5σ, move the edges four times."""
    values = np.random.default_rng(9).standard_t(3, size=5000)
    upper = 1.5 * np.sqrt(np.mean(values**2))
    lower = -upper
    for _ in range(5):
        bins = np.array([(0 if v < lower else 1) if v < 0 else (3 if v > upper else 2) for v in values])
        wanted = [values[bins == number].mean() for number in range(4)]
        lower, upper = (wanted[0] + wanted[1]) / 2, (wanted[2] + wanted[3]) / 2

    codes, means = four_means(values, np.zeros(5000, np.int64), 1)

    assert codes.tolist() == bins.tolist()
    np.testing.assert_allclose(means[0], wanted, rtol=1e-12)


def test_every_chunk_learns_its_own_means():
    values, groups = np.array([1.0, 1, -2, 8, 8, -4]), np.array([0, 0, 0, 1, 1, 1])

    _, means = four_means(values, groups, 2)

    assert sorted(means[0].tolist()) == [-2, 0, 0, 1]
    assert sorted(means[1].tolist()) == [-4, 0, 0, 8]


@given(values=arrays(np.float32, st.integers(1, 300), elements=st.floats(-100, 100, width=32)), k=st.integers(1, 64))
def test_sparse2bit_sends_at_most_four_values_a_chunk_and_never_a_larger_one(values, k: int):
    found = back(values, "sparse2bit", chunk=64, k=k)

    assert set(np.flatnonzero(found)) <= set(largest(values, 64, k).tolist())
    assert np.all(np.abs(found) <= np.abs(values).max() * (1 + 1e-6))
    assert np.linalg.norm(values - found) <= np.linalg.norm(values) * (1 + 1e-3) + 1e-6
    assert all(len(set(found[begin : begin + 64].tolist())) <= 5 for begin in range(0, len(values), 64))


def test_a_zero_that_is_kept_stands_with_the_positive_ones():
    codes, means = four_means(np.array([0.0, 2, -2]), np.zeros(3, np.int64), 1)

    assert codes.tolist() == [2, 3, 0]
    assert means.tolist() == [[-2, 0, 0, 2]]
