"""The pictures of one run: each a pure function of its rows, and None where they hold nothing to draw."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from potluck.simulations.reports.canvas import Paint, figure, legend, title
from potluck.simulations.reports.runs import Run
from potluck.simulations.reports.weighed import combined
from potluck.simulations.reports.words import brief, count, size, span, unit_of

ENDINGS: Final = ("counted", "late", "dropped", "expired", "rejected")
"""How a lease ends, in the order in which they are stacked."""
FEW: Final = 3
"""Clients of a version with fewer measurements have no spread."""
MANY: Final = 400
"""Points in one picture from which on they are drawn smaller."""
MOST: Final = 4_000
"""Points in one picture: a page of more is slow to open."""


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn and what stands below it."""

    title: str
    caption: str
    draw: Callable[[Run, Paint], Any]
    """Returns a Figure, or None where there is nothing to draw."""
    nothing: str
    """What is said then."""


def draw_loss(run: Run, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw the held-out loss after each round: over all, of the worst decile, and the spread of clients."""
    measured = [row for row in run.measured if math.isfinite(row.loss)]
    if not measured:
        return None
    drawn, (axes,) = figure(paint)
    rounds = [row.round for row in measured]
    _spread(axes, run, paint)
    axes.plot(rounds, [row.loss_worst_decile for row in measured], color=paint.second, label="worst tenth of clients")
    axes.plot(rounds, [row.loss for row in measured], color=paint.first, label="all clients", **_dots(len(rounds)))
    if not math.isnan(run.base_loss):
        axes.axhline(run.base_loss, color=paint.second_ink, linewidth=1, linestyle=(0, (4, 3)), label="base model")
    axes.set(xlabel="round", ylabel="held-out loss, nats per token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, paint)
    return drawn


def _spread(axes: Any, run: Run, paint: Paint) -> None:  # noqa: ANN401 - an Axes
    """Fill between the tenth and the ninetieth percentile of what clients measured before they trained."""
    losses: dict[int, list[float]] = defaultdict(list)
    for row in run.updates:
        if math.isfinite(row.loss_before):
            losses[row.version].append(row.loss_before)
    at = {0: 0} | {row.version: row.round for row in reversed(run.rounds) if row.version}
    known = sorted(
        (at[version], losses[version]) for version in losses if version in at and len(losses[version]) >= FEW
    )
    if len(known) > 1:
        low, high = np.array([np.percentile(values, [10, 90]) for _, values in known]).T
        label = "clients, 10th to 90th percentile"
        axes.fill_between([x for x, _ in known], low, high, color=paint.first, alpha=0.15, linewidth=0, label=label)


def draw_clients(run: Run, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw how much each client's held-out loss changed from the base to the last version, over the base's."""
    known = [row for row in run.clients if math.isfinite(row.loss_base) and math.isfinite(row.loss)]
    if not known:
        return None
    drawn, (axes,) = figure(paint)
    for hostile, colour, label in ((False, paint.first, "client"), (True, paint.bad, "hostile client")):
        mine = [row for row in known if row.hostile is hostile]
        if mine:
            _scatter(axes, [(row.loss_base, row.loss - row.loss_base) for row in mine], len(known), colour, label)
    axes.axhline(0, color=paint.second_ink, linewidth=1, linestyle=(0, (4, 3)), label="no change")
    axes.grid(visible=True, axis="both", color=paint.grid)
    axes.set(xlabel="held-out loss under the base model, nats per token", ylabel="change under the shared adapter")
    legend(axes, paint)
    return drawn


def draw_bytes(run: Run, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw what travelled in each round, down to clients and up from them."""
    if not any(row.bytes_up or row.bytes_down for row in run.rounds):
        return None
    drawn, panels = figure(paint, columns=2)
    for axes, field, colour, label in zip(
        panels,
        ("bytes_up", "bytes_down"),
        (paint.first, paint.second),
        ("up, from clients", "down, to them"),
        strict=True,
    ):
        axes.bar([row.round for row in run.rounds], [getattr(row, field) for row in run.rounds], color=colour)
        axes.set(xlabel="round")
        title(axes, f"{label}: {size(sum(getattr(row, field) for row in run.rounds))} in all", paint)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: brief(size(value))))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def draw_hours(run: Run, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw when each round began and ended, in simulated time."""
    if not run.hours:
        return None
    drawn, (axes,) = figure(paint)
    made = {True: (paint.first, "made a version"), False: (paint.bad, "made none")}
    unit, label = unit_of(run.hours)
    for good, (colour, said) in made.items():
        mine = [row for row in run.rounds if (row.ended == "COMMITTED") is good]
        if mine:
            begins, ends = [row.began_h / unit for row in mine], [row.ended_h / unit for row in mine]
            wide = max(1.5, min(6.0, 150 / len(run.rounds)))
            axes.hlines([row.round for row in mine], begins, ends, color=colour, linewidth=wide, label=said)
    axes.grid(visible=True, axis="x", color=paint.grid)
    axes.set(xlabel=f"simulated {label}, {span(run.hours)} in all", ylabel="round")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.invert_yaxis()
    legend(axes, paint)
    return drawn


def draw_leases(run: Run, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw what became of the leases of each round."""
    if not run.updates:
        return None
    drawn, (axes,) = figure(paint)
    rounds = sorted({row.round for row in run.updates})
    counts = Counter((row.round, row.outcome) for row in run.updates)
    colours = (paint.first, paint.third, paint.second, paint.fourth, paint.bad)
    below = np.zeros(len(rounds))
    for ending, colour in zip(ENDINGS, colours, strict=True):
        here = np.array([counts[number, ending] for number in rounds])
        if here.any():
            edge = {"edgecolor": paint.surface, "linewidth": 0.8 if len(rounds) <= MANY // 4 else 0.0}
            axes.bar(rounds, here, bottom=below, color=colour, label=f"{ending}, {count(here.sum())}", **edge)
        below += here
    axes.set(xlabel="round", ylabel="leases")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, paint)
    return drawn


def draw_staleness(run: Run, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw how many versions behind the combined updates were."""
    counts = Counter(row.staleness for row in run.updates if row.outcome == "counted")
    if not counts:
        return None
    drawn, (axes,) = figure(paint, size=(SMALL_WIDTH, 2.8))
    behind = range(max(counts) + 1)
    bars = axes.bar(behind, [counts[n] for n in behind], color=paint.first, width=0.8)
    axes.bar_label(bars, [count(counts[n]) for n in behind], color=paint.second_ink, padding=2)
    axes.set(xlabel="versions that appeared between its start and its round", ylabel="combined updates")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)
    return drawn


def draw_weights(run: Run, paint: Paint) -> Any:  # noqa: ANN401 - a Figure, or None
    """Draw what each combined update claimed of its round, and what it counted."""
    rows = combined(run)
    if not rows:
        return None
    drawn, (axes,) = figure(paint, size=(5.2, 4.4))
    most = 100 * max(max(row.share, row.weight) for row in rows)
    axes.plot([0, most], [0, most], color=paint.second_ink, linewidth=1, label="as it claimed")
    for hostile, colour, label in ((False, paint.first, "update"), (True, paint.bad, "hostile update")):
        mine = [row for row in rows if row.hostile is hostile]
        if mine:
            _scatter(axes, [(100 * row.share, 100 * row.weight) for row in mine], len(rows), colour, label)
    axes.grid(visible=True, axis="both", color=paint.grid)
    axes.set(xlabel="claimed, % of its round", ylabel="counted, %")
    legend(axes, paint)
    return drawn


SMALL_WIDTH: Final = 5.2


def _dots(number: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if number <= MANY // 10 else {}


def _scatter(axes: Any, points: Sequence[tuple[float, float]], total: int, colour: str, label: str) -> None:  # noqa: ANN401 - an Axes
    """Draw *points*, of *total* in the picture; of more than it can show one in a few, and the legend says so."""
    step = math.ceil(total / MOST)
    shown = np.array(points[::step])
    look = {"s": 9, "alpha": 0.5} if total > MANY else {"s": 22, "alpha": 0.85}
    said = label if step == 1 else f"{label}, one in {step}"
    axes.scatter(shown[:, 0], shown[:, 1], color=colour, label=said, linewidths=0, **look)


PICTURES: Final[Mapping[str, Picture]] = MappingProxyType(
    {
        "loss": Picture(
            "Loss after each round",
            "Held-out text of every measured client, which nobody trains on. The worst tenth are those whom that "
            "version serves worst. Where clients measure themselves, the band is what they saw when they fetched it.",
            draw_loss,
            "No version was measured.",
        ),
        "clients": Picture(
            "Client by client",
            "One point a client. Below the line the shared adapter is better than the base on that client's text.",
            draw_clients,
            "No client was measured both under the base and under a version.",
        ),
        "bytes": Picture(
            "What travelled",
            "Updates on their way up, as the recipe's codec makes them, and the shared adapter on its way down.",
            draw_bytes,
            "No bytes travelled.",
        ),
        "hours": Picture(
            "Simulated time",
            "From a round's first lease to its end, as volunteers would live it: their machines' speed, their lines, "
            "and when they are there.",
            draw_hours,
            "No round ended.",
        ),
        "leases": Picture(
            "What became of leases",
            "Counted: its update was combined. Late: it came when nobody wanted it. Dropped: the client went away. "
            "Expired: the lease's time ran out. Rejected: the update was not taken.",
            draw_leases,
            "Nobody got a lease.",
        ),
        "staleness": Picture(
            "Staleness",
            "How far the shared adapter had moved on when an update was combined; in synchronous rounds always 0.",
            draw_staleness,
            "No update was combined.",
        ),
        "weights": Picture(
            "Who was weighted down",
            "One point an update. Below the line it counted for less than it claimed: the recipe's weights took the "
            "rest.",
            draw_weights,
            "No round says what its updates counted.",
        ),
    }
)
