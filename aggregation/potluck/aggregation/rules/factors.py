"""Means of the factors themselves: not of the products, and there to be compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.rules.base import Module, Part, Trains
from potluck.aggregation.updates import difference


@final
@dataclass(frozen=True, slots=True)
class FedIT:
    """B̄ = B₀ + Σ cᵢ·(Bᵢ − B₀), Ā likewise: the mean of the factors, for comparison only.

    Its product s·B̄·Ā is not the mean of the products, and depends on the gauge: (B, A) and (−B, −A) are the same
    matrix and average to zero.  The error is Σ cᵢ·(Bᵢ − B̄)(Aᵢ − Ā).  All clients need one rank, one scale and one
    start; another start would be another basis.

    Source: Zhang et al. 2023, arXiv:2305.05644.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = False

    def fold(self, module: Module) -> "FactorFold":
        return FactorFold(module.name)


@final
class FactorFold:
    """The running sums of both factors of one module.

    Raises:
        BadUpdate: two updates differ in rank, scale or start.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._start: LowRank | None = None
        self._b: Floats = np.zeros(0)
        self._a: Floats = np.zeros(0)

    def add(self, part: Part) -> None:
        trained, start = part.trained, part.start if part.start.rank else nothing(part.trained)
        if self._start is None:
            self._start = start
            self._b, self._a = np.zeros(start.b.shape), np.zeros(start.a.shape)
        self._check(trained, start, self._start)
        self._b += part.weight * np.subtract(trained.b, start.b, dtype=np.float64)
        self._a += part.weight * np.subtract(trained.a, start.a, dtype=np.float64)

    def combined(self, total: float) -> Sequence[LowRank]:
        start = self._start
        if start is None:
            return ()
        return [difference(LowRank(start.b + self._b / total, start.a + self._a / total, start.scale), start)]

    def _check(self, trained: LowRank, start: LowRank, first: LowRank) -> None:
        for term in (trained, start):
            if (term.rank, term.scale) != (first.rank, first.scale):
                raise BadUpdate(
                    f"{self._name} has rank {term.rank} and scale {term.scale} in one update, "
                    f"{first.rank} and {first.scale} in another",
                    fix="use the rule 'mean', which takes any mix",
                )
        if not (np.array_equal(start.b, first.b) and np.array_equal(start.a, first.a)):
            raise BadUpdate(
                f"{self._name} was started from different factors in two updates, and entries of factors mean nothing "
                "in different bases",
                fix="combine updates of one version only, or use the rule 'mean', which takes any mix",
            )


def nothing(trained: LowRank) -> LowRank:
    """Return the zero start of *trained*: its rank and scale, both factors zero."""
    return LowRank(np.zeros(trained.b.shape), np.zeros(trained.a.shape), trained.scale)
