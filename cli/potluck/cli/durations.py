"""Time spans as people write them: 90m, 12h, 7d."""

import re
from types import MappingProxyType
from typing import Final

import typer

UNITS: Final = MappingProxyType({"s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0})
LONGEST_S: Final = 10 * 365 * 86_400.0
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?")


def seconds(text: str) -> float:
    """Return the seconds in "90m", "12h" or "7d"; a bare number is minutes.

    Raises:
        typer.BadParameter: it is no span of time, or none at all.
    """
    found = _SPAN.fullmatch(str(text).strip().lower())
    span_s = float(found[1]) * UNITS[found[2] or "m"] if found else 0.0
    if not 0 < span_s <= LONGEST_S:
        raise typer.BadParameter(f"{text!r} is no span of time up to ten years; write 15m, 2h or 7d")
    return span_s
