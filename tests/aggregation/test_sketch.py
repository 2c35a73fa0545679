"""Sketches of products: unbiased, gauge-free, with an error that is measured and true."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import low_rank, regauged, trained_from
from potluck.aggregation import LowRank, Pipeline, Update, aggregate, compress, gram
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.rules.base import Module
from potluck.aggregation.sketch import (
    OVERSAMPLING,
    PROBES,
    ProductSketch,
    RangeFinder,
    drawn,
    first_look,
    gram_of_sketches,
    orthonormal,
    scattered,
    widths,
)
from potluck.aggregation.sums import STACK_BYTES, InnovationSum

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = {"wide": (30, 80), "tall": (90, 25)}


def crowd(seed: int, count: int, *, step: float = 0.3, rank: int = 3, dtype: type = np.float64) -> list[Update]:
    """Return updates of clients that share a start and partly a direction."""
    rng = np.random.default_rng(seed)
    start = {name: low_rank(rng, shape, rank, 2.0) for name, shape in SHAPES.items()}
    common = {name: low_rank(rng, shape, rank, 2.0) for name, shape in SHAPES.items()}
    updates = []
    for client in range(count):
        trained = {}
        for name, term in start.items():
            moved = trained_from(rng, term, step)
            b = moved.b + np.float32(step) * common[name].b
            trained[name] = LowRank(b.astype(dtype), moved.a.astype(dtype), term.scale)
        updates.append(Update(trained, start, examples=1 + client % 3))
    return updates


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def test_inner_products_of_sketches_are_those_of_the_products_in_the_mean():
    """Over 300 draws of the maps; one draw of width 8 errs by some 20 %, so the mean must err by about 1 %."""
    updates = crowd(0, 5)
    expected = gram([update.innovation() for update in updates])

    estimates = []
    for seed in range(300):
        sketch = ProductSketch(5, seed=seed, widths=(8, 8))
        for name, shape in SHAPES.items():
            left, right = sketch.maps(name, shape, np.dtype(np.float64))
            for place, update in enumerate(updates):
                sketch.values[place] += left @ update.innovation_of(name).dense() @ right
        estimates.append(gram_of_sketches(sketch.values))

    lengths = np.sqrt(np.diag(expected))
    assert np.abs((np.mean(estimates, axis=0) - expected) / np.outer(lengths, lengths)).max() < 0.04
    assert np.std([estimate[0, 0] for estimate in estimates]) / expected[0, 0] > 0.1


def test_maps_of_two_modules_and_of_two_sides_are_independent():
    """Or parts of different modules would not be orthogonal in the mean."""
    sketch = ProductSketch(1, seed=4)

    left, right = sketch.maps("q", (50, 50), np.dtype(np.float64))
    other, _ = sketch.maps("v", (50, 50), np.dtype(np.float64))

    assert left.shape == (64, 50)
    assert right.shape == (50, 64)
    assert max(abs(np.vdot(left, other)), abs(np.vdot(left, right.T))) < 5 * np.sqrt(50 * 64) / 64
    np.testing.assert_allclose([left.var(), right.var()], 1 / 64, rtol=0.1)


def test_a_map_is_the_same_numbers_everywhere():
    """Anybody can redo a round's sketch from its seed."""
    numbers = drawn(7, "q/left", (2, 3), np.dtype(np.float32))

    expected = [[-0.58174384, -1.1012102, -0.4220096], [1.0241213, -0.29748228, 0.1104784]]
    np.testing.assert_allclose(numbers, expected, rtol=1e-6)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, drawn(7, "q/left", (2, 3), np.dtype(np.float64)))
    assert not np.array_equal(numbers, drawn(8, "q/left", (2, 3), np.dtype(np.float32)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maps_follow_from_the_seed_the_module_and_the_side(dtype: type):
    """In the type of the factors: mapping float32 in float64 takes twice as long."""
    left, right = ProductSketch(1, seed=5, widths=(16, 64)).maps("v", (30, 20), np.dtype(dtype))

    assert (left.dtype, right.dtype) == (dtype, dtype)
    assert np.array_equal(left, drawn(5, "v/left", (16, 30), np.dtype(dtype)) / 4)
    assert np.array_equal(right, drawn(5, "v/right", (20, 64), np.dtype(dtype)) / 8)


def test_a_map_is_wide_where_it_is_made_once():
    """As many numbers for all: half as wide on the side that is trained, and twice on the public one."""
    assert [widths(trains) for trains in ("both", "b", "a", "alternately")] == [
        (64, 64),
        (32, 128),
        (128, 32),
        (64, 64),
    ]
    assert (widths("b", 15), widths("a", 15)) == ((7, 30), (30, 7))


def sparse_map(signs: np.ndarray, columns: int) -> np.ndarray:
    """Return Ω of scattered entry by entry, (d, p)."""
    d = signs.shape[1]
    run = d // columns
    omega = np.zeros((d, columns))
    for i in range(d):
        if i < run * columns:
            omega[i, i // run] += signs[0, i]
            omega[i, i % columns] += signs[1, i]
        else:
            omega[i, i - run * columns] += signs[0, i]
    return omega


@pytest.mark.parametrize(("d", "columns"), [(24, 3), (25, 3), (26, 3), (9, 1), (7, 7)])
def test_a_sparse_look_is_a_product_with_a_sparse_map(d: int, columns: int):
    """Every coordinate has two entries, of its run and of its stride; those beyond the last whole run have one."""
    rng = np.random.default_rng(d)
    rows, signs = rng.normal(size=(4, d)), np.sign(rng.normal(size=(2, d)))

    np.testing.assert_allclose(scattered(rows, columns, signs), rows @ sparse_map(signs, columns), rtol=1e-13)


def test_a_first_look_is_sparse_from_eight_coordinates_a_column_on():
    """Signs of one draw, or that draw itself."""
    rows = np.random.default_rng(0).normal(size=(5, 24))
    kind = np.dtype(np.float64)

    signs = np.sign(drawn(3, "range0", (2, 24), kind))
    np.testing.assert_allclose(first_look(3, "range0", (24, 3), kind)(rows), rows @ sparse_map(signs, 3))
    np.testing.assert_allclose(first_look(3, "range0", (24, 4), kind)(rows), rows @ drawn(3, "range0", (24, 4), kind))
    for columns in (3, 4):  # float32 stays float32
        look = first_look(3, "range0", (24, columns), np.dtype(np.float32))
        assert look(rows.astype(np.float32)).dtype == np.float32


def test_an_orthonormal_basis_leaves_out_what_the_columns_lack():
    """To 1e-6 where one direction has a share of 1e-4; none at all of zeros; float32 stays float32."""
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.normal(size=(50, 3)))
    columns = q * [1, 1e-4, 1e-6] @ rng.normal(size=(3, 3))

    basis = orthonormal(columns)

    assert basis.shape == (50, 2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(basis @ (basis.T @ columns), columns, atol=1e-5)
    assert orthonormal(np.zeros((5, 2))).shape == (5, 0)
    assert orthonormal(np.ones((5, 2), np.float32)).dtype == np.float32
    with pytest.raises(BadTensor, match="overflow"):
        orthonormal(np.full((5, 2), np.nan))


@settings(max_examples=10)
@given(SEEDS)
def test_a_large_round_is_the_exact_one_up_to_its_reported_errors(seed: int):
    """70 updates of rank 3 sketched, beside the same 70 exactly: norms within what was measured, the sum too."""
    updates = crowd(seed, 70)

    exact = aggregate(updates, {}, Pipeline(rank=8, exact_up_to=70))
    sketched = aggregate(updates, {}, Pipeline(rank=8, exact_up_to=69, screened=True))

    assert (exact.report.products, sketched.report.products) == ("none", "sketch")
    assert exact.report.sum_error == 0 < sketched.report.sum_error
    assert 0 < sketched.report.products_error < 0.3  # two modules of a few directions each: the worst case
    np.testing.assert_allclose(sketched.report.norms, exact.report.norms, rtol=0.4)
    for name, term in exact.master.items():
        bound = 2 * sketched.report.sum_error * sketched.report.total.norm + 2 * exact.report.modules[name].discarded
        assert np.linalg.norm(sketched.master[name].dense() - term.dense()) <= bound


def test_a_sketched_sum_is_nearly_the_best_of_its_rank():
    """Within 10 % of Eckart and Young where singular values hardly fall off, and 1e-6 where they end."""
    updates = crowd(3, 200)
    full = {name: compress([u.innovation_of(name) for u in updates], [1 / 200] * 200).low_rank for name in SHAPES}

    for name, shape in SHAPES.items():
        module = Module(name, shape, full[name].times(0), count=200, exact=False, rank=6, seed=1)
        running = InnovationSum(module)
        for update in updates:
            running.add(*update.part_of(name), 1 / 200)
        found = compress(running.scaled(1.0), rank=6).low_rank
        best = compress([full[name]], rank=6)
        error = np.linalg.norm(found.dense() - full[name].dense())
        assert error <= 1.1 * best.discarded


def test_what_a_merge_drops_is_measured():
    """Eight probes: the estimate of ‖E‖² has a relative deviation of a half, so over 40 draws the mean is close."""
    rng = np.random.default_rng(5)
    b, a = rng.normal(size=(60, 40)), rng.normal(size=(40, 50))

    ratios = []
    for seed in range(40):
        finder = RangeFinder((60, 50), columns=10, seed=seed)
        finder.merge(b, a)
        missed = np.linalg.norm(b @ a - finder.found().dense())
        ratios.append((finder.dropped[0] / missed) ** 2)

    assert PROBES == 8
    assert np.mean(ratios) == pytest.approx(1, abs=0.2)


def test_merges_of_a_sum_that_fits_lose_nothing():
    """Ten stacks whose sum has rank 5: each merge keeps it whole."""
    rng = np.random.default_rng(6)
    left, right = rng.normal(size=(40, 5)), rng.normal(size=(5, 30))
    finder, total = RangeFinder((40, 30), columns=9, seed=0), np.zeros((40, 30))

    for _ in range(10):
        mix = rng.normal(size=(5, 5))
        finder.merge(left @ mix, right)
        total += left @ mix @ right

    assert relative(finder.found().dense(), total) <= 1e-12
    assert len(finder.dropped) == 10
    assert max(finder.dropped) <= 1e-12 * np.linalg.norm(total)


def test_what_merges_drop_is_what_their_own_probes_see():
    """‖Θ·E‖ / √8 for a Θ that follows from the seed and the number of the merge; float32 stays float32."""
    rng = np.random.default_rng(10)
    terms = [low_rank(rng, (60, 50), 12) for _ in range(3)]
    finder, before = RangeFinder((60, 50), columns=9, seed=4), np.zeros((60, 50))

    for number, term in enumerate(terms):
        finder.merge(term.b, term.a)
        missed = before + term.dense() - finder.found().dense()
        theta = drawn(4, f"probe{number}", (8, 60), np.dtype(np.float64))
        assert finder.dropped[number] == pytest.approx(np.linalg.norm(theta @ missed) / 8**0.5, rel=1e-4)
        before = finder.found().dense()

    assert (finder.found().rank, finder.found().b.dtype, finder.found().a.dtype) == (9, np.float32, np.float32)
    assert RangeFinder((60, 50), columns=9, seed=4).dropped == []


def test_a_range_is_found_from_a_map_that_follows_from_the_seed():
    """Q = orth(A·orth(Aᵀ·Ω)) for the Ω of the first merge; and no more columns than were merged."""
    rng = np.random.default_rng(11)
    b, a = rng.normal(size=(60, 20)), rng.normal(size=(20, 50))
    finder, few = (RangeFinder((60, 50), columns=9, seed=4) for _ in range(2))

    finder.merge(b, a)
    ranks = []
    for first, end in ((0, 2), (2, 5), (3, 5), (5, 12)):
        few.merge(b[:, first:end], a[first:end])
        ranks.append(few.found().rank)

    omega = drawn(4, "range0", (60, 9), np.dtype(np.float64))
    q, _ = np.linalg.qr(b @ (a @ np.linalg.qr(a.T @ (b.T @ omega))[0]))
    np.testing.assert_allclose(finder.found().dense(), q @ (q.T @ b @ a), atol=1e-10)
    np.testing.assert_allclose(finder.found().b.T @ finder.found().b, np.eye(9), atol=1e-10)
    assert ranks == [2, 5, 5, 9]  # what was there already needs no more columns


def test_an_empty_sum_is_found_to_be_zero():
    assert RangeFinder((4, 3), columns=2, seed=0).found().rank == 0


def test_a_gauge_changes_a_sketched_round_by_rounding_only():
    """Maps see products: in float64 the selection and the master are the same to 1e-9."""
    rng = np.random.default_rng(8)
    updates = crowd(9, 66)
    turned = [
        Update({n: regauged(rng, t) for n, t in u.trained.items()}, u.start, u.examples, key=u.digest())
        for u in updates
    ]
    plain = [Update(u.trained, u.start, u.examples, key=u.digest()) for u in updates]
    pipeline = Pipeline(weights=("examples", "norm_bound", "multikrum"), f=13, rank=12)

    first, second = aggregate(plain, {}, pipeline), aggregate(turned, {}, pipeline)

    np.testing.assert_allclose(second.report.weights, first.report.weights, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(second.report.norms, first.report.norms, rtol=1e-9)
    assert OVERSAMPLING >= 8


def test_a_stack_is_merged_when_it_is_full():
    """Bounded memory: the sum of a module that is too large to wait merges after every few updates."""
    shape = (40_000, 9_000)
    waits = STACK_BYTES // ((shape[0] + shape[1]) * 8) // 64
    rng = np.random.default_rng(2)
    module = Module("m", shape, LowRank(np.zeros((shape[0], 0)), np.zeros((0, shape[1]))), exact=False, rank=1, seed=0)
    running = InnovationSum(module)
    start = LowRank(np.zeros((shape[0], 0)), np.zeros((0, shape[1])))

    for _ in range(2 * waits + 1):
        running.add(LowRank(rng.normal(size=(shape[0], 64)), rng.normal(size=(64, shape[1]))), start, 1.0)
    running.scaled(1.0)

    assert 2 <= waits <= 4
    assert len(module.errors) == 1


@pytest.mark.parametrize("step", [1e-3, 1e-8])
def test_a_small_first_round_is_not_lost_beside_its_start(step: float):
    """B₀ = 0, so b̄ is tiny beside an A₀ of ordinary size: their product is all there is."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(3, 40)).astype(np.float32)
    start = {"m": LowRank(np.zeros((50, 3), np.float32), a, 2.0)}
    moves = [step * rng.normal(size=(50, 3)) for _ in range(65)]
    updates = [Update({"m": LowRank(move.astype(np.float32), a + np.float32(step), 2.0)}, start, 1) for move in moves]
    expected = np.mean([update.innovation_of("m").dense() for update in updates], axis=0)

    found = aggregate(updates, {}, Pipeline(rank=16)).master["m"].dense()

    assert np.linalg.norm(found - expected) <= 0.02 * np.linalg.norm(expected)


def test_a_client_cannot_hide_the_others_behind_another_gauge():
    """(B·M, A/M) is the same update; its factors are far from the start, and the sum of all keeps its digits."""
    updates = crowd(4, 65, step=1e-3, dtype=np.float32)
    first = updates[0]
    turned = {
        name: LowRank(term.b * np.float32(500), term.a / np.float32(500), 2.0) for name, term in first.trained.items()
    }
    plain, other = (
        aggregate([Update(trained, first.start, 1, key=b"0"), *updates[1:]], {}, Pipeline(rank=8))
        for trained in (first.trained, turned)
    )

    for name, term in plain.master.items():
        apart = np.linalg.norm(other.master[name].dense() - term.dense())
        assert apart <= 0.01 * np.linalg.norm(term.dense())


@pytest.mark.parametrize("shape", [(11, 27), (27, 11), (11, 11)])
def test_a_sketch_of_every_direction_is_exact(shape: tuple[int, int]):
    """As many columns as the shorter side has: a random square map might all but miss one."""
    rng = np.random.default_rng(9)
    for seed in range(20):
        finder, total = RangeFinder(shape, columns=40, seed=seed), np.zeros(shape)
        for _ in range(3):
            left, right = rng.normal(size=(shape[0], 15)), rng.normal(size=(15, shape[1]))
            finder.merge(left, right)
            total += left @ right

        assert relative(finder.found().dense(), total) <= 1e-9
