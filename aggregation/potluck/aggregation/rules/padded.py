"""Rules for clients of different ranks that combine columns: column j of one client with column j of another.

That means something only where column j is the same direction for all: the starts must be the leading columns of one
common start, entry by entry, and what training turned since cannot be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank, zero
from potluck.aggregation.rules.base import Module, Part, Trains
from potluck.aggregation.sums import InnovationSum
from potluck.aggregation.updates import padded

FIX: Final = "combine updates of one version, init and scale, or use the rule 'mean', which takes any mix"


@final
@dataclass(frozen=True, slots=True)
class HetLoRA:
    """s·(Σ pᵢ·[Bᵢ 0])·(Σ pᵢ·[Aᵢ; 0]) − G with pᵢ = cᵢ·‖sᵢBᵢAᵢ‖ / Σ: the mean of the factors, filled up with zeros.

    The norm weighs sparse updates down.  It fails as `fedit` does, by cross terms and by the gauge, and by collapse:
    a column that a small client lacks counts as zero in both factors, so its share is lost twice over.

    Source: Cho et al. 2024 (HetLoRA: zero padding, sparsity-weighted aggregation), arXiv:2401.06432.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "PaddedFold":
        return PaddedFold(module)


@final
class PaddedFold:
    """The running sums of both factors of one module, as wide as the widest so far.

    Raises:
        BadUpdate: a start is not the leading columns of the others, or the scale is another.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self._starts = CommonStart(module.name)
        self._b: Floats = np.zeros((module.shape[0], 0))
        self._a: Floats = np.zeros((0, module.shape[1]))
        self._scale = 1.0
        self._norms = 0.0
        self._share = 0.0

    def add(self, part: Part) -> None:
        self._starts.add(part)
        trained, weight = part.trained, part.weight * part.trained.norm()
        if trained.rank > self._b.shape[1]:
            self._b, self._a = padded(LowRank(self._b, self._a), trained.rank, scale=1.0)
        self._b[:, : trained.rank] += weight * trained.b.astype(np.float64)
        self._a[: trained.rank] += weight * trained.a.astype(np.float64)
        self._scale = trained.scale
        self._norms += weight
        self._share += part.weight

    def combined(self, total: float) -> Sequence[LowRank]:
        share = self._share / total
        gone = self._module.master.times(-share)
        if not self._norms:
            return [gone]  # every product is zero, and so is their mean
        return [LowRank(self._b / self._norms, self._a / self._norms, self._scale * share), gone]


@final
@dataclass(frozen=True, slots=True)
class RaFLoRA:
    """Σⱼ (Σ_{i: rᵢ > j} cᵢ·Δᵢⱼ) / (Σ_{i: rᵢ > j} cᵢ): column j is the mean of those who have a column j.

    Δᵢⱼ is what client i changed in the product of column j of B and row j of A.  The columns between two neighbouring
    ranks have the same clients, so these are the paper's rank partitions [l, h).  It writes the sum of the products
    where this writes changes; both are the same where some client of the round has every column, and where none has,
    this leaves the column alone.  So it does not collapse.  It fails by the gauge: a client that turns its columns
    sends the same matrix and another mean; and what few large clients say of their own columns is not outweighed.

    Source: Wu et al. 2026 (raFLoRA), arXiv:2602.13486.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = True
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "PartitionFold":
        return PartitionFold(module)


@final
class PartitionFold:
    """The running sum of one module, every column divided by the weight of those who have it.

    With b = B − B₀, a = A − A₀ and the columns' shares D it adds b·D·A₀ + B₀·D·a + b·D·a.  The starts are columns of
    one, so the first two are sums of one array each.

    Raises:
        BadUpdate: a start is not the leading columns of the others, or the scale is another.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self._starts = CommonStart(module.name)
        self._nothing = zero(module.shape)
        self._sum = InnovationSum(module)
        ranks, weights = np.array(module.ranks, int), np.array(module.weights, float)
        have = [weights[ranks > column].sum() for column in range(max(module.ranks, default=0))]
        self._shares: Floats = weights.sum() / np.where(np.array(have) > 0, have, np.inf)
        self._b: Floats = np.zeros((module.shape[0], len(have)))
        self._a: Floats = np.zeros((len(have), module.shape[1]))

    def add(self, part: Part) -> None:
        self._starts.add(part)
        trained, start = part.trained, part.start
        own = np.result_type(trained.b, trained.a, start.b, start.a)
        dtype = np.dtype(np.float64) if self._module.exact else own
        shares = self._shares[: trained.rank].astype(dtype)
        b = np.subtract(trained.b, start.b if start.rank else 0, dtype=dtype) * shares
        a = np.subtract(trained.a, start.a if start.rank else 0, dtype=dtype)
        self._b[:, : trained.rank] += part.weight * b
        self._a[: trained.rank] += part.weight * shares[:, None] * a
        self._sum.add(LowRank(b, a, trained.scale), self._nothing, part.weight)

    def combined(self, total: float) -> Sequence[LowRank]:
        start, terms = self._starts.widest, self._sum.scaled(1 / total)
        if not start.rank:
            return terms
        scale = start.scale / total
        linear = [LowRank(self._b[:, : start.rank], start.a, scale), LowRank(start.b, self._a[: start.rank], scale)]
        return [*linear, *terms]


@final
class CommonStart:
    """The widest start so far; every other one must be its leading columns.

    Raises:
        BadUpdate: one is not, or has another scale, or another rank than what was trained.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._scale: float | None = None
        self.widest = LowRank(np.zeros((0, 0)), np.zeros((0, 0)))

    def add(self, part: Part) -> None:
        """Check one update's start."""
        trained, start = part.trained, part.start
        if self._scale is None:
            self._scale, self.widest = trained.scale, start
        if trained.scale != self._scale or (start.rank and start.scale != self._scale):
            raise BadUpdate(
                f"{self._name} has the scales {start.scale} and {trained.scale} in one update, {self._scale} in "
                "another; columns of factors can only be combined at one scale",
                fix="give alpha in proportion to the rank, or use the rule 'mean', which takes any mix",
            )
        if start.rank not in (0, trained.rank):
            raise BadUpdate(f"{self._name} was started with rank {start.rank} and trained with {trained.rank}", fix=FIX)
        wide, narrow = (self.widest, start) if self.widest.rank >= start.rank else (start, self.widest)
        if (wide.rank == 0) != (narrow.rank == 0) or not (
            np.array_equal(wide.b[:, : narrow.rank], narrow.b) and np.array_equal(wide.a[: narrow.rank], narrow.a)
        ):
            raise BadUpdate(
                f"{self._name} was started from rank {narrow.rank} in one update, which is not the leading part of "
                f"the rank {wide.rank} of another: columns mean nothing in different bases",
                fix=FIX,
            )
        self.widest = wide
