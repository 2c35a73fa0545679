"""Rounds that once went wrong silently: overflow, mixed ranks, halves, too many who may be hostile."""

import math

import numpy as np
import pytest

from adapters import low_rank, trained_from
from potluck.aggregation import BadSetting, BadUpdate, LowRank, Pipeline, Update, aggregate


def crowd(count: int, *, rank: int = 3, dtype: type = np.float32) -> list[Update]:
    """Return updates of clients that share a start."""
    rng = np.random.default_rng(4)
    start = {"m": low_rank(rng, (30, 24), rank, 2.0)}
    made = []
    for _ in range(count):
        moved = trained_from(rng, start["m"])
        trained = {"m": LowRank(moved.b.astype(dtype), moved.a.astype(dtype), 2.0)}
        made.append(Update(trained, {"m": LowRank(start["m"].b.astype(dtype), start["m"].a.astype(dtype), 2.0)}, 1))
    return made


def test_a_norm_that_overflows_is_infinite():
    """Infinity minus infinity is no number, and a norm of 0 would let the update pass."""
    rng = np.random.default_rng(0)
    huge = LowRank(1e200 * rng.normal(size=(5, 2)), 1e200 * rng.normal(size=(2, 4)))

    with np.errstate(over="ignore", invalid="ignore"):
        assert huge.norm() == math.inf


@pytest.mark.parametrize("place", range(5))
def test_an_update_whose_norm_overflows_is_refused(place: int):
    updates = crowd(5)
    trained = updates[place].trained["m"]
    updates[place] = Update({"m": LowRank(1e200 * trained.b.astype("f8"), trained.a)}, {}, 1)

    with pytest.raises(BadUpdate, match="overflows"):
        aggregate(updates, {}, Pipeline(weights=("uniform",)))


def test_a_sketched_round_of_mixed_ranks_keeps_the_rank_of_the_widest():
    """Whoever is read first must not decide how many directions are looked for."""
    rng = np.random.default_rng(1)
    shape = (70, 80)
    updates = [Update({"m": low_rank(rng, shape, rank)}, {}, 1) for rank in [2] * 60 + [16] * 20]

    sketched = aggregate(updates, {}, Pipeline(weights=())).master["m"]
    exact = aggregate(updates, {}, Pipeline(weights=(), exact_up_to=80)).master["m"]

    assert sketched.rank == exact.rank == 64
    assert np.linalg.norm(sketched.dense() - exact.dense()) <= 0.15 * np.linalg.norm(exact.dense())


@pytest.mark.parametrize("exact_up_to", [64, 3], ids=["exact", "sketched"])
def test_halves_are_taken(exact_up_to: int):
    """PEFT saves them; linear algebra does not take them."""
    pipeline = Pipeline(weights=("norm_bound",), rank=6, exact_up_to=exact_up_to)

    master = aggregate(crowd(8, dtype=np.float16), {}, pipeline).master["m"]

    expected = aggregate(crowd(8), {}, pipeline).master["m"]
    assert np.linalg.norm(master.dense() - expected.dense()) <= 0.1 * np.linalg.norm(expected.dense())


@pytest.mark.parametrize(("count", "f"), [(7, 99), (4, 2), (5, 3)])
def test_nothing_withstands_half_of_a_round(count: int, f: int):
    """Also where no step looks at f: a promise that nobody keeps is not given."""
    with pytest.raises(BadUpdate, match=f"{count} updates, of which {f} may be hostile"):
        aggregate(crowd(count), {}, Pipeline(weights=("uniform",), f=f))

    aggregate(crowd(5), {}, Pipeline(weights=("uniform",), f=2))


def test_what_needs_two_readings_is_refused_of_an_iterator():
    """Ignored, the report would have nothing to say and look as if nothing had been found."""
    updates = crowd(3)

    for options in ({"pipeline": Pipeline(screened=True)}, {"reference": updates[0]}):
        with pytest.raises(BadSetting, match="only once"):
            aggregate(iter(updates), {}, **options)
