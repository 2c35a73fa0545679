"""When the geometric median is near enough, and what it says about how near it is."""

import numpy as np
import pytest

from ballots import ballot_of, cast, facts
from potluck.aggregation import BadUpdate
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.median import geometric_median


def rows_of(n: int):
    return np.random.default_rng(n).normal(size=(n, 12)) + 1


def test_a_median_that_has_not_come_near_is_refused():
    """Three iterations are not a median, and a step never hands on less than its name says."""
    rows = np.vstack([rows_of(9), 1e6 * rows_of(1)])

    with pytest.raises(BadUpdate, match=r"^after 2 iterations the geometric median still moves by .*e.* least"):
        cast(ballot_of(rows, facts(10, f=1)), ["geomedian"], {"median_iterations": 2})


def test_a_median_is_accepted_where_its_sum_of_distances_is_within_a_hundredth():
    """Where half of the weight is in one place the sum is flat, and standing still takes for ever."""
    rows = np.array([[2.0, 0], [0, -1.0], [-1.0, -2.0]])
    weights = np.array([3.0, 2.0, 1.0])
    whole = geometric_median(rows @ rows.T, weights)
    assert whole.moved > 1e-8
    assert whole.iterations == 5000
    cast(ballot_of(rows, weights=weights), ["geomedian"])


@pytest.mark.parametrize("iterations", [3, 5])
def test_a_median_stopped_early_is_accepted_up_to_exactly_a_hundredth(iterations: int):
    excesses = []
    for seed in range(200):
        rows = np.random.default_rng(seed).normal(size=(9, 4)) + 2
        excesses.append(geometric_median(rows @ rows.T, np.ones(9), iterations=iterations).excess)
        ballot = Ballot(facts(9), np.eye(9), np.full(9, 1 / 9), rows @ rows.T)
        if excesses[-1] > 0.01:
            with pytest.raises(BadUpdate, match="still moves"):
                cast(ballot, ["geomedian"], {"median_iterations": iterations})
        else:
            cast(ballot, ["geomedian"], {"median_iterations": iterations})
    assert any(0.007 < excess <= 0.01 for excess in excesses)
    assert any(0.01 < excess <= 0.013 for excess in excesses)


def test_the_excess_of_a_median_is_never_less_than_it_is():
    """The bound is what makes stopping early honest: it holds at every iteration, far from the end as well."""
    rng = np.random.default_rng(6)
    rows, weights = rng.normal(size=(7, 3)) * [[1], [1], [1], [1], [1], [30], [4]], rng.uniform(1, 2, 7)

    def cost(coefficients):
        return float(weights @ np.linalg.norm(rows - coefficients @ rows, axis=1))

    least = cost(geometric_median(rows @ rows.T, weights, smoothing=1e-9, tolerance=1e-13).coefficients)
    for iterations in range(1, 30):
        early = geometric_median(rows @ rows.T, weights, iterations=iterations)
        assert 0 <= 1 - least / cost(early.coefficients) <= early.excess
        assert early.iterations == iterations
        before = weights / weights.sum()
        if iterations > 1:
            before = geometric_median(rows @ rows.T, weights, iterations=iterations - 1).coefficients
        away = rows - before @ rows
        pulls = weights[:, None] / weights.sum() * away / np.linalg.norm(away, axis=1)[:, None]
        step = np.linalg.norm((early.coefficients - before) @ rows) / np.median(np.linalg.norm(rows, axis=1))
        assert early.excess == pytest.approx(2 * np.linalg.norm(pulls.sum(axis=0)), rel=1e-6)
        assert early.moved == pytest.approx(step, rel=1e-6)


@pytest.mark.parametrize(("setting", "value"), [("smoothing", 2.0), ("tolerance", 0.05)])
def test_a_setting_of_the_step_is_one_of_the_median(setting: str, value: float):
    """Each moves the result of this round."""
    rows = rows_of(9)
    gram, weights = rows @ rows.T, np.full(9, 1 / 9)

    found = cast(Ballot(facts(9), np.eye(9), weights, gram), ["geomedian"], {f"median_{setting}": value})

    expected = geometric_median(gram, weights, **{setting: value}).coefficients
    assert found.weights == pytest.approx(expected, rel=1e-12)
    assert np.abs(expected - geometric_median(gram, weights).coefficients).max() > 1e-4
