"""Inner products of a round: sketched beside exact, for whatever starts and ranks the updates have."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from adapters import low_rank, trained_from
from potluck.aggregation import BadUpdate, LowRank, Pipeline, Update, aggregate
from potluck.aggregation.cohort import Cohort, Read
from potluck.aggregation.products import Mapper, checked, exact_products, norm_of, norms_of, sketched_products
from potluck.aggregation.sketch import WIDTH, ProductSketch, gram_of_sketches, widths

SHAPE = (12, 9)
NONE = LowRank(np.zeros((12, 0)), np.zeros((0, 9)))


def mixed(rng: np.random.Generator) -> list[tuple[LowRank, LowRank]]:
    """Return (trained, start) of every kind, in an order that changes the start between them and comes back to it."""
    first, second = low_rank(rng, SHAPE, 2, 2.0), low_rank(rng, SHAPE, 3, -0.5)
    moved = [trained_from(rng, term, 0.7) for term in (first, second, first, second, first)]
    unmoved = LowRank(np.zeros((12, 2)), first.a, 2.0)
    return [
        (moved[0], first),
        (moved[1], second),
        (moved[2], first),
        (moved[3].times(3.0), second),
        (moved[4], NONE),
        (NONE, first),
        (unmoved, NONE),
        (NONE, NONE),
        (first, first),
        (low_rank(rng, SHAPE, 4, 0.3), first),
        (low_rank(rng, SHAPE, 3, 2.0), first),
        (LowRank(moved[0].b, first.a, 2.0), first),
        (LowRank(first.b, moved[0].a, 2.0), first),
    ]


def test_a_sketch_is_of_what_training_changed():
    """Ω_L·(s·B·A − s₀·B₀·A₀)·Ω_R entry by entry; nothing changed gives zeros."""
    parts = mixed(np.random.default_rng(0))
    sketch = ProductSketch(len(parts), seed=4, widths=(5, 7))
    mapper = Mapper(sketch)
    for place, (trained, start) in enumerate(parts):
        mapper.add(Read(place, "m", trained, start))

    left, right = sketch.maps("m", SHAPE, np.dtype(np.float64))
    expected = [left @ (trained.dense() - start.dense()) @ right for trained, start in parts]
    np.testing.assert_allclose(sketch.values, expected, atol=2e-6)
    assert not sketch.values[[6, 7, 8]].any()


def test_a_sketch_follows_ranks_up_and_down():
    """Of a 2 × 3 module the A of rank 2 has the shape of the B of rank 3: room for one is not taken for the other."""
    rng = np.random.default_rng(9)
    starts = [low_rank(rng, (2, 3), rank) for rank in (2, 3, 2)]
    trained = [trained_from(rng, start) for start in starts]
    sketch = ProductSketch(3, seed=1, widths=(4, 4))
    mapper = Mapper(sketch)

    for place, pair in enumerate(zip(trained, starts, strict=True)):
        mapper.add(Read(place, "m", *pair))

    left, right = sketch.maps("m", (2, 3), np.dtype(np.float64))
    expected = [left @ (end.dense() - start.dense()) @ right for end, start in zip(trained, starts, strict=True)]
    np.testing.assert_allclose(sketch.values, expected, atol=1e-6)


@dataclass
class Noted:
    """A sketch that notes in which type its maps are wanted."""

    values: np.ndarray = field(default_factory=lambda: np.zeros((1, 4, 4)))
    dtypes: list[np.dtype] = field(default_factory=list)

    def maps(self, name: str, shape: tuple[int, int], dtype: np.dtype):
        self.dtypes.append(dtype)
        return ProductSketch(1, seed=1, widths=(4, 4)).maps(name, shape, dtype)


@pytest.mark.parametrize("wide", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("narrow", [np.float16, np.float32])
def test_maps_are_in_the_widest_type_of_the_first_update(wide: int | None, narrow: type):
    """Float64 where one factor is, float32 else: halves are not multiplied as such."""
    rng = np.random.default_rng(10)
    start = low_rank(rng, SHAPE, 2)
    trained = trained_from(rng, start)
    factors = [
        factor.astype(np.float64 if place == wide else narrow)
        for place, factor in enumerate((trained.b, trained.a, start.b, start.a))
    ]
    sketch = Noted()

    Mapper(sketch).add(Read(0, "m", LowRank(*factors[:2]), LowRank(*factors[2:])))

    assert sketch.dtypes == [np.float32 if wide is None else np.float64]


def test_a_sketched_round_has_a_client_that_changed_nothing():
    """It trained B = 0 from nothing: its norm is 0, and the others' weights and sum are those of the exact round."""
    rng = np.random.default_rng(1)
    updates = [Update({"m": low_rank(rng, SHAPE, 2, 2.0)}, {}, 1 + number) for number in range(8)]
    updates.append(Update({"m": LowRank(np.zeros((12, 2)), np.ones((2, 9)))}, {}, 5))

    sketched = aggregate(updates, {}, Pipeline(exact_up_to=4))
    exact = aggregate(updates, {}, Pipeline(exact_up_to=9))

    assert sketched.report.norms[-1] == 0
    np.testing.assert_allclose(sketched.master["m"].dense(), exact.master["m"].dense(), atol=1e-6)


OTHER = (5, 8)


def crowd(rng: np.random.Generator, count: int) -> list[Update]:
    """Return updates of two modules, of ranks and scales of their own."""
    start = {"m": low_rank(rng, SHAPE, 2, 2.0), "n": low_rank(rng, OTHER, 1)}
    return [
        Update({"m": low_rank(rng, SHAPE, 1 + i % 3, 0.5 + i), "n": trained_from(rng, start["n"])}, start, 1 + i)
        for i in range(count)
    ]


def dense_gram(updates: list[Update]) -> np.ndarray:
    """Return ⟨Δᵢ, Δⱼ⟩ from the dense innovations."""
    rows = [np.concatenate([term.dense().ravel() for term in u.innovation().values()]) for u in updates]
    return np.array(rows) @ np.array(rows).T


def test_exact_products_are_those_of_the_dense_innovations():
    """In the order of reading, with a trusted update's last; read from a list or from an object that restarts."""
    rng = np.random.default_rng(2)
    updates, (reference,) = crowd(rng, 3), crowd(rng, 1)
    updates.append(Update(updates[0].start, updates[0].start, 9))  # changed nothing
    for given in (updates, dict(enumerate(updates)).values()):
        cohort = Cohort(given, (), {})
        census = cohort.census()
        ordered = [updates[cohort.given(place)] for place in range(4)]

        alone = exact_products(cohort, census, map)
        beside = exact_products(cohort, census, map, reference)

        expected = dense_gram([*ordered, reference])
        np.testing.assert_allclose(alone.gram, expected[:4, :4], rtol=1e-12)
        np.testing.assert_allclose(beside.gram, expected[:4, :4], rtol=1e-12)
        np.testing.assert_allclose(beside.reference, expected[4], rtol=1e-12)
        assert (alone.error, alone.sketched, alone.reference) == (0.0, False, None)
        assert (beside.error, beside.sketched) == (0.0, False)


def of_sketches(updates: list[Update], seed: int, kind: tuple[int, int]) -> np.ndarray:
    """Return the inner products of the sketches of *updates*, from their dense innovations."""
    sketch = ProductSketch(len(updates), seed=seed, widths=kind)
    for place, update in enumerate(updates):
        for name, term in update.innovation().items():
            left, right = sketch.maps(name, term.shape, np.dtype(np.float64))
            sketch.values[place] += left @ term.dense() @ right
    return gram_of_sketches(sketch.values)


@pytest.mark.parametrize("trains", ["b", "a"])
def test_sketched_products_look_closer_at_the_public_side(trains: str):
    """By maps of 32 and 128 rows, whichever module they are of."""
    updates = crowd(np.random.default_rng(8), 4)
    cohort = Cohort(updates, (), {})
    census = cohort.census()
    ordered = [updates[cohort.given(place)] for place in range(4)]

    found = sketched_products(cohort, census, map, trains=trains)

    expected = of_sketches(ordered, cohort.seed, widths(trains))
    np.testing.assert_allclose(found.gram, expected, atol=1e-6 * np.abs(expected).max())
    assert not np.allclose(found.gram, of_sketches(ordered, cohort.seed, (64, 64)), rtol=1e-3)


def test_sketched_products_are_those_of_the_sketches():
    """The sum over modules, of width 64; the error is the worst of the first eight norms, one of them zero."""
    rng = np.random.default_rng(3)
    updates, (reference,) = crowd(rng, 10), crowd(rng, 1)
    updates.append(Update(updates[0].start, updates[0].start, 3))
    for given in (updates, dict(enumerate(updates)).values()):
        cohort = Cohort(given, (), {})
        census = cohort.census()
        ordered = [updates[cohort.given(place)] for place in range(11)]

        alone = sketched_products(cohort, census, map)
        beside = sketched_products(cohort, census, map, reference)

        everybody = [*ordered, reference]
        expected, exact = of_sketches(everybody, cohort.seed, (64, 64)), dense_gram(everybody)
        off = np.abs(np.sqrt([expected[i, i] / exact[i, i] for i in range(8) if exact[i, i] > 0]) - 1).max()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(alone.gram, expected[:11, :11], atol=1e-6 * scale)
        np.testing.assert_allclose(beside.gram, expected[:11, :11], atol=1e-6 * scale)
        np.testing.assert_allclose(beside.reference, expected[11], atol=1e-6 * scale)
        assert (alone.error, beside.error) == (pytest.approx(off, rel=1e-4), pytest.approx(off, rel=1e-4))
        assert (alone.sketched, beside.sketched, alone.reference, WIDTH) == (True, True, None, 64)
        assert cohort.finite


def test_the_error_of_a_sketch_is_relative_and_zero_where_nothing_changed():
    """However small the norms."""
    updates = crowd(np.random.default_rng(6), 3)
    small = [Update({n: t.times(1e-6) for n, t in u.trained.items()}, {}, 1 + i) for i, u in enumerate(updates)]
    none = [Update(u.start, u.start, 1 + i) for i, u in enumerate(updates)]

    errors = [sketched_products(c, c.census(), map).error for c in (Cohort(small, (), {}), Cohort(none, (), {}))]

    assert 1e-4 < errors[0] < 1
    assert errors[1] == 0.0


@pytest.mark.parametrize("get", [exact_products, sketched_products])
def test_a_reference_that_is_not_finite_is_called_the_reference(get):
    """It stands after all updates, so it has no place among them; and an update is named before it."""
    updates = crowd(np.random.default_rng(7), 3)
    bad = dict(updates[0].trained)
    bad["n"] = LowRank(np.full((5, 1), np.nan), bad["n"].a)
    huge = {name: LowRank(np.float64(1e160) * t.b, np.float64(1e160) * t.a) for name, t in updates[2].trained.items()}

    for given in (updates, dict(enumerate(updates)).values()):
        for reference, says in (
            (bad, "the reference: " + (r"n trained lora_B\[0, 0\] is NaN" if get is exact_products else "the norm")),
            (huge, "the reference: the norm"),
        ):
            cohort = Cohort(given, (), {})
            census = cohort.census()
            with pytest.raises(BadUpdate, match=says):
                get(cohort, census, map, Update(reference, {}, 1))
        cohort = Cohort([updates[1], Update(bad, {}, 1)], (), {})
        census = cohort.census()
        with pytest.raises(BadUpdate, match=r"update 1: n trained lora_B\[0, 0\] is NaN"):
            get(cohort, census, map, updates[2])


@pytest.mark.parametrize("get", [exact_products, sketched_products])
def test_an_innovation_that_overflows_is_named(get):
    """Each value is finite, and the norm is not: the update is named as it was given."""
    updates = crowd(np.random.default_rng(4), 3)
    huge = {
        name: LowRank(np.float64(1e160) * term.b, np.float64(1e160) * term.a)
        for name, term in updates[2].trained.items()
    }
    updates[2] = Update(huge, {}, 1)
    cohort = Cohort(updates, (), {})

    with pytest.raises(BadUpdate, match="update 2: the norm of its innovation overflows"):
        get(cohort, cohort.census(), map)


def elsewhere(task, blocks) -> Iterator:
    """Run every block in another thread, where NumPy warns of what overflows unless it is told not to."""
    with ThreadPoolExecutor(1) as pool:
        yield from pool.map(task, blocks)


@pytest.mark.parametrize("mapped", [map, elsewhere])
@pytest.mark.parametrize("get", [exact_products, sketched_products])
@pytest.mark.parametrize(
    ("size", "says"),
    [(1e85, "the norm of its innovation overflows"), (1e160, "the norm"), (np.inf, r"m trained lora_B\[0, 0\] is NaN")],
)
def test_what_overflows_is_refused_without_a_warning(get, mapped, size: float, says: str):
    """In the sketch, in its squares, or before: the refusal is all that is heard."""
    updates = []
    for number, update in enumerate(crowd(np.random.default_rng(11), 3)):
        times = np.float64(size if number == 1 else 1.0)  # all in float64: in float32 what is huge is infinite
        updates.append(Update({name: LowRank(times * t.b, times * t.a) for name, t in update.trained.items()}, {}, 1))
    cohort = Cohort(updates, (), {})
    census = cohort.census()

    with pytest.raises(BadUpdate, match=f"update 1: {says}"):
        get(cohort, census, mapped)


@pytest.mark.parametrize("size", [1e160, np.inf, np.nan])
def test_the_norm_of_what_overflows_is_infinite(size: float):
    """Not a number would be neither too long nor short enough."""
    term = low_rank(np.random.default_rng(12), SHAPE, 2)

    assert norm_of(Read(0, "m", LowRank(np.float64(size) * term.b, np.float64(size) * term.a), NONE)) == np.inf


def test_the_first_product_that_overflows_is_named():
    """A norm if one does; else the first row that has an infinite product."""
    cohort = Cohort(dict(enumerate(crowd(np.random.default_rng(5), 3))).values(), (), {})
    product, norm = np.eye(3), np.eye(3)
    product[1, 2] = product[2, 1] = np.inf
    norm[0, 2] = norm[2, 0] = norm[2, 2] = np.nan

    for gram, place in ((product, 1), (norm, 2)):
        with pytest.raises(BadUpdate, match=f"update {place}:"):
            checked(gram, cohort)
    assert checked(np.eye(3), cohort).tolist() == np.eye(3).tolist()


def test_norms_are_roots_of_the_diagonal():
    """Rounding below zero is zero."""
    assert norms_of(np.array([[9.0, 5.0], [5.0, -1e-20]])).tolist() == [3.0, 0.0]
