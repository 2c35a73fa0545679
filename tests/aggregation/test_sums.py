"""A running sum of innovations: what it adds, what it keeps apart, and the columns that it does not need."""

import numpy as np
import pytest

from adapters import low_rank, trained_from
from potluck.aggregation import LowRank
from potluck.aggregation.room import Room
from potluck.aggregation.rules.base import Module
from potluck.aggregation.sums import (
    MOST_STARTS,
    STACK_BYTES,
    WHOLE_BYTES,
    InnovationSum,
    updates_at_once,
)

SHAPE = (8, 7)
NONE = LowRank(np.zeros((8, 0)), np.zeros((0, 7)))


def module(*, exact: bool = True, rank: int = 2, seed: int = 3, shape: tuple[int, int] = SHAPE) -> Module:
    """Return the module that a sum is of, with a list of errors of its own."""
    none = LowRank(np.zeros((shape[0], 0)), np.zeros((0, shape[1])))
    return Module("m", shape, none, exact=exact, rank=rank, seed=seed)


def dense(terms) -> np.ndarray:
    return sum((term.dense() for term in terms), np.zeros(SHAPE))


def test_starts_of_rank_one_are_told_apart():
    """One start's factors must not be subtracted from what was trained from another: by hand, 1 − 0.5 and 3 − 1."""
    running = InnovationSum(module())
    row = np.eye(7)[:1]

    for begun, trained, weight in ((0.5, 1.0, 2.0), (1.0, 3.0, 0.25)):
        start = LowRank(begun * np.eye(8)[:, :1], row, 4.0)
        running.add(LowRank(trained * np.eye(8)[:, :1], row, 4.0), start, weight)

    assert dense(running.scaled(0.5))[0, 0] == 0.5 * 4.0 * (2.0 * 0.5 + 0.25 * 2.0)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "sketched"])
def test_more_starts_than_are_told_apart_are_summed_too(*, exact: bool):
    """Some of rank 0, some of another rank or scale than what came of them, and three more than MOST_STARTS."""
    rng = np.random.default_rng(1)
    running, expected = InnovationSum(module(exact=exact)), np.zeros(SHAPE)

    for number in range(MOST_STARTS + 3):
        start = low_rank(rng, SHAPE, 2, (2.0, -0.5)[number % 2])
        trained = trained_from(rng, start)
        for term, begun in ((trained, start), (trained, NONE), (trained.times(3.0), start), (NONE, start)):
            weight = rng.normal()
            running.add(term, begun, weight)
            expected += weight * (term.dense() - begun.dense())

    np.testing.assert_allclose(dense(running.scaled(-0.5)), -0.5 * expected, atol=1e-4)


def test_columns_that_training_left_alone_are_not_summed():
    """One factor frozen: B − B₀ times A₀ and nothing else.  Neither frozen: only pairs of which both sides moved."""
    rng = np.random.default_rng(2)
    start = low_rank(rng, SHAPE, 2)
    only_b, only_a = LowRank(start.b + np.float32(1), start.a), LowRank(start.b, start.a + np.float32(1))
    apart = LowRank(start.b + np.float32([1, 0]), start.a + np.float32([[0], [1]]))
    together = LowRank(start.b + np.float32([1, 0]), start.a + np.float32([[1], [0]]))

    ranks = []
    for trained in (only_b, only_a, apart, together, start):
        running = InnovationSum(module())
        running.add(trained, start, 1.0)
        terms = running.scaled(1.0)
        ranks.append([term.rank for term in terms])
        np.testing.assert_allclose(dense(terms), trained.dense() - start.dense(), atol=1e-6)

    assert ranks == [[2], [2], [2, 2], [2, 2, 1], []]


def test_updates_of_one_start_share_its_columns():
    """Two sums of the start's rank; only b·a grows by a column for every column of every update."""
    rng = np.random.default_rng(9)
    start = low_rank(rng, SHAPE, 2)
    running = InnovationSum(module())

    for _ in range(3):
        running.add(trained_from(rng, start), LowRank(start.b.copy(), start.a.copy()), 1.0)

    assert [term.rank for term in running.scaled(1.0)] == [2, 2, 6]


def test_the_error_of_a_sketched_sum_is_scaled_with_it():
    """It is a norm: a weight of −1/4 makes it a quarter."""
    shape = (60, 50)
    errors = []
    for weight in (1.0, -0.25):
        rng = np.random.default_rng(4)
        of = module(exact=False, shape=shape)
        running = InnovationSum(of)
        for _ in range(12):
            running.add(low_rank(rng, shape, 4), LowRank(np.zeros((60, 0)), np.zeros((0, 50))), 1.0)
        running.scaled(weight)
        errors += of.errors

    assert errors[0] > 1
    assert errors[1] == pytest.approx(0.25 * errors[0], rel=1e-6)


def test_a_sketched_sum_follows_its_seed():
    """Whoever knows the seed can redo it, and nobody can without."""
    shape = (60, 50)
    rng = np.random.default_rng(5)
    terms = [low_rank(rng, shape, 4) for _ in range(12)]

    found = []
    for seed in (3, 3, 4):
        running = InnovationSum(module(exact=False, shape=shape, seed=seed))
        for term in terms:
            running.add(term, LowRank(np.zeros((60, 0)), np.zeros((0, 50))), 1.0)
        (kept,) = running.scaled(1.0)
        found.append(kept.dense())

    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rank", "count"), [(3, 0), (3, 200), (300, 0), (300, 3)])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "sketched"])
def test_batches_fill_and_empty_without_a_loss(*, exact: bool, rank: int, count: int):
    """85 updates of rank 3 leave one of 256 columns free, one of rank 300 is a batch by itself, and two starts mix."""
    rng = np.random.default_rng(6)
    start, other = (low_rank(rng, SHAPE, rank, 2.0) for _ in range(2))
    of = Module("m", SHAPE, NONE, count=count, exact=exact, rank=2)
    running, expected = InnovationSum(of), np.zeros(SHAPE)

    for number in range(count or 3 * 256 // rank + 3):
        begun = other if count and number % 3 == 0 else start
        trained = trained_from(rng, begun, 1.0)
        running.add(trained, begun, 0.5 + number)
        expected += (0.5 + number) * (trained.dense() - begun.dense())

    np.testing.assert_allclose(
        dense(running.scaled(2.0)), 2.0 * expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )


def test_what_weighs_nothing_costs_nothing():
    """No columns, and no start to be told apart."""
    rng = np.random.default_rng(7)
    running = InnovationSum(module())

    for _ in range(MOST_STARTS + 1):
        start = low_rank(rng, SHAPE, 2)
        running.add(trained_from(rng, start), start, 0.0)
    running.add(trained_from(rng, start), start, 1.0)

    assert [term.rank for term in running.scaled(1.0)] == [2, 2, 2]


@pytest.mark.parametrize("wide", [None, 0, 1, 2, 3])
def test_a_sketched_sum_works_in_the_widest_type_of_its_factors(wide: int | None):
    """Twice the memory and the time where all are float32, lost digits where one is not."""
    rng = np.random.default_rng(8)
    start = low_rank(rng, SHAPE, 2)
    trained = trained_from(rng, start)
    factors = [trained.b, trained.a, start.b, start.a]
    if wide is not None:
        factors[wide] = factors[wide].astype(np.float64) + 1e-9
    trained, start = LowRank(*factors[:2]), LowRank(*factors[2:])
    running = InnovationSum(module(exact=False))

    running.add(trained, start, 1 / 3)
    *_, product = running.scaled(1.0)

    assert product.b.dtype == product.a.dtype == (np.float32 if wide is None else np.float64)
    b, a, b_start, a_start = (factor.astype(np.float64) for factor in factors)
    expected = (b - b_start) @ (a - a_start) / 3
    np.testing.assert_allclose(product.dense(), expected, atol=1e-7 if wide is None else 1e-15)


def test_where_there_is_no_start_its_type_says_nothing():
    """The empty start is float64, and would double the memory of float32 updates."""
    running = InnovationSum(module(exact=False))
    trained = low_rank(np.random.default_rng(12), SHAPE, 2)

    running.add(trained, NONE, 1.0)
    (product,) = running.scaled(1.0)

    assert (NONE.b.dtype, product.b.dtype, product.a.dtype) == (np.float64, np.float32, np.float32)
    np.testing.assert_allclose(product.dense(), trained.dense(), atol=1e-6)


def test_an_exact_sum_subtracts_float32_in_float64():
    """Where float32 would round B − B₀: the start is a thousand times what training added."""
    rng = np.random.default_rng(11)
    big = low_rank(rng, (7, 7), 2)
    start = LowRank(big.b * np.float32(1000.1), big.a, 2.0)
    trained = LowRank(start.b + np.float32(1.7), big.a * np.float32(0.3), 2.0)
    expected = trained.dense() - start.dense()

    for exact, tolerance in ((True, 1e-13), (False, 1e-6)):  # and a square module
        running = InnovationSum(module(exact=exact, shape=(7, 7)))
        running.add(trained, start, 1.0)
        actual = sum(term.dense() for term in running.scaled(1.0))
        assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(trained.dense())


@pytest.mark.parametrize(
    ("exact", "count", "rank", "at_once"),
    [
        (True, 0, 3, 85),
        (True, 4, 3, 4),
        (True, 9, 300, 1),
        (False, 200, 16, 200),
        (False, 218, 16, 218),
        (False, 219, 16, 131),
        (False, 0, 16, 218),
        (False, 9, 6000, 1),
        (False, 5, 0, 5),
    ],
)
def test_as_many_updates_wait_as_memory_holds(*, exact: bool, count: int, rank: int, at_once: int):
    """80 MiB where that is the whole round, so that one merge does; else 48 MiB a merge; 256 columns in exact sums."""
    of = Module("m", (3000, 3000), NONE, count=count, exact=exact, rank=2)

    assert updates_at_once(of, rank, 6000 * 4) == at_once


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "sketched"])
def test_a_module_of_one_row_or_column_is_summed(shape: tuple[int, int], *, exact: bool):
    rng = np.random.default_rng(12)
    start = low_rank(rng, shape, 2)
    running, expected = InnovationSum(module(exact=exact, shape=shape)), np.zeros(shape)

    for weight in (0.5, -2.0, 1.0):
        trained = trained_from(rng, start, 1.0)
        running.add(trained, start, weight)
        expected += weight * (trained.dense() - start.dense())

    np.testing.assert_allclose(sum(term.dense() for term in running.scaled(1.0)), expected, atol=1e-5)


def test_a_sketched_sum_of_halves_is_in_float32():
    """Linear algebra takes no halves."""
    rng = np.random.default_rng(13)
    start = low_rank(rng, SHAPE, 2)
    start, trained = (
        LowRank(t.b.astype(np.float16), t.a.astype(np.float16)) for t in (start, trained_from(rng, start))
    )
    running = InnovationSum(module(exact=False))

    running.add(trained, start, 1.0)
    terms = running.scaled(1.0)

    assert terms[-1].b.dtype == np.float32
    np.testing.assert_allclose(dense(terms), trained.dense() - start.dense(), atol=1e-5)


def test_how_many_updates_wait_together():
    """By hand: 256 columns where sums are exact; else as many bytes as fit, and more where that is the whole round."""

    def waiting(rank: int, count: int, *, exact: bool) -> int:
        return updates_at_once(Module("m", SHAPE, NONE, count=count, exact=exact, rank=2), rank, 1 << 20)

    assert [waiting(rank, 0, exact=True) for rank in (0, 1, 3, 256, 300)] == [256, 256, 85, 1, 1]
    assert [waiting(3, count, exact=True) for count in (5, 85, 100)] == [5, 85, 85]
    whole, stack = WHOLE_BYTES >> 20, STACK_BYTES >> 20
    assert [waiting(4, count, exact=False) for count in (10, whole // 4)] == [10, whole // 4]
    assert [waiting(4, count, exact=False) for count in (whole // 4 + 1, 1000)] == [stack // 4, stack // 4]
    assert waiting(4, 0, exact=False) == whole // 4
    assert all(type(waiting(3, 1000, exact=exact)) is int for exact in (True, False))
    assert stack < whole


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "sketched"])
def test_modules_gather_in_one_room_one_after_the_other(*, exact: bool):
    """What the first left there is written over, and not read; an exact sum keeps its columns, and gives nothing."""
    rng = np.random.default_rng(14)
    room, sums, expected = Room(), [], []
    for _ in range(3):
        start = low_rank(rng, SHAPE, 2)
        running = InnovationSum(Module("m", SHAPE, NONE, count=3, exact=exact, rank=4, room=room))
        total = np.zeros(SHAPE)
        for _ in range(2):  # one fewer than there is room for
            trained = trained_from(rng, start, 1.0)
            running.add(trained, start, 1.5)
            total += 1.5 * (trained.dense() - start.dense())
        sums.append(running.scaled(2.0))
        expected.append(2.0 * total)

    for terms, total in zip(sums, expected, strict=True):
        np.testing.assert_allclose(dense(terms), total, atol=1e-5)
    assert len(room.take(1)) == (1 if exact else 3 * 2 * (8 + 7) * 4)


def test_two_starts_of_a_module_gather_apart():
    """At the same time, in memory of their own; the last that is let go of is there for the next module."""
    rng = np.random.default_rng(15)
    of = Module("m", SHAPE, NONE, count=4, exact=False, rank=4)
    running, expected = InnovationSum(of), np.zeros(SHAPE)
    starts = [low_rank(rng, SHAPE, 2) for _ in range(2)]
    for number in range(4):
        trained = trained_from(rng, starts[number % 2], 1.0)
        running.add(trained, starts[number % 2], 1.0)
        expected += trained.dense() - starts[number % 2].dense()

    np.testing.assert_allclose(dense(running.scaled(1.0)), expected, atol=1e-5)
    assert len(of.room.take(1)) == 4 * 2 * (8 + 7) * 4
