"""The weighted mean of the innovations as products."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from potluck.aggregation.lowrank import LowRank
from potluck.aggregation.rules.base import Module, Part, Trains
from potluck.aggregation.sums import InnovationSum


@final
@dataclass(frozen=True, slots=True)
class Mean:
    """Σ cᵢ·Δᵢ, the weighted mean of the innovations as products: exact for any mix of ranks and scales.

    A client that changed nothing contributes zero whatever its rank, so directions that small clients cannot see do
    not decay.

    Source: the weighted mean of McMahan et al. 2017, Algorithm 1, arXiv:1602.05629, on products; in one round from a
    common start it is the effective weight of FedEx-LoRA, Singhal et al. 2024, arXiv:2410.09432.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "MeanFold":
        return MeanFold(module)


@final
class MeanFold:
    """The running Σ wᵢ·Δᵢ of one module."""

    def __init__(self, module: Module) -> None:
        self._sum = InnovationSum(module)

    def add(self, part: Part) -> None:
        self._sum.add(part.trained, part.start, part.weight)

    def combined(self, total: float) -> Sequence[LowRank]:
        return self._sum.scaled(1 / total)
