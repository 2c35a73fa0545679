"""Known answers of the weight steps, over the products of factors whose gauge nobody can see."""

import json
from pathlib import Path

import numpy as np
import pytest

from ballots import ballot_of, cast, facts
from potluck.aggregation import Update
from potluck.aggregation.weights.registry import WEIGHTS

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_weights.json").read_text("utf-8"))
ROWS = np.array(VECTORS["rows"], np.float64)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_steps_give_the_known_answers(case: dict):
    """T5: what ByzFL gives for every rule that looks at no coordinate."""
    known = facts(len(ROWS), f=case["f"], steps=case.get("taken"), seed=case.get("seed", 0))
    given = {key: case[key] for key in ("weights", "reference") if key in case}

    ballot = cast(ballot_of(ROWS, known, **given), case["steps"], case.get("settings"))

    tolerance = case.get("tolerance", 1e-9)
    assert ballot.coefficients @ ROWS == pytest.approx(np.array(case["result"]), abs=tolerance)
    if "vectors" in case:
        assert ballot.mix @ ROWS == pytest.approx(np.array(case["vectors"]), abs=tolerance)
    if "coefficients" in case:
        assert ballot.coefficients == pytest.approx(np.array(case["coefficients"]), abs=tolerance)


def test_factors_are_what_an_update_says_of_itself():
    """1, its examples, and (1 + τ)^(−½): by hand for seven examples at 0, 3 and 8 versions."""
    update = Update({}, {}, 7)

    assert [WEIGHTS[name]()(update) for name in ("uniform", "examples", "staleness")] == [1.0, 7.0, 1.0]
    late = [WEIGHTS["staleness"]()(Update({}, {}, 7, staleness=versions)) for versions in (3, 8)]
    assert late == pytest.approx([1 / 2, 1 / 3], rel=1e-15)
    assert not any(WEIGHTS[name].reads_gram for name in ("uniform", "examples", "staleness"))
