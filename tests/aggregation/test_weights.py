"""Known answers of the weight steps, over the products of factors whose gauge nobody can see."""

import json
from pathlib import Path

import numpy as np
import pytest

from ballots import ballot_of, cast, facts

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
