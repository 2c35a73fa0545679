"""Inner products of a round: sketched beside exact, for whatever starts and ranks the updates have."""

import numpy as np

from adapters import low_rank, trained_from
from potluck.aggregation import LowRank, Pipeline, Update, aggregate
from potluck.aggregation.cohort import Read
from potluck.aggregation.products import Mapper
from potluck.aggregation.sketch import ProductSketch

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
    ]


def test_a_sketch_is_of_what_training_changed():
    """Ω_L·(s·B·A − s₀·B₀·A₀)·Ω_R entry by entry, however parts are gathered; nothing changed gives zeros."""
    parts = mixed(np.random.default_rng(0))
    for columns in (1, 5, 256):
        sketch = ProductSketch(len(parts), seed=4, width=5)
        mapper = Mapper(sketch, columns)
        for place, (trained, start) in enumerate(parts):
            mapper.add(Read(place, "m", trained, start))
        mapper.flush()
        mapper.flush()

        left, right = sketch.maps("m", SHAPE, np.dtype(np.float64))
        expected = [left @ (trained.dense() - start.dense()) @ right for trained, start in parts]
        np.testing.assert_allclose(sketch.values, expected, atol=2e-6)
        assert not sketch.values[[6, 7, 8]].any()


def test_a_sketched_round_has_a_client_that_changed_nothing():
    """It trained B = 0 from nothing: its norm is 0, and the others' weights and sum are those of the exact round."""
    rng = np.random.default_rng(1)
    updates = [Update({"m": low_rank(rng, SHAPE, 2, 2.0)}, {}, 1 + number) for number in range(8)]
    updates.append(Update({"m": LowRank(np.zeros((12, 2)), np.ones((2, 9)))}, {}, 5))

    sketched = aggregate(updates, {}, Pipeline(exact_up_to=4))
    exact = aggregate(updates, {}, Pipeline(exact_up_to=9))

    assert sketched.report.norms[-1] == 0
    np.testing.assert_allclose(sketched.master["m"].dense(), exact.master["m"].dense(), atol=1e-6)
