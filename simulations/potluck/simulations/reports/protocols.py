"""Three questions to runs of the same task: how good for so much, how much until so good, and how much harm does.

Source of the questions and their names: Geng, Lu, Zhao, Gao, Lane and Luo 2026 (EdgeFlowerTune), arXiv:2605.08636,
"Quality-under-Budget", "Cost-to-Target", "Robustness".  Its quality is an accuracy and its costs are measured on
devices; here quality is held-out loss and costs are a simulation's, so figures do not compare with the paper's.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from potluck.simulations.reports.runs import Run
from potluck.simulations.reports.words import count, size, span

SHARES: Final = (0.25, 0.5, 1.0)
"""Of what every run spent at least: the budgets, unless somebody names one."""


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """Something that is spent."""

    short: str
    """The head of a column."""
    title: str
    after: str
    """What stands after an amount of it."""
    written: Callable[[float], str]


COSTS: Final[Mapping[str, Cost]] = MappingProxyType(
    {
        "bytes": Cost("bytes", "bytes up and down", "up and down", size),
        "hours": Cost("time", "simulated time", "of simulated time", span),
        "tokens": Cost("tokens", "tokens learned from", "tokens learned from", count),
    }
)
"""Keys are fields of Point."""


@final
@dataclass(frozen=True, slots=True)
class Point:
    """A version that was measured, and what the run had spent when it appeared, rounds without a version included."""

    round: int
    loss: float
    bytes: float
    hours: float
    tokens: float

    def spent(self, cost: str) -> float:
        """Return what was spent of *cost*, a key of COSTS."""
        return {"bytes": self.bytes, "hours": self.hours, "tokens": self.tokens}[cost]


def trajectory(run: Run) -> list[Point]:
    """Return the measured versions of *run*, in the order in which they appeared."""
    points: list[Point] = []
    spent_bytes = spent_tokens = hours = 0.0
    for row in run.rounds:
        spent_bytes += row.bytes_up + row.bytes_down
        spent_tokens += row.tokens
        hours = max(hours, row.ended_h)
        if not math.isnan(row.loss):
            points.append(Point(row.round, row.loss, spent_bytes, hours, spent_tokens))
    return points


@final
@dataclass(frozen=True, slots=True)
class Quality:
    """Quality-under-Budget: how good each run was when it had spent so much."""

    cost: str
    """A key of COSTS."""
    budget: float
    losses: tuple[float, ...]
    """Lowest held-out loss of the versions within the budget, a run each; NaN where there was none yet."""


def quality_under_budget(runs: Sequence[Run], budgets: Mapping[str, float]) -> list[Quality]:
    """Return how good *runs* were under each budget.

    *budgets* has a key of COSTS each; a cost that it lacks gets a quarter, a half and all of what the thriftiest run
    spent in the end, which every run could afford.
    """
    paths = [trajectory(run) for run in runs]
    asked = []
    for cost in COSTS:
        least = min((path[-1].spent(cost) for path in paths if path), default=0.0)
        asked += [(cost, budgets[cost])] if cost in budgets else [(cost, share * least) for share in SHARES]
    return [
        Quality(
            cost, budget, tuple(_best(point.loss for point in path if point.spent(cost) <= budget) for path in paths)
        )
        for cost, budget in asked
        if budget > 0
    ]


def _best(losses: Iterable[float]) -> float:
    return min(losses, default=math.nan)


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Cost-to-Target: what a run had spent when its first version was good enough."""

    run: str
    reached: Point | None
    """That version; None where no version was."""


def cost_to_target(names: Sequence[str], runs: Sequence[Run], target: float) -> list[Target]:
    """Return when each run first had a held-out loss of *target* nats per token or less."""
    return [
        Target(name, next((point for point in trajectory(run) if point.loss <= target), None))
        for name, run in zip(names, runs, strict=True)
    ]


def common_target(runs: Sequence[Run]) -> float:
    """Return the lowest loss that every run reached, in nats per token; NaN if one never had a finite loss."""
    best = [run.best_loss for run in runs]
    return max(best) if best and all(map(math.isfinite, best)) else math.nan


@final
@dataclass(frozen=True, slots=True)
class Robustness:
    """What a run lost beside a quieter one of the same recipe."""

    run: str
    beside: str
    """The run of the same recipe with the fewest hostile updates, and among those with the fewest lost leases."""
    hostile: float
    """Share of combined updates that were hostile, 0 to 1."""
    lost: float
    """Share of leases that came to nothing, 0 to 1."""
    loss: float
    """Of its last version, in nats per token: what an attack breaks stays broken."""
    clean_loss: float
    """Of the other's last version."""
    kept: float
    """Share of the other's gain over the base that it has, at most 1 where it does no better; NaN without a gain."""

    @property
    def worse(self) -> float:
        """By which share its loss is above the other's; NaN where the other's is 0."""
        return self.loss / self.clean_loss - 1 if self.clean_loss else math.nan


def robustness(names: Sequence[str], runs: Sequence[Run]) -> list[Robustness]:
    """Return what each run lost beside the quietest of its recipe; a recipe with one run here has nothing to say."""
    groups: dict[str, list[tuple[str, Run]]] = {}
    for name, run in zip(names, runs, strict=True):
        groups.setdefault(run.recipe.to_json(), []).append((name, run))
    found = []
    for group in groups.values():
        clean = min(group, key=lambda each: (each[1].hostile, each[1].lost))
        found += [_beside(each, clean) for each in group if each is not clean]
    return found


def _beside(each: tuple[str, Run], clean: tuple[str, Run]) -> Robustness:
    (name, run), (other, quiet) = each, clean
    gain = quiet.base_loss - quiet.last_loss
    kept = (quiet.base_loss - run.last_loss) / gain if gain > 0 else math.nan
    return Robustness(name, other, run.hostile, run.lost, run.last_loss, quiet.last_loss, kept)
