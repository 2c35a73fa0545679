"""The numbers that clients report, averaged; and the numbers that a round reports about itself."""

import math
from collections.abc import Collection, Sequence
from typing import Final, final

from flwr.app import Message, MetricRecord

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.report import Report
from potluck.simulations.flower.replies import SCALE, STEPS, number, only

MOST_METRICS: Final = 256
"""Names that are averaged; a client may send as many as it likes."""


@final
class Means:
    """Running means of the clients' own metrics, weighted by their examples.

    A metric that some clients lack is averaged over the others; lists are left out, and so is what is not finite.
    """

    def __init__(self, reserved: Collection[str]) -> None:
        self.count = 0
        self._reserved = {*reserved, SCALE, STEPS}
        self._sums: dict[str, tuple[float, float]] = {}

    def take(self, message: Message, weighted_by: str, most: int) -> None:
        """Take one reply's metrics in, at most *most* examples heavy.

        Raises:
            BadUpdate: an error, or no usable number of examples.
        """
        metrics = only(message, MetricRecord)
        weight = min(number(metrics, weighted_by, None), most)
        if weight <= 0:
            raise BadUpdate(f"{weighted_by} is {weight}", fix="send how many examples were used, 1 or more")
        self.count += 1
        for name, value in metrics.items():
            known = name in self._sums or len(self._sums) < MOST_METRICS
            if known and name not in self._reserved and isinstance(value, int | float) and math.isfinite(value):
                total, weights = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = (total + weight * value, weights + weight)

    def values(self) -> dict[str, float]:
        """Return the means by name."""
        return {name: total / weights for name, (total, weights) in self._sums.items()}


def report_of(
    report: Report | None, nodes: Sequence[int], left_out: Sequence[int], capped: Sequence[int]
) -> dict[str, int | float | list[int] | list[float]]:
    """Return a round's report as Flower metrics; without a *report* the round was refused.

    potluck-updates, potluck-left-out and potluck-capped count replies, and the same with -nodes names whose they were.
    potluck-weights and potluck-norms go with potluck-nodes.  potluck-truncation is the relative error of the cut to
    the master's rank; potluck-sketch that of sums and inner products, 0 where they were exact.
    """
    counts: dict[str, int | float | list[int] | list[float]] = {
        "potluck-refused": int(report is None),
        "potluck-updates": len(nodes),
        "potluck-nodes": list(nodes),
        "potluck-left-out": len(left_out),
        "potluck-left-out-nodes": list(left_out),
        "potluck-capped": len(capped),
        "potluck-capped-nodes": list(capped),
    }
    if report is None:
        return counts
    return counts | {
        "potluck-weights": list(report.weights),
        "potluck-norms": list(report.norms),
        "potluck-truncation": report.total.relative_error,
        "potluck-sketch": max(report.sum_error, report.products_error),
    }
