"""The weights stage: what the first ballot says, what each step is handed, and when inner products are computed."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from adapters import low_rank
from potluck.aggregation import Update
from potluck.aggregation.cohort import Cohort
from potluck.aggregation.products import exact_products, sketched_products
from potluck.aggregation.screening import screen
from potluck.aggregation.weighing import Wanted, name_of, weighed
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.registry import WEIGHTS

SHAPE = (8, 6)


@dataclass(frozen=True)
class Times:
    """Multiplies all weights; reads no products."""

    factor: float
    reads_gram: ClassVar[bool] = False

    def cast(self, ballot: Ballot) -> Ballot:
        return ballot.weighted(self.factor * ballot.weights)


@dataclass(frozen=True)
class Longest:
    """Leaves all weight to the update with the largest norm."""

    reads_gram: ClassVar[bool] = True

    def cast(self, ballot: Ballot) -> Ballot:
        return ballot.weighted(1.0 * (np.diag(ballot.gram) == np.diag(ballot.gram).max()))


def round_of(count: int = 5) -> Cohort:
    rng = np.random.default_rng(1)
    updates = [Update({"m": low_rank(rng, SHAPE, 2, 1.0 + i)}, {}, 1 + i) for i in range(count)]
    return Cohort(updates, (lambda u: u.examples,), {})


def wanted(*steps, exact: bool = True, screened: bool = False, reference: Update | None = None) -> Wanted:
    return Wanted(steps, exact, screened, reference, map)


def test_without_need_no_products_are_computed():
    """Shares of the factors' products, each innovation for itself, then the steps one after the other."""
    cohort = round_of()
    census = cohort.census()
    shares = census.raw / 15

    result = weighed(cohort, census, wanted(Times(2.0), Times(-3.0)))

    assert (result.products, result.findings) == (None, ())
    np.testing.assert_allclose(result.ballot.weights, -6 * shares, rtol=1e-15)
    assert result.ballot.mix.tolist() == np.eye(5).tolist()
    assert (result.ballot.products, result.ballot.reference, result.ballot.facts) == (None, None, census.facts)
    assert [stage.step for stage in result.history] == ["Times", "Times"]
    np.testing.assert_allclose([stage.coefficients for stage in result.history], [2 * shares, -6 * shares], rtol=1e-15)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("why", ["step", "screened", "reference"])
def test_products_are_computed_where_something_reads_them(why: str, *, exact: bool):
    """A step, screening, or a trusted update each are enough; exact or sketched as the round is."""
    cohort = round_of()
    census = cohort.census()
    trusted = Update({"m": low_rank(np.random.default_rng(2), SHAPE, 1)}, {}, 1) if why == "reference" else None
    steps = (Times(1.0), Longest()) if why == "step" else ()

    result = weighed(cohort, census, wanted(*steps, exact=exact, screened=why == "screened", reference=trusted))

    expected = (exact_products if exact else sketched_products)(round_of(), census, map, trusted)
    assert np.array_equal(result.products.gram, expected.gram)
    assert np.array_equal(result.ballot.products, expected.gram)
    assert result.ballot.facts is census.facts
    assert (result.products.error, result.products.sketched) == (expected.error, not exact)
    if why == "reference":
        assert np.array_equal(result.ballot.reference, expected.reference)
    else:
        assert result.ballot.reference is None
    if why == "step":
        assert result.ballot.weights[np.argmax(np.diag(expected.gram))] == result.ballot.weights.sum() == 1
        assert [stage.step for stage in result.history] == ["Times", "Longest"]


def test_a_sketch_is_of_what_the_rules_clients_train():
    """It looks closer at the side that is public."""
    grams = []
    for trains in ("a", "b"):
        cohort = round_of()
        census = cohort.census()
        stage = Wanted((), exact=False, screened=True, reference=None, mapped=map, trains=trains)
        grams.append(weighed(cohort, census, stage).products.gram)
        assert np.array_equal(grams[-1], sketched_products(cohort, census, map, trains=trains).gram)
    assert not np.array_equal(*grams)


def test_screening_reads_the_round_and_the_error_of_its_products():
    """Two copies among others, and the reach of a sketch's error, as screen says them."""
    rng = np.random.default_rng(3)
    copied = low_rank(rng, SHAPE, 2)
    updates = [Update({"m": low_rank(rng, SHAPE, 2)}, {}, 1 + i) for i in range(6)]
    updates += [Update({"m": copied}, {}, 9), Update({"m": copied}, {}, 10)]
    for exact in (True, False):
        cohort = Cohort(updates, (), {})
        census = cohort.census()

        result = weighed(cohort, census, wanted(exact=exact, screened=True))

        assert result.findings == screen(census.facts, result.products.gram, error=result.products.error)
        assert {"duplicate"} <= {finding.check for finding in result.findings}


def test_a_step_is_called_what_a_recipe_calls_it():
    """One that no recipe can name is called by its class."""
    assert {name: name_of(WEIGHTS[name]()) for name in ("krum", "nnm", "geomedian")} == {
        "krum": "krum",
        "nnm": "nnm",
        "geomedian": "geomedian",
    }
    assert name_of(Longest()) == "Longest"
