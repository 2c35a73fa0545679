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


def test_noise_that_takes_minutes_to_account_for_and_protects_nobody_is_refused():
    with pytest.raises(BadSetting, match=r"noise is 0\.05, and below 0\.1 it protects nobody"):
        Differential(unit="example", noise=0.05)
    assert [Differential(unit="example", noise=noise).noise for noise in (0.0, 0.1)] == [0.0, 0.1]
