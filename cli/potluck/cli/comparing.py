"""`potluck compare`: several simulated runs beside each other."""

import math
from collections.abc import Sequence
from pathlib import Path

from potluck.cli.report import say, show, table
from potluck.simulations.reports import beside
from potluck.simulations.reports.comparison import Asked, Comparison, compare


def run_compare(runs: Sequence[Path], asked: Asked, to: Path, *, as_json: bool) -> None:
    """Compare *runs*, write the page and the picture to *to*, and print the tables."""
    comparison = compare(runs, asked)
    page = beside.write_comparison(comparison, to)
    if as_json:
        show(comparison.to_json() | {"page": str(page)}, as_json=True)
    else:
        show_comparison(comparison)
        say("", f"written: {page}")


def show_comparison(comparison: Comparison) -> None:
    """Print every table of *comparison*, each under its title."""
    table(*beside.runs_table(comparison))
    say("", beside.QUALITY)
    table(*beside.quality_table(comparison))
    say("", beside.target_title(comparison))
    if not math.isnan(comparison.target):
        table(*beside.target_table(comparison))
    say("", beside.ROBUST)
    if comparison.robust:
        table(*beside.robust_table(comparison))
    else:
        say(beside.ALONE)
    say("", beside.DIFFERING if comparison.differing else beside.ALIKE)
    if comparison.differing:
        table(("setting", *comparison.names), [(key, *values) for key, values in comparison.differing])
