"""When the geometric median is near enough, and what it says about how near it is."""

import numpy as np
import pytest

from ballots import ballot_of, cast, facts
from potluck.aggregation import BadUpdate
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.median import Spread, geometric_median


def rows_of(n: int):
    return np.random.default_rng(n).normal(size=(n, 12)) + 1


def test_a_median_that_has_not_come_near_is_refused():
    """Three iterations are not a median, and a step never hands on less than its name says."""
    rows = np.vstack([rows_of(9), 1e6 * rows_of(1)])

    with pytest.raises(BadUpdate, match=r"^after 2 iterations the geometric median still moves by .*e.* least"):
        cast(ballot_of(rows, facts(10, f=1)), ["geomedian"], {"median_iterations": 2})


def test_a_vector_that_holds_half_of_the_weight_is_the_median():
    """Weiszfeld's iteration came near it for ever: the sum of distances is all but flat on the way."""
    rows = np.array([[2.0, 0], [0, -1.0], [-1.0, -2.0]])

    found = geometric_median(rows @ rows.T, np.array([3.0, 2.0, 1.0]))

    assert found.coefficients @ rows == pytest.approx(rows[0], abs=1e-6)
    assert (found.moved, found.excess) == (0, 0)
    assert found.iterations < 10


def test_a_median_stopped_early_is_accepted_up_to_exactly_a_hundredth():
    excesses, iterations = [], 1
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
    rows, weights = rng.normal(size=(7, 3)) * [[1], [1], [1], [1], [1], [3000], [4000]], rng.uniform(1, 2, 7)
    gram = rows @ rows.T

    def cost(coefficients):
        return float(weights @ np.linalg.norm(rows - coefficients @ rows, axis=1))

    whole = geometric_median(gram, weights, smoothing=1e-9)
    least = cost(whole.coefficients)
    assert whole.iterations > 6
    before, plain = weights / weights.sum(), 0
    for iterations in range(1, whole.iterations):
        early = geometric_median(gram, weights, smoothing=1e-9, iterations=iterations)
        assert -1e-15 <= 1 - least / cost(early.coefficients) <= early.excess
        assert early.iterations == iterations
        away = rows - before @ rows
        pulls = weights / weights.sum() / np.linalg.norm(away, axis=1)
        slope = np.linalg.norm(pulls @ away)
        if early.excess > slope:  # no leap, which halves it
            plain += 1
            moved = slope / (pulls.sum() - pulls.max()) / np.median(np.linalg.norm(rows, axis=1))
            assert early.excess == pytest.approx(2 * slope, rel=1e-6)
            assert early.moved == pytest.approx(moved, rel=1e-6)
            assert early.coefficients == pytest.approx(pulls / pulls.sum(), rel=1e-6)
        before = early.coefficients
    assert 0 < plain < whole.iterations - 1


def around(seed: int, nearest: float, others: float = -3):
    """Return rows and weights whose geometric median is known: where the weighted unit vectors to them sum to zero.

    How far each row lies does not matter: the first lies *nearest* away, the rest 10^others to ten.
    """
    rng = np.random.default_rng(seed)
    units = rng.normal(size=(8, 5))
    units /= np.linalg.norm(units, axis=1)[:, None]
    weights = rng.uniform(1, 1.2, 8)
    last = -(weights @ units)
    units = np.vstack([units, last / np.linalg.norm(last)])
    weights = np.append(weights, np.linalg.norm(last))
    away = 10 ** rng.uniform(others, 1, 9)
    away[0] = nearest
    middle = rng.normal(size=5)
    return middle + away[:, None] * units, weights, middle


@pytest.mark.parametrize("nearest", [1.0, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9])
@pytest.mark.parametrize("seed", range(12))
def test_a_median_close_beside_a_vector_is_found_and_soon(nearest: float, seed: int):
    """Weiszfeld's iteration alone creeps there: it stood still a hundredth of the way off, or not for thousands."""
    rows, weights, middle = around(seed, nearest)

    found = geometric_median(rows @ rows.T, weights)

    assert found.coefficients @ rows == pytest.approx(middle, abs=5e-7)
    assert found.iterations < 40
    assert found.coefficients.min() >= 0
    assert found.coefficients.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("places", [[3.0], [1.0, 4.0], [1.0, 2.0, 7.0], [-5.0, 0.5, 0.6, 1e6, 0.0]])
def test_the_median_of_vectors_on_a_line_is_the_middle_one(places: list[float]):
    """Along a line the sum of distances has no curvature, and Newton's step no length."""
    rows = np.outer(places, [0.6, 0.8])

    found = geometric_median(rows @ rows.T, np.ones(len(places)))

    middle = np.median(places) if len(places) % 2 else np.mean(places)
    assert found.coefficients @ rows == pytest.approx(middle * np.array([0.6, 0.8]), abs=1e-5)


@pytest.mark.parametrize(("setting", "value"), [("smoothing", 2.0), ("tolerance", 0.5)])
def test_a_setting_of_the_step_is_one_of_the_median(setting: str, value: float):
    """Each moves the result of this round."""
    rows = rows_of(9)
    gram, weights = rows @ rows.T, np.full(9, 1 / 9)

    found = cast(Ballot(facts(9), np.eye(9), weights, gram), ["geomedian"], {f"median_{setting}": value})

    expected = geometric_median(gram, weights, **{setting: value}).coefficients
    assert found.weights == pytest.approx(expected, rel=1e-12)
    assert np.abs(expected - geometric_median(gram, weights).coefficients).max() > 1e-5


def test_a_mean_that_is_a_vector_and_not_the_median_is_left():
    """Within ν of a vector its distance has no direction, and nothing may be divided by it."""
    rows = np.array([[0.0, 0], [3, 0], [-1, 1], [-2, -1]])
    weights = np.array([0.1, 1, 1, 1])

    found = geometric_median(rows @ rows.T, weights)

    away = found.coefficients @ rows - rows
    lengths = np.linalg.norm(away, axis=1)
    assert lengths.min() > 0.1
    assert weights / lengths @ away == pytest.approx([0, 0], abs=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_the_lowest_place_beside_a_vector_is_where_the_median_is_if_it_is_near(seed: int):
    """To first order in the distance; an error of the curvature there would be one of the way."""
    rows, weights, middle = around(seed, 1e-4, 0.0)
    spread = Spread((rows - rows[0]) @ (rows - rows[0]).T, weights / weights.sum(), 1e-7)

    place, way = spread.beside(0)

    assert way == pytest.approx(1e-4, rel=1e-2)
    assert place @ (rows - rows[0]) == pytest.approx(middle - rows[0], abs=2e-6)
