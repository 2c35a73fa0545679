"""Time spans as people write them."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from potluck.cli.durations import UNITS, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90),
        ("90m", 5_400),
        ("15 min", 900),
        ("12h", 43_200),
        ("7d", 604_800),
        ("1.5h", 5_400),
        (" 2H ", 7_200),
        ("10", 600),
    ],
)
def test_a_span_is_read_as_it_is_written(text: str, expected: float):
    """A bare number is minutes: `potluck pause 10`."""
    assert seconds(text) == expected


@given(st.integers(1, 3_650), st.sampled_from(sorted(UNITS)))
def test_every_unit_scales(count: int, unit: str):
    assert seconds(f"{count}{unit}") == count * UNITS[unit]


@pytest.mark.parametrize(
    "text",
    ["", "0", "0h", "-5m", "1w", "h", "1h30m", "1e3", "inf", "nan", "ten minutes", "１０m x", "11y", "99999999999999d"],
)
def test_what_is_no_span_is_wrong_usage(text: str):
    with pytest.raises(typer.BadParameter, match="write 15m, 2h or 7d"):
        seconds(text)
