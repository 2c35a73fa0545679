"""Runs beside each other as people see them: tables, a page, and its picture."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from matplotlib.ticker import FuncFormatter, MaxNLocator

from potluck.client.home import store
from potluck.simulations.reports import page
from potluck.simulations.reports.canvas import LIGHT, OF_PAGE, Paint, above, figure, label, to_png, to_svg
from potluck.simulations.reports.comparison import Comparison
from potluck.simulations.reports.protocols import COSTS, trajectory
from potluck.simulations.reports.words import NONE, brief, count, loss, percent, size, span, unit_of

PAGE: Final = "compare.html"
PICTURE: Final = "compare.png"
LINES: Final = ("-", "--", ":")
"""Runs beyond the colours that there are get another line."""
HEADS: Final = tuple(cost.short for cost in COSTS.values())
Rows = list[tuple[object, ...]]


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write compare.html and compare.png to *folder*, made if need be; return the page's path.

    Raises:
        DiskFull: there is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(comparison, LIGHT)
    if drawn is None:
        (folder / PICTURE).unlink(missing_ok=True)
    else:
        store(to_png(drawn), folder / PICTURE)
    store(page.page("Runs compared", _parts(comparison)).encode(), folder / PAGE)
    return folder / PAGE


def draw(comparison: Comparison, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw held-out loss over each cost, a line a run; None where no run was measured."""
    paths = [[point for point in trajectory(run) if math.isfinite(point.loss)] for run in comparison.runs]
    if not any(paths):
        return None
    drawn, panels = figure(paint, columns=len(COSTS), size=(10.5, 3.4))
    colours = (paint.first, paint.second, paint.third, paint.fourth, paint.bad, paint.second_ink)
    for axes, (cost, named) in zip(panels, COSTS.items(), strict=True):
        for n, (name, path) in enumerate(zip(comparison.names, paths, strict=True)):
            xs, ys = [point.spent(cost) for point in path], [point.loss for point in path]
            look = {"color": colours[n % len(colours)], "linestyle": LINES[n // len(colours) % len(LINES)]}
            axes.plot(xs, ys, drawstyle="steps-post", marker="o", markersize=3, label=label(name), **look)
        if not math.isnan(comparison.target):
            axes.axhline(comparison.target, color=paint.second_ink, linewidth=1, linestyle=(0, (4, 3)), label="target")
        axes.set(xlabel=named.title)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _, named=named: brief(named.written(value))))
        _ticks(axes, cost, max((path[-1].spent(cost) for path in paths if path), default=0.0))
    panels[0].set(ylabel="held-out loss, nats per token")
    above(drawn, panels[0], paint)
    return drawn


def _ticks(axes: Any, cost: str, most: float) -> None:  # noqa: ANN401 - an Axes
    """Put marks at round numbers: of simulated time at whole units, since a third of an hour is no round number."""
    unit = unit_of(most)[0] if cost == "hours" else 1.0
    marks = [unit * mark for mark in MaxNLocator(4, integer=True).tick_values(0, most / unit)]
    axes.set_xticks([mark for mark in marks if 0 <= mark <= axes.get_xlim()[1]])


def runs_table(comparison: Comparison) -> tuple[tuple[str, ...], Rows]:
    """Return what each run came to: columns and rows."""
    rows: Rows = []
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        sent = sum(row.bytes_up + row.bytes_down for row in run.rounds)
        tokens = sum(row.tokens for row in run.rounds)
        spent = (size(sent), span(run.hours), count(tokens))
        shares = (percent(run.hostile), percent(run.lost))
        rows.append(
            (name, len(run.rounds), loss(run.base_loss), loss(run.best_loss), loss(run.last_loss), *spent, *shares)
        )
    return ("run", "rounds", "base", "best", "last", *HEADS, "hostile", "leases lost"), rows


def quality_table(comparison: Comparison) -> tuple[tuple[str, ...], Rows]:
    """Return the lowest loss within each budget: columns and rows."""
    rows: Rows = [
        (f"{COSTS[each.cost].written(each.budget)} {COSTS[each.cost].after}", *map(loss, each.losses))
        for each in comparison.quality
    ]
    return ("budget", *comparison.names), rows


def target_table(comparison: Comparison) -> tuple[tuple[str, ...], Rows]:
    """Return what each run had spent when it was good enough: columns and rows."""
    rows: Rows = []
    for each in comparison.targets:
        at = each.reached
        spent = [NONE if at is None else cost.written(at.spent(name)) for name, cost in COSTS.items()]
        rows.append((each.run, NONE if at is None else at.round, *spent))
    return ("run", "round", *HEADS), rows


def robust_table(comparison: Comparison) -> tuple[tuple[str, ...], Rows]:
    """Return what runs lost beside the quietest of the same recipe: columns and rows."""
    rows: Rows = [
        (
            *(each.run, each.beside, percent(each.hostile), percent(each.lost), loss(each.loss)),
            *(loss(each.clean_loss), percent(each.worse, signed=True), percent(each.kept)),
        )
        for each in comparison.robust
    ]
    return ("run", "beside", "hostile", "leases lost", "loss", "its loss", "worse by", "gain kept"), rows


QUALITY: Final = "Quality under a budget: the lowest held-out loss, in nats per token, of the versions within it"
ROBUST: Final = "Robustness: the last version beside that of the quietest run of the same recipe"
ALONE: Final = "No two of these runs have the same recipe, so none has a quieter one to stand beside."
DIFFERING: Final = "What differs between them"
ALIKE: Final = "Recipes and scenarios are the same."


def target_title(comparison: Comparison) -> str:
    """Return the title of the second table."""
    if math.isnan(comparison.target):
        return "Cost to a target: there is none, since one of the runs never had a loss"
    return f"Cost to a target: what was spent when the held-out loss was {comparison.target:.4f} nats per token or less"


def _parts(comparison: Comparison) -> Iterator[str]:
    yield page.heading("Runs compared", 1)
    yield page.paragraph(
        f"{len(comparison.runs)} simulated runs of one base model and the same clients. Losses are of held-out text; "
        "costs are simulated, and count every round, those without a version too."
    )
    drawn = draw(comparison, OF_PAGE)
    if drawn is None:
        yield page.paragraph("No version of any run was measured.")
    else:
        caption = "Held-out loss of every measured version over what had been spent; the dashed line is the target."
        yield page.picture(to_svg(drawn, "compare"), caption)
    yield page.table(*runs_table(comparison))
    yield page.heading(QUALITY)
    yield page.table(*quality_table(comparison))
    yield page.heading(target_title(comparison))
    yield page.table(*target_table(comparison))
    yield page.heading(ROBUST)
    yield page.table(*robust_table(comparison)) if comparison.robust else page.paragraph(ALONE)
    yield page.heading(DIFFERING)
    rows = [(key, *values) for key, values in comparison.differing]
    yield page.table(("setting", *comparison.names), rows) if rows else page.paragraph(ALIKE)
