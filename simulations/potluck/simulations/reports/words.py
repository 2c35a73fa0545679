"""Numbers for people: as the report, its pictures and the comparison write them."""

import math
from typing import Final

NONE: Final = "\N{EN DASH}"
"""In the place of a number that there is not."""
UNITS: Final = ((24.0, "days"), (1.0, "hours"), (1 / 60, "minutes"), (1 / 3600, "seconds"))
"""Of simulated time, in hours: the first that a run has two of."""
_SIZES: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_COUNTS: Final = ("", " k", " M", " G", " T")
_STEP: Final = 1000.0
_LARGE: Final = 100.0
_DAY_H: Final = 48.0


def size(count: float) -> str:
    """Return a number of bytes: 18,400,000 is "18.4 MB"."""
    return _scaled(count, _SIZES, " ")


def count(number: float) -> str:
    """Return how many there are: 18,400,000 is "18.4 M", and up to 9,999 is written out."""
    if math.isfinite(number) and abs(number) < 10 * _STEP:
        return f"{number:,.0f}"
    return _scaled(number, _COUNTS, "")


def span(hours: float) -> str:
    """Return simulated time: 0.25 is "15 min", 30 is "30.0 h", 72 is "3.0 days"."""
    if math.isnan(hours):
        return NONE
    if hours < 1:
        return f"{60 * hours:.0f} min" if 60 * hours >= 1 else f"{3600 * hours:.0f} s"
    return f"{hours:.1f} h" if hours < _DAY_H else f"{hours / 24:.1f} days"


def unit_of(hours: float) -> tuple[float, str]:
    """Return the unit in which so much simulated time is told, in hours, and its name."""
    return next((unit for unit in UNITS if hours >= 2 * unit[0]), UNITS[-1])


def loss(nats: float) -> str:
    """Return a loss in nats per token, to three places."""
    return NONE if math.isnan(nats) else f"{nats:.3f}"


def percent(share: float, *, signed: bool = False) -> str:
    """Return a share of one in per cent: 0.125 is "12.5 %"."""
    if math.isnan(share):
        return NONE
    return f"{100 * share:{'+' if signed else ''}.1f} %"


def brief(text: str) -> str:
    """Return an amount without a decimal that says nothing, for the ends of axes: "50.0 MB" is "50 MB"."""
    return text.replace(".0 ", " ")


def _scaled(number: float, units: tuple[str, ...], gap: str) -> str:
    if not math.isfinite(number):
        return NONE
    step = 0
    while abs(number) >= _STEP and step < len(units) - 1:
        number, step = number / _STEP, step + 1
    digits = 0 if step == 0 or abs(number) >= _LARGE else 1
    return f"{number:.{digits}f}{gap}{units[step]}"
