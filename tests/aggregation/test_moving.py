"""One module's outer step: what is added, in which basis the master stays, and what the cut costs."""

import numpy as np
import pytest

from adapters import low_rank
from potluck.aggregation import BadUpdate, LowRank
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.moving import (
    SAME_BASIS,
    After,
    Before,
    cut,
    evened,
    joined,
    moved,
    moved_in_basis,
    rows_over,
)
from potluck.aggregation.outer.base import Moments
from potluck.aggregation.outer.elementwise import FedAdam
from potluck.aggregation.outer.linear import FedAvg, FedAvgM, Nesterov

SHAPE = (6, 5)
NOTHING = Before(None, None, None)


def both_ways(terms, before: Before, outer, rank: int) -> tuple[After, After]:
    """Return the module after a step that may turn its basis, and after one that may not."""
    return tuple(step(terms, before, outer, rank=rank, shape=SHAPE) for step in (moved, moved_in_basis))


def dense(term: LowRank | None) -> np.ndarray:
    return np.zeros(SHAPE) if term is None else term.dense()


@pytest.mark.parametrize("rank", [20, 3])
def test_a_step_adds_the_momentum_to_the_master_and_keeps_it(rank: int):
    """Gains η((1 + μ)Δ + μ²m), and keeps μm + Δ; a cut to 3 columns is the best of that rank, at the cost it says."""
    rng = np.random.default_rng(0)
    master, momentum = low_rank(rng, SHAPE, 2, 3.0), low_rank(rng, SHAPE, 1, -2.0)
    terms = [low_rank(rng, SHAPE, 2, 0.5), low_rank(rng, SHAPE, 1)]
    delta = sum(term.dense() for term in terms)
    after_step = master.dense() + 0.5 * (1.25 * delta + 0.25**2 * momentum.dense())
    after_momentum = 0.25 * momentum.dense() + delta

    for after in both_ways(terms, Before(master, momentum, None), Nesterov(0.5, 0.25), rank):
        for found, whole in ((after.master, after_step), (after.momentum, after_momentum)):
            u, sigma, vt = np.linalg.svd(whole)
            best = (u[:, :5] * sigma)[:, :rank] @ vt[:rank]
            np.testing.assert_allclose(found.dense(), best, atol=1e-12)
            assert found.rank <= rank
        sigma = np.linalg.svd(after_step, compute_uv=False)
        assert after.cost.norm == pytest.approx(np.linalg.norm(sigma), rel=1e-12)
        assert after.cost.discarded == pytest.approx(np.linalg.norm(sigma[rank:]), abs=1e-12)
        assert after.moments is None


def test_what_is_sketched_is_cut_from_gram_matrices():
    """A direction of 1e-8 beside 1 is there where sums are exact, and noise where they are sketched."""
    term = LowRank(np.eye(6)[:, :3] * [1.0, 0.5, 1e-8], np.eye(5)[:3], 2.0)

    for exact, rank in ((True, 3), (False, 2)):
        after = moved([term], Before(None, term, None, exact), FedAvgM(1.0, 0.5), rank=4, shape=SHAPE)
        for found in (after.master, after.momentum):
            assert found.rank == rank
            np.testing.assert_allclose(found.dense(), 1.5 * term.dense(), atol=1e-7)
        assert after.cost.norm == pytest.approx(3 * 1.25**0.5, rel=1e-7)

    less = moved([term], Before(term, None, None, exact=False), FedAvg(), rank=1, shape=SHAPE)
    assert (less.master.rank, less.cost.discarded) == (1, pytest.approx(2.0))
    nothing = moved([], Before(None, None, None, exact=False), FedAvg(), rank=1, shape=SHAPE)
    assert (nothing.master.shape, nothing.master.rank, nothing.cost.norm) == (SHAPE, 0, 0.0)
    turned = moved_in_basis(
        [term], Before(low_rank(np.random.default_rng(8), SHAPE, 1, 0.0), None, None), FedAvg(), rank=4, shape=SHAPE
    )
    assert turned.master.rank == 3  # one public factor: sums are exact however many there are


def test_a_first_step_of_nothing_is_a_master_of_zero():
    """Of the module's shape, although no term says which that is; without a momentum only if the optimiser has none."""
    for after in both_ways([], NOTHING, FedAvg(), 3):
        assert (after.master.shape, after.master.rank, after.momentum) == (SHAPE, 0, None)
        assert (after.cost.norm, after.cost.discarded) == (0.0, 0.0)
    rng = np.random.default_rng(1)
    term = low_rank(rng, SHAPE, 2)
    for after in both_ways([term], Before(None, None, None), FedAvgM(2.0, 0.5), 3):
        np.testing.assert_allclose(after.master.dense(), 2.0 * term.dense(), atol=1e-6)
        np.testing.assert_allclose(after.momentum.dense(), term.dense(), atol=1e-6)


@pytest.mark.parametrize("trained", ["b", "a"])
def test_a_module_stays_in_the_basis_that_its_terms_share(trained: str):
    """Rows are multiples of the first term's, each by a factor of its own; the trained factors add up, scales too."""
    public = np.array([[1.0, 2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 3.0, 0.0, 0.0]])
    ratio = np.array([[4.0], [-0.25]])
    first, second, third = (np.arange(12.0).reshape(6, 2) ** power - power for power in (1, 2, 0.5))
    master = LowRank(first, public, 2.0)
    terms = [LowRank(second, ratio * public, -0.5), LowRank(third, public.astype(np.float32))]
    shape = SHAPE
    if trained == "a":
        master, *terms = (LowRank(term.a.T, term.b.T, term.scale) for term in (master, *terms))
        shape = SHAPE[::-1]

    after = moved_in_basis(terms, Before(master, None, None), FedAvg(), rank=2, shape=shape)

    kept, added = (after.master.a, after.master.b) if trained == "b" else (after.master.b.T, after.master.a.T)
    assert np.array_equal(kept, public)
    np.testing.assert_allclose(added, 2.0 * first - 0.5 * second * ratio.T + third, rtol=1e-14)
    assert (after.master.scale, after.cost.discarded, after.momentum) == (1.0, 0.0, None)
    assert after.cost.norm == pytest.approx(np.linalg.norm(after.master.dense()), rel=1e-12)
    assert after.master.b.dtype == after.master.a.dtype == np.float64


def test_a_basis_of_too_many_columns_is_cut():
    """Three columns where two may stay: the best two, and the rest counted."""
    master = LowRank(np.eye(6)[:, :3] * [3.0, 2.0, 1.0], np.eye(5)[:3])

    exactly = moved_in_basis([master], NOTHING, FedAvg(), rank=3, shape=SHAPE)
    after = moved_in_basis([master], NOTHING, FedAvg(), rank=2, shape=SHAPE)

    assert np.array_equal(exactly.master.b, master.b)
    np.testing.assert_allclose(np.diag(after.master.dense()), [3, 2, 0, 0, 0], atol=1e-12)
    assert after.cost.discarded == pytest.approx(1.0, rel=1e-12)
    assert after.cost.norm == pytest.approx(14**0.5, rel=1e-12)


def test_a_momentum_of_another_basis_is_cut_to_rank():
    """The public factor was drawn anew: old and new momentum share nothing, so their sum has more columns."""
    rng = np.random.default_rng(2)
    old, term = low_rank(rng, SHAPE, 2), low_rank(rng, SHAPE, 2)

    after = moved_in_basis([term], Before(None, old, None), FedAvgM(1.0, 0.5), rank=3, shape=SHAPE)
    shared = moved_in_basis(
        [term], Before(None, LowRank(2 * term.b, term.a), None), FedAvgM(1.0, 0.5), rank=1, shape=SHAPE
    )

    u, sigma, vt = np.linalg.svd(0.5 * old.dense() + term.dense())
    np.testing.assert_allclose(after.momentum.dense(), (u[:, :3] * sigma[:3]) @ vt[:3], atol=1e-6)
    np.testing.assert_allclose(shared.momentum.dense(), 2.0 * term.dense(), atol=1e-6)
    assert shared.momentum.rank == 2


def test_rows_are_multiples_up_to_the_rounding_of_float32_and_no_further():
    """Each row by its own factor; a row of zeros is zero times any, and no row is a multiple of zeros."""
    first = np.array([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])
    off = np.array([[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]]) / 5**0.5  # at right angles to the first row, of length 1

    assert rows_over(first * [[2.0], [-0.5]], first).tolist() == [2.0, -0.5]
    assert rows_over(first * [[0.0], [1.0]], first).tolist() == [0.0, 1.0]
    assert rows_over(first * 3 + 0.9 * SAME_BASIS * 9 * off, first) is not None
    assert rows_over(first * 3 + 1.1 * SAME_BASIS * 9 * off, first) is None
    assert rows_over(first, first * [[0.0], [1.0]]) is None
    assert rows_over(0.5 * first, 0.125 * first).tolist() == [4.0, 4.0]
    long = first * [[1e6], [1.0]]  # each row is measured by its own length
    assert rows_over(long + 0.9 * SAME_BASIS * 3e6 * off, long) is not None
    assert rows_over(long[::-1] + 0.9 * SAME_BASIS * 3e6 * off, long[::-1]) is None
    assert rows_over(0 * first, 0 * first).tolist() == [0.0, 0.0]
    assert rows_over(first[:1], first) is None
    assert joined([]) is None
    assert SAME_BASIS == 1e-6


def test_an_element_wise_step_is_on_the_trained_factor_times_its_scale():
    """FedAdam by hand: Δ = 2·b, m = 0.1·Δ, v = τ² + …; kept in the basis of the public factor."""
    outer = FedAdam(eta=0.1, beta1=0.9, beta2=0.5, adaptivity=1.0)
    rng = np.random.default_rng(3)
    public = rng.normal(size=(2, 5))
    term, master = LowRank(rng.normal(size=(6, 2)), public, 2.0), LowRank(rng.normal(size=(6, 2)), public)
    before = Moments(np.full((6, 2), 0.25), np.full((6, 2), 4.0))

    for known, first, second in ((None, 0.0, 1.0), (before, 0.25, 4.0)):
        after = moved_in_basis([term], Before(master, None, known), outer, rank=2, shape=SHAPE)
        m, v = 0.9 * first + 0.1 * 2 * term.b, 0.5 * second + 0.5 * (2 * term.b) ** 2
        np.testing.assert_allclose(after.master.b, master.b + 0.1 * m / (np.sqrt(v) + 1.0), rtol=1e-12)
        np.testing.assert_allclose(after.moments.first, m, rtol=1e-12)
        np.testing.assert_allclose(after.moments.second, v, rtol=1e-12)
        assert np.array_equal(after.master.a, public)
        assert after.momentum is None


@pytest.mark.parametrize("change", ["rank", "basis"])
def test_moments_of_other_coordinates_begin_anew(change: str):
    """A first moment of 100 would be seen in the step."""
    outer = FedAdam(eta=0.1, beta1=0.5, beta2=0.5, adaptivity=1.0)
    rng = np.random.default_rng(4)
    term = low_rank(rng, SHAPE, 2)
    shape, basis = ((6, 3), term.a) if change == "rank" else ((6, 2), term.a + 1)
    stale = Moments(np.full(shape, 100.0), np.full(shape, 100.0))

    after = moved_in_basis([term], Before(LowRank(1 + term.b**2, basis), None, stale), outer, rank=4, shape=SHAPE)
    none = moved_in_basis([term], Before(None, None, stale if change == "rank" else None), outer, rank=4, shape=SHAPE)

    for each in (after, none):
        np.testing.assert_allclose(each.moments.first, 0.5 * term.b, rtol=1e-6)


def test_moments_outlive_a_master_of_zero():
    """Nothing says that the basis changed: the first rounds' changes may cancel."""
    rng = np.random.default_rng(5)
    term = low_rank(rng, SHAPE, 2)
    known = Moments(np.ones((6, 2)), np.ones((6, 2)))

    for master in (None, LowRank(np.zeros((6, 0)), np.zeros((0, 5)))):
        after = moved_in_basis([term], Before(master, None, known), FedAdam(beta1=0.5), rank=4, shape=SHAPE)
        np.testing.assert_allclose(after.moments.first, 0.5 + 0.5 * term.b, rtol=1e-6)


def test_an_element_wise_step_without_one_basis_is_refused():
    """It would have full rank, and mean another thing in every gauge."""
    rng = np.random.default_rng(6)
    terms = [low_rank(rng, SHAPE, 2), low_rank(rng, SHAPE, 2)]

    with pytest.raises(BadUpdate, match="no basis"):
        moved(terms[:1], NOTHING, FedAdam(), rank=2, shape=SHAPE)
    for several in ([], terms):
        with pytest.raises(BadUpdate, match=f"got {len(several)} terms"):
            moved_in_basis(several, NOTHING, FedAdam(), rank=2, shape=SHAPE)


def test_a_sketched_step_evens_pairs_and_hides_nothing():
    """Products stay, columns and rows are as long as each other, zeros go; NaN and infinity are refused."""
    rng = np.random.default_rng(7)
    term = LowRank(rng.normal(size=(6, 3)) * [1e-9, 1.0, 0.0], rng.normal(size=(3, 5)), -2.0)

    even = evened(term)

    assert even.rank == 2
    np.testing.assert_allclose(even.dense(), term.dense(), rtol=1e-12, atol=1e-20)
    np.testing.assert_allclose(np.linalg.norm(even.b, axis=0), np.linalg.norm(even.a, axis=1), rtol=1e-12)
    for bad in (np.nan, np.inf):
        b = term.b.copy()
        b[2, 0] = bad
        with pytest.raises(BadTensor, match="overflow"):
            cut([LowRank(b, term.a)], 3, exact=False)
