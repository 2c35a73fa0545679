"""Rules that look at coordinates: known answers, what liars cannot do, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potluck.aggregation import AGGREGATORS, BadUpdate, LowRank, Pipeline, Update, aggregate
from potluck.aggregation.coordinates import Choice

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_rules.json").read_text("utf-8"))
NAMES = ["bulyan", "median", "trimmed_mean"]
HONEST = arrays(np.float64, (5, 9), elements=st.floats(-1, 1, width=32))


def picked(name: str, updates, f: int):
    """Return one value for each column of *updates*."""
    return AGGREGATORS[name]().pick(np.sort(np.array(updates, float).T, axis=1), f)


@pytest.mark.parametrize("case", VECTORS["coordinates"], ids=lambda case: case["name"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_known_answers_of_coordinates(case, dtype):
    """T5, and Bulyan's second stage by hand; float32 in, float64 out."""
    values = np.sort(np.array(case["updates"], dtype).T, axis=1)

    actual = AGGREGATORS[case["rule"]]().pick(values, case["f"])

    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, case["result"], rtol=1e-15 if dtype == np.float64 else 1e-7)


def test_a_mean_of_float32_is_taken_in_float64():
    """2²⁴ + 1 is no float32: a mean in float32 would lose the ones."""
    values = np.array([[-(2**24), 1, 1, 1, 2**24]], np.float32)

    for name, f, expected in (("trimmed_mean", 0, 0.6), ("trimmed_mean", 1, 1.0), ("median", 2, 1.0)):
        assert AGGREGATORS[name]().pick(values.copy(), f)[0] == pytest.approx(expected, rel=1e-15)
    assert AGGREGATORS["median"]().pick(np.array([[0, 1, 2**24 + 2, 2**25]], np.float32), 1)[0] == 2**23 + 1.5


@pytest.mark.parametrize(("name", "beyond"), [("median", 0), ("trimmed_mean", 0), ("bulyan", 1)])
@given(honest=HONEST, lies=arrays(np.float64, (2, 9), elements=st.floats(-1e30, 1e30)), order=st.permutations(range(7)))
def test_two_liars_cannot_leave_what_the_honest_said(name: str, beyond: int, honest, lies, order):
    """Whatever they say, wherever they stand: each coordinate stays between honest values.

    Bulyan's nearest may be a lie, but one no farther from an honest median than some honest value.
    """
    spread = beyond * (honest.max(axis=0) - honest.min(axis=0)) + 1e-12

    actual = picked(name, np.vstack([honest, lies])[order], 2)

    assert np.all(actual >= honest.min(axis=0) - spread)
    assert np.all(actual <= honest.max(axis=0) + spread)


@pytest.mark.parametrize("name", NAMES)
@given(values=arrays(np.float64, (7, 9), elements=st.floats(-1e3, 1e3)), order=st.permutations(range(7)))
def test_no_order_of_updates_changes_a_coordinate(name: str, values, order):
    """To the last bit, in any layout of memory."""
    choice = Choice(AGGREGATORS[name](), 1, np.eye(7), norms=False, sampled=False, seed=0)

    first = choice.picked(values)

    assert first.tobytes() == choice.picked(np.asfortranarray(values[order])).tobytes()
    assert first.tobytes() == choice.picked(np.ascontiguousarray(values[order])).tobytes()


@pytest.mark.parametrize("name", NAMES)
@given(
    values=arrays(np.float64, (7, 9), elements=st.floats(-1e3, 1e3)),
    shift=st.floats(-1e3, 1e3),
    factor=st.floats(0.01, 100),
)
def test_coordinates_move_along_with_all_updates(name: str, values, shift: float, factor: float):
    """A shift and a positive factor for all are a shift and a factor of the result."""
    base, moved = picked(name, values, 0), picked(name, values * factor + shift, 0)

    np.testing.assert_allclose(moved, base * factor + shift, atol=1e-9 * (1 + factor) * 1e3)


@pytest.mark.parametrize(
    ("name", "f", "least"),
    [
        ("median", 2, 5),
        ("median", 0, 1),
        ("trimmed_mean", 3, 7),
        ("trimmed_mean", 0, 1),
        ("bulyan", 2, 7),
        ("bulyan", 0, 3),
    ],
)
def test_too_few_updates_are_refused_with_the_numbers(name: str, f: int, least: int):
    """Exactly at the bound it works, one below it refuses; bulyan is given θ = n − 2f of its n ≥ 4f + 3."""
    rng = np.random.default_rng(1)

    assert picked(name, rng.normal(size=(least, 4)), f).shape == (4,)

    selected = 2 * f if name == "bulyan" else 0
    with pytest.raises(
        BadUpdate, match=f"{name} got {least - 1 + selected} .* {f} may .* {least + selected}\\b"
    ) as refusal:
        picked(name, rng.normal(size=(least - 1, 4)), f)
    assert "fix: wait for more updates, or lower f" in refusal.value.__notes__


@pytest.mark.parametrize(("name", "least"), [("median", 3), ("trimmed_mean", 3), ("bulyan", 7)])
def test_a_round_too_small_for_its_f_is_refused(name: str, least: int):
    """Through the driver, at n exactly and one below: a rule that cannot give what it promises says so."""
    rng = np.random.default_rng(2)
    public = rng.normal(size=(2, 6))
    updates = [Update({"w": LowRank(rng.normal(size=(5, 2)), public)}, {}, 1) for _ in range(least)]

    assert aggregate(updates, {}, Pipeline(rule=name, f=1)).master["w"].rank == 2

    with pytest.raises(BadUpdate, match=str(least - 1)):
        aggregate(updates[:-1], {}, Pipeline(rule=name, f=1))


def test_a_hundred_thousand_coordinates_at_once():
    """Larger than a block, against NumPy's own, at an even number of updates as in a large round."""
    values = np.random.default_rng(3).normal(size=(20_000, 24)).astype(np.float32)
    ordered = np.sort(values.astype(np.float64), axis=1)

    np.testing.assert_array_equal(AGGREGATORS["median"]().pick(ordered, 4), np.median(ordered, axis=1))
    np.testing.assert_allclose(
        AGGREGATORS["trimmed_mean"]().pick(ordered, 4), ordered[:, 4:20].mean(axis=1), rtol=1e-13, atol=1e-15
    )


@pytest.mark.parametrize(
    ("weights", "rule", "result"),
    [
        (("nnm",), "trimmed_mean", [1.2, 2, 3.2, 3.8]),
        (("krum",), "median", [2, 1, 4, 3]),
        (("norm_bound", "nnm"), "median", None),
    ],
)
def test_weight_steps_come_before_coordinates(weights, rule: str, result):
    """T5: NNM then TrMean as byzfl has it; a selection leaves fewer columns, a mixture other ones."""
    rows = np.array(VECTORS["coordinates"][0]["updates"], float)
    squares = [sum(np.sum((row - other) ** 2) for other in rows) for row in rows]
    updates = [Update({"w": LowRank(row[:, None], np.ones((1, 1)))}, {}, 1) for row in rows]
    f = 2 if weights[0] != "krum" else 0

    after = aggregate(updates, {}, Pipeline(rule=rule, weights=weights, f=f)).master["w"].dense()[:, 0]

    if weights == ("krum",):
        np.testing.assert_array_equal(rows[np.argmin(squares)], result)  # of nobody hostile: the nearest to all others
    if result is None:
        norms = np.linalg.norm(rows, axis=1)
        clipped = rows * np.minimum(1, np.median(norms) / norms)[:, None]
        order = [np.argsort(np.linalg.norm(clipped - row, axis=1), kind="stable")[:5] for row in clipped]
        result = np.median([clipped[near].mean(axis=0) for near in order], axis=0)
    np.testing.assert_allclose(after, result, rtol=1e-12)
