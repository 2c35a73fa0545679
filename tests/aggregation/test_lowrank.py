"""The singular value decomposition of a sum of factors, and the inner products of products."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import low_rank, regauged
from potluck.aggregation import BadSetting, BadTensor, LowRank, LowRankSum, compress, gram
from potluck.aggregation.lowrank import GRAM_TOLERANCE, factored, nearly_factored, shortened, zero

SEEDS = st.integers(0, 2**32 - 1)


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def times(term: LowRank, size: float) -> LowRank:
    """Return |size|·size times the product, half of it in each factor and some of it in a second column."""
    return LowRank(np.hstack([term.b, -term.b]) * size, np.vstack([term.a, 2 * term.a]) * abs(size))


def sigmas(term: LowRank):
    """Return the singular values of a balanced term: the product of the lengths of its columns and rows."""
    return np.linalg.norm(term.b, axis=0) * np.linalg.norm(term.a, axis=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 3e-7)])
def test_the_factored_decomposition_is_the_dense_one(dtype, tolerance):
    """T8: d=256, k=192, eight terms of rank 8, against NumPy on the dense float64 sum."""
    rng = np.random.default_rng(8)
    exact = [LowRank(rng.normal(size=(256, 8)), rng.normal(size=(8, 192))) for _ in range(8)]
    terms = [LowRank(term.b.astype(dtype), term.a.astype(dtype)) for term in exact]
    weights = rng.uniform(0.1, 1, 8)
    dense = sum(w * term.dense() for w, term in zip(weights, exact, strict=True))

    whole = compress(terms, weights)

    expected = np.linalg.svd(dense, compute_uv=False)[:64]
    assert whole.low_rank.rank == 64
    assert relative(whole.low_rank.dense(), dense) <= tolerance
    assert np.max(np.abs(sigmas(whole.low_rank) - expected) / expected[0]) <= tolerance


@given(SEEDS, st.integers(0, 9))
def test_a_cut_is_the_best_and_says_what_it_lost(seed: int, rank: int):
    """Eckart and Young: the error of the best approximation is the tail of the singular values."""
    rng = np.random.default_rng(seed)
    terms = [low_rank(rng, (9, 7), 2, scale=s) for s in (1.0, -3.0, 0.5)]
    dense = sum(term.dense() for term in terms)

    cut, discarded = compress(terms, rank=rank)

    expected = np.linalg.svd(dense, compute_uv=False)
    assert cut.rank <= rank
    assert np.isclose(discarded, np.linalg.norm(expected[rank:]), atol=1e-12 * expected[0])
    assert np.isclose(np.linalg.norm(dense - cut.dense()), discarded, atol=1e-12 * expected[0])


def test_the_form_is_balanced_ordered_and_signed():
    """Two coordinators that agree on the product must agree on the factors, up to ties."""
    rng = np.random.default_rng(3)

    result, _ = compress([low_rank(rng, (30, 20), 4), low_rank(rng, (30, 20), 3)])

    assert result.scale == 1.0
    np.testing.assert_allclose(result.b.T @ result.b, result.a @ result.a.T, atol=1e-12)
    assert np.all(np.diff(sigmas(result)) <= 0)
    assert np.all(result.b[np.argmax(np.abs(result.b), axis=0), np.arange(result.rank)] > 0)


def test_energy_keeps_the_fewest_columns_that_reach_it():
    """σ² of 16, 9, 4, 1 of 30: two columns hold 25/30, three 29/30."""
    term = LowRank(np.diag([4.0, 3, 2, 1]), np.eye(4))

    kept = {share: compress([term], energy=share).low_rank.rank for share in (0.5, 0.53, 0.54, 0.83, 0.84, 1.0)}

    assert kept == {0.5: 1, 0.53: 1, 0.54: 2, 0.83: 2, 0.84: 3, 1.0: 4}
    assert compress([term], energy=0.84, rank=1).discarded == pytest.approx(14**0.5)


def test_a_stream_in_chunks_is_the_sum_at_once():
    """T8: 1,200 columns through chunks of 256 against one decomposition, d=k=700 so that one is possible."""
    rng = np.random.default_rng(5)
    terms = [low_rank(rng, (700, 650), 8) for _ in range(150)]
    chunks, once = LowRankSum((700, 650)), LowRankSum((700, 650), limit=10_000)
    for term in terms:
        chunks.add(term, 0.25)
        once.add(term, 0.25)

    (few, few_lost), (all_, all_lost) = chunks.compressed(rank=64), once.compressed(rank=64)

    assert relative(few.dense(), all_.dense()) <= 1e-12
    assert few_lost == pytest.approx(all_lost, rel=1e-12)
    assert np.max(np.abs(sigmas(few) - sigmas(all_))) / sigmas(all_)[0] <= 1e-12


def test_what_a_chunk_drops_is_counted():
    """A value of 1e-13 beside 1 is below the tolerance of a chunk; the report must not call that exact."""
    running = LowRankSum((3, 2), limit=1)
    running.add(LowRank(np.eye(3)[:, :1], np.eye(2)[:1]))
    running.add(LowRank(np.eye(3)[:, 1:2], np.eye(2)[1:]), 1e-13)

    result, discarded = running.compressed()

    assert result.rank == 1
    assert discarded == pytest.approx(1e-13, rel=1e-6, abs=0)


def test_what_all_chunks_drop_is_added_up():
    """1e-13 beside 1, then 2e-13, then a cut to one column that loses 3e-13 and 1/4."""
    running = LowRankSum((5, 4), limit=1)
    for place, size in enumerate((1.0, 1e-13, 2e-13, 0.25)):
        running.add(LowRank(np.eye(5)[:, place : place + 1], np.eye(4)[place : place + 1]), size)
        running.add(LowRank(np.eye(5)[:, :2], np.zeros((2, 4))))

    result, discarded = running.compressed(rank=1)

    assert np.diag(result.dense()).tolist() == pytest.approx([1, 0, 0, 0])
    assert discarded - 0.25 == pytest.approx(3e-13, rel=1e-3, abs=0)


def test_a_chunk_ends_with_more_than_limit_new_columns():
    """Up to then terms are kept as they were added, and those that weigh nothing are not."""
    rng = np.random.default_rng(9)
    running, counts = LowRankSum((9, 8), limit=3), []

    for rank, weight in ((2, 1.0), (1, 1.0), (5, 0.0), (0, 1.0), (1, 1.0), (3, 1.0), (1, 1.0)):
        running.add(low_rank(rng, (9, 8), rank), weight)
        counts.append(len(running.scaled(1.0)))

    assert counts == [1, 2, 2, 2, 1, 2, 1]
    once = LowRankSum((9, 8))
    once.add(LowRank(np.eye(9)[:, :1], np.eye(8)[:1], 3.0))
    (half,) = once.scaled(-0.5)
    assert (half.dense()[0, 0], once.compressed().low_rank.dense()[0, 0]) == (-1.5, pytest.approx(3.0))


def test_rounding_is_cut_by_the_number_of_columns():
    """Of four columns 4·2⁻⁵² of the largest is rounding, and a little more is not."""
    term = LowRank(np.eye(6)[:, :4] * [1.0, 5 * 2.0**-52, 3.5 * 2.0**-52, 2.0**-53], np.eye(5)[:4])

    assert compress([term]).low_rank.rank == 2
    assert LowRankSum((4, 3)).compressed().low_rank.rank == 0


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_largest_entry_of_every_column_is_positive(size: float):
    """Whatever its size, and whichever sign LAPACK gave it."""
    rng = np.random.default_rng(12)

    for _ in range(20):
        b = compress([low_rank(rng, (6, 5), 3, size)]).low_rank.b

        assert (b[np.abs(b).argmax(axis=0), np.arange(3)] > 0).all()


def test_a_factor_from_a_gram_matrix_lacks_only_what_is_short():
    """Directions of 1, 1e-2 and 1e-4 of the longest: two reach 1e-3, all reach 1e-6; float32 is taken in float64."""
    rng = np.random.default_rng(13)
    q, _ = np.linalg.qr(rng.normal(size=(40, 3)))
    columns = q * [1.0, 1e-2, 1e-4] @ np.linalg.qr(rng.normal(size=(3, 3)))[0] * 7.0

    for tolerance, rank, error in ((1e-3, 2, 7e-4), (1e-6, 3, 1e-7), (0.5, 1, 7e-2)):
        basis, rest = nearly_factored(columns, tolerance)
        assert (basis.shape, rest.shape) == ((40, rank), (rank, 3))
        np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-7)
        assert np.linalg.norm(basis @ rest - columns) == pytest.approx(error if rank < 3 else 0, rel=1e-2, abs=1e-12)
    basis, rest = nearly_factored(columns.astype(np.float32))
    assert (basis.dtype, rest.dtype, basis.shape, GRAM_TOLERANCE) == (np.float64, np.float64, (40, 3), 1e-7)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-7)


def test_a_factor_from_a_gram_matrix_of_nothing_is_empty():
    """Zeros, and no columns."""
    for columns in (np.zeros((5, 2)), np.zeros((5, 0))):
        basis, rest = nearly_factored(columns)
        assert (basis.shape, rest.shape) == ((5, 0), (0, columns.shape[1]))


@pytest.mark.parametrize("size", [1e160, np.inf, np.nan])
def test_columns_whose_squares_overflow_are_refused_without_a_warning(size: float):
    with pytest.raises(BadTensor, match=r"\(5, 2\) columns overflow when they are squared") as refusal:
        nearly_factored(size * np.random.default_rng(14).normal(size=(5, 2)))

    assert "largest update" in refusal.value.__notes__[0]


def test_a_sum_is_shortened_by_either_factor():
    """The same leading part and the same rest, scales and signs included; a column that is there twice is one."""
    rng = np.random.default_rng(15)
    terms = [low_rank(rng, (12, 9), 2, 3.0), low_rank(rng, (12, 9), 3, -0.5)]
    terms.append(LowRank(terms[0].b, terms[1].a[:2], 0.25))
    sigma = np.linalg.svd(sum(term.dense() for term in terms), compute_uv=False)

    exactly, lost = shortened(terms, (12, 9), rank=3, tolerance=1e-12, factor=factored)
    nearly, nearly_lost = shortened(terms, (12, 9), rank=3, tolerance=1e-12, factor=nearly_factored)

    assert (exactly.rank, nearly.rank) == (3, 3)
    np.testing.assert_allclose(nearly.b, exactly.b, atol=1e-9)
    np.testing.assert_allclose(nearly.a, exactly.a, atol=1e-9)
    assert (lost, nearly_lost) == (pytest.approx(np.linalg.norm(sigma[3:])), pytest.approx(np.linalg.norm(sigma[3:])))


def test_more_columns_than_the_matrix_has_are_summed_exactly():
    """R = 600 columns on a 20 × 15 matrix: full rank, streamed."""
    rng = np.random.default_rng(6)
    terms = [low_rank(rng, (20, 15), 6, scale=0.1) for _ in range(100)]

    result, discarded = compress(terms)

    assert result.rank == 15
    assert discarded <= 1e-10
    assert relative(result.dense(), sum(term.dense() for term in terms)) <= 1e-12


def test_no_array_of_the_size_of_the_matrix_is_made():
    """T8: d = k = 4096 and R = 160; a (4096, 4096) float64 array alone would be five times what is allowed."""
    rng = np.random.default_rng(7)
    terms = [low_rank(rng, (4096, 4096), 16) for _ in range(10)]

    tracemalloc.start()
    compress(terms, rank=64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 0.2 * 4096 * 4096 * 8


@given(SEEDS)
def test_the_gram_matrix_holds_the_inner_products_of_the_products(seed: int):
    """Over modules, scales, ranks (0 too) and a module that one side lacks; exactly symmetric."""
    rng = np.random.default_rng(seed)
    updates = [{"p": low_rank(rng, (8, 5), r, s), "q": low_rank(rng, (4, 6), r)} for r, s in ((1, 2.0), (3, -0.5))]
    updates += [{"p": low_rank(rng, (8, 5), 2)}, {"p": low_rank(rng, (8, 5), 0), "q": low_rank(rng, (4, 6), 1)}]

    actual = gram(updates)

    expected = [[sum(np.sum(x[m].dense() * y[m].dense()) for m in x if m in y) for y in updates] for x in updates]
    np.testing.assert_allclose(actual, expected, atol=1e-12 * np.max(np.abs(expected)))
    assert np.array_equal(actual, actual.T)


@given(SEEDS)
def test_no_gauge_changes_the_gram_matrix(seed: int):
    """An attacker chooses its factors, so distances must not depend on them."""
    rng = np.random.default_rng(seed)
    updates = [{"p": low_rank(rng, (8, 6), r)} for r in (2, 3, 4)]

    turned = [{name: regauged(rng, term) for name, term in update.items()} for update in updates]

    np.testing.assert_allclose(gram(turned), gram(updates), rtol=1e-10, atol=1e-10)


def test_the_zero_matrix_has_rank_zero():
    """B = 0 beside a random A is a start, not an adapter of rank r."""
    result, discarded = compress([LowRank(np.zeros((5, 3)), np.ones((3, 4)))])

    assert (result.shape, result.rank, discarded) == ((5, 4), 0, 0.0)
    assert np.array_equal(result.dense(), np.zeros((5, 4)))


def test_zero_has_its_shape_and_no_norm():
    """Rank 0, so nothing is multiplied."""
    assert (zero((2, 3)).shape, zero((2, 3)).rank, zero((2, 3)).norm()) == ((2, 3), 0, 0.0)
    assert LowRank(np.array([[3.0], [4]]), np.array([[0.0, 2]]), -1.5).norm() == 15.0
    with np.errstate(over="ignore", invalid="ignore"):  # infinity minus infinity is no norm of zero
        assert LowRank(np.full((1, 2), 1e200), np.array([[1e200], [-1e200]])).norm() == np.inf


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda _: compress([]), BadTensor, "compress: 0 terms"),
        (lambda t: compress([t, LowRank(np.ones((4, 1)), np.ones((1, 4)))]), BadTensor, r"\(3, 4\), \(4, 4\)"),
        (lambda t: compress([t], [1.0, 2.0]), BadSetting, "2 weights for 1 terms"),
        (lambda t: compress([t], [np.inf]), BadTensor, "weight inf"),
        (lambda t: compress([LowRank(t.b * np.nan, t.a)]), BadTensor, "NaN or infinity"),
        (lambda t: compress([LowRank(t.b * 1e200, t.a * 1e200)]), BadTensor, "overflows"),
        (lambda t: compress([times(t, 1e200), times(t, -1e200)]), BadTensor, "overflows"),
        (lambda t: compress([t], rank=-1), BadSetting, "rank is -1"),
        (lambda t: compress([t], energy=1.5), BadSetting, r"energy is 1\.5"),
        (lambda t: compress([t], energy=0.0), BadSetting, r"energy is 0\.0"),
        (lambda t: LowRank(t.a, t.b), BadTensor, r"\(1, 4\) and \(3, 1\)"),
        (lambda t: LowRank(t.b, t.a[:, 0]), BadTensor, r"\(3, 1\) and \(1,\)"),
        (lambda t: LowRank(t.b[0], t.a), BadTensor, r"\(1,\) and \(1, 4\)"),
        (lambda t: LowRank(t.b, t.a, float("nan")), BadTensor, "scale of a"),
        (lambda t: gram([{"q": t}, {"q": LowRank(t.b.T @ t.b, t.a)}]), BadTensor, "q: 2 terms have 2 shapes"),
    ],
)
def test_what_cannot_be_summed_is_refused_with_the_numbers(call, error, says):
    """Before anything is computed from it."""
    with pytest.raises(error, match=says):
        call(LowRank(np.ones((3, 1)), np.ones((1, 4))))
