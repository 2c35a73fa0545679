"""All that is printed: facts on stdout, trouble on stderr; network text never drives the terminal."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from potluck.aggregation.errors import PotluckError

_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1_000


def show(values: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print *values* as aligned lines for people, or as one JSON object for programs."""
    if as_json:
        print(json.dumps(values, default=str), flush=True)
        return
    width = max(map(len, values), default=0)
    for key, value in values.items():
        first, *rest = str(value).split("\n")
        print(f"{key:<{width}}  {printable(first)}")
        for line in rest:
            print(f"{'':<{width}}  {printable(line)}")


def say(*lines: str) -> None:
    """Print *lines* for people."""
    for line in lines:
        print(printable(line), flush=True)


def warn(*lines: str) -> None:
    """Print *lines* to stderr: something is not as it should be, and the work goes on."""
    for line in lines:
        print(printable(line), file=sys.stderr, flush=True)


def fail(error: PotluckError) -> int:
    """Print *error* and its fix to stderr; return the exit status."""
    lines = [f"error: {error}", *getattr(error, "__notes__", [])]  # no note, no attribute
    print(*map(printable, lines), sep="\n  ", file=sys.stderr, flush=True)
    return 1


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print *rows* under *columns*: the first column left, the others right."""
    texts = [[printable(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for i, row in enumerate(texts):
        cells = [
            cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
        if i == 0:
            print("  ".join("-" * w for w in widths))


def printable(value: object) -> str:
    """Return *value* as text that cannot drive the terminal: names come off the network."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def size(count: float) -> str:
    """Return a number of bytes for people: 18,400,000 is "18.4 MB"."""
    step = 0
    while count >= _STEP and step < len(_UNITS) - 1:
        count, step = count / _STEP, step + 1
    return f"{count:.0f} {_UNITS[step]}" if step == 0 else f"{count:.1f} {_UNITS[step]}"


def duration(seconds: float) -> str:
    """Return a time span for people: 754 is "12 min 34 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{n} {unit}" for n, unit in parts if n][:2]
    return " ".join(shown) or "0 s"
