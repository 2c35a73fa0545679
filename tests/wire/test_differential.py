"""What a recipe may promise of privacy is what somebody can account for."""

import pytest

from potluck.aggregation.errors import BadSetting
from potluck.wire.differential import Differential


@pytest.mark.parametrize("unit", ["example", "user-central"])
def test_a_delta_that_cannot_be_accounted_for_is_refused_when_the_recipe_is_read(unit: str):
    with pytest.raises(BadSetting, match=r"delta is 1e-15, and below 1e-12 nobody can account for it") as refused:
        Differential(unit=unit, delta=1e-15)  # type: ignore[arg-type]
    assert "set delta to 1e-12 or more" in str(refused.value.__notes__)
    assert Differential(unit=unit, delta=1e-12).delta == 1e-12  # type: ignore[arg-type]
