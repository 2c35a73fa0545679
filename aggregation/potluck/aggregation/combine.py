"""A round's updates and the master, to the next master."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from potluck.aggregation.cohort import Cohort
from potluck.aggregation.lowrank import LowRank, compress, zero
from potluck.aggregation.pipeline import Pipeline
from potluck.aggregation.updates import Update

DEFAULT: Final = Pipeline()
RANK_FACTOR: Final = 4
"""Columns of the master for every column of the largest update, unless the pipeline says how many."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the outer step remembers from round to round.  Factors have scale 1, so to_tensors stores it whole."""

    momentum: Mapping[str, LowRank] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Truncation:
    """What the cut to the master's rank cost."""

    norm: float
    """Frobenius norm of the new master before the cut."""
    discarded: float
    """Frobenius norm of what was cut off."""

    @property
    def relative_error(self) -> float:
        """Discarded over norm; 0 for a master of zero."""
        return self.discarded / self.norm if self.norm else 0.0


@final
@dataclass(frozen=True, slots=True)
class Report:
    """What happened in a round.  Weights and norms are in the order in which the updates were given."""

    weights: tuple[float, ...]
    """cᵢ, as the rule used them."""
    norms: tuple[float, ...]
    """‖Δᵢ‖ over all modules: how far each client moved the product."""
    modules: Mapping[str, Truncation]
    total: Truncation
    """All modules together."""


class Aggregated(NamedTuple):
    """The next master (balanced factors, scale 1, descending σ), the state to hand to the next round, the report."""

    master: dict[str, LowRank]
    state: State
    report: Report


def aggregate(
    updates: Iterable[Update],
    master: Mapping[str, LowRank],
    pipeline: Pipeline = DEFAULT,
    state: State | None = None,
) -> Aggregated:
    """Combine *updates* into *master*: G ← cut(G + Outer(Σ cᵢ·Δᵢ)), per module, in float64.

    The master may be empty or lack a module: that module is zero, as before the first round.  A Sequence gives the
    same bits in any order.  Any other iterable is read in its own order, one update at a time, in one pass for
    rules that need no more, and gives the same up to rounding.

    Raises:
        BadUpdate: no updates, no weight, a value that is not finite, or modules, shapes, ranks that do not fit.
        BadTensor: the momentum in *state* has another shape than the master.
    """
    stages = pipeline.stages()
    cohort = Cohort(updates, stages.weights, master, f=pipeline.f)
    remembered = {} if state is None else state.momentum
    moved: dict[str, LowRank] = {}
    momentum: dict[str, LowRank] = {}
    costs: dict[str, Truncation] = {}
    weights: tuple[float, ...] = ()
    for name, innovation, shares in stages.rule(cohort):
        present = [master[name]] if name in master else []
        step = stages.outer(innovation, [remembered[name]] if name in remembered else [])
        rank = pipeline.rank or max([RANK_FACTOR * cohort.ranks[name], *(term.rank for term in present)])
        shape = cohort.shape_of(name)
        weights = cohort.as_given(shares)  # every module's are the same
        moved[name], costs[name] = cut([*present, *step.step, zero(shape)], rank)
        if step.momentum:
            momentum[name], _ = cut(step.momentum, rank)
    report = Report(weights, cohort.as_given(cohort.norms()), modules=costs, total=summed(costs))
    return Aggregated(moved, State(momentum), report)


def cut(terms: Sequence[LowRank], rank: int) -> tuple[LowRank, Truncation]:
    """Return the sum of *terms* in at most *rank* columns, and what that cost."""
    kept, discarded = compress(terms, rank=rank)
    return kept, Truncation(math.hypot(kept.norm(), discarded), discarded)


def summed(costs: Mapping[str, Truncation]) -> Truncation:
    """Return the cost of all modules together."""
    return Truncation(
        math.hypot(*(cost.norm for cost in costs.values())), math.hypot(*(cost.discarded for cost in costs.values()))
    )
