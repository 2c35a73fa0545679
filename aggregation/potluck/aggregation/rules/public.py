"""Updates in the coordinates of one trained factor: only where the other factor is public and the same for all."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import DTypeLike

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Array, LowRank

TrainedFactor: TypeAlias = Literal["b", "a"]

OTHER: Final = "entries of a factor mean nothing in different bases, so they are neither compared nor summed"
FIX: Final = "train one factor against the published other one, or use a rule on products, such as 'mean'"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Public:
    """One update's part of one module, in the basis of the factor that it left alone."""

    factor: TrainedFactor
    """The factor that was trained."""
    frozen: Array
    """The public other one: A (r, k) where B was trained, B (d, r) where A was."""
    change: Array
    """(s·B − s₀·B₀) / unit (d, r), or (s·A − s₀·A₀) / unit (r, k): the scale goes with the trained factor."""
    unit: float = 1.0
    """What the change is counted in; a round counts in its first scale, so that no entry has to be multiplied."""

    def low_rank(self, change: Array) -> LowRank:
        """Return *change*, entries of the trained factor in any shape of that size, as a matrix in this basis."""
        trained = change.reshape(self.change.shape)
        b, a = (trained, self.frozen) if self.factor == "b" else (self.frozen, trained)
        return LowRank(b, a, self.unit)


def public_part(  # noqa: PLR0913 - two mappings, and four that have a default
    trained: LowRank,
    start: LowRank,
    *,
    where: str = "a module",
    factor: TrainedFactor | None = None,
    dtype: DTypeLike = np.float64,
    out: Array | None = None,
    unit: float = 1.0,
) -> Public:
    """Return one update's part in the coordinates of the factor it trained, computed in *dtype*, in *out* if given.

    *factor* says which one was to be trained; without it, that is the one which moved, and B where neither did.
    A start of rank 0 is B = 0 beside the same A, as LoRA begins.

    Source: the linear aggregation of Sun et al. 2024 (FFA-LoRA), arXiv:2403.12313.

    Raises:
        BadUpdate: the other factor is not entry by entry the start's.
    """
    begun = start if start.rank else LowRank(np.zeros_like(trained.b), trained.a, trained.scale)
    if begun.rank != trained.rank:
        raise BadUpdate(f"{where} was started with rank {begun.rank} and trained with {trained.rank}: {OTHER}", fix=FIX)
    chosen = factor or moved_factor(trained, begun) or "b"
    mine, base = (trained.b, begun.b) if chosen == "b" else (trained.a, begun.a)
    frozen, still = (trained.a, begun.a) if chosen == "b" else (trained.b, begun.b)
    if frozen is not still and not np.array_equal(frozen, still):
        off = float(np.max(np.abs(frozen.astype(np.float64) - still)))
        raise BadUpdate(
            f"{where}: {'A' if chosen == 'b' else 'B'} was to stay as it was published and moved by up to {off:.3g}: "
            f"{OTHER}",
            fix=FIX,
        )
    if trained.scale == begun.scale:
        change = np.subtract(mine, base, dtype=dtype, out=out)
        if trained.scale != unit:
            change *= change.dtype.type(trained.scale / unit)
    else:
        change = np.multiply(mine, trained.scale / unit, dtype=dtype, out=out)
        change -= np.multiply(base, begun.scale / unit, dtype=dtype)
    return Public(chosen, frozen, change, unit)


def moved_factor(trained: LowRank, start: LowRank) -> TrainedFactor | None:
    """Return the factor that was trained, None if the update changed nothing; b before a where both moved.

    A change of the scale counts as one of b.
    """
    begun = start if start.rank else LowRank(np.zeros_like(trained.b), trained.a, trained.scale)
    if trained.scale != begun.scale or not np.array_equal(trained.b, begun.b):
        return "b"
    return None if np.array_equal(trained.a, begun.a) else "a"


def same_basis(where: str, first: Public, other: Public) -> None:
    """Refuse *other* unless it trained the same factor as *first*, against the same public other one.

    Raises:
        BadUpdate: it did not; the message says how far apart they are.
    """
    if first.factor != other.factor:
        raise BadUpdate(
            f"{where}: some updates trained {first.factor.upper()}, others {other.factor.upper()}: {OTHER}",
            fix="combine updates of one parity only; a late one of the other parity is left out",
        )
    if first.frozen.shape != other.frozen.shape:
        raise BadUpdate(
            f"{where}: the public factor is {first.frozen.shape} in one update and {other.frozen.shape} in another: "
            f"{OTHER}",
            fix=FIX,
        )
    if first.frozen is not other.frozen and not np.array_equal(first.frozen, other.frozen):
        off = float(np.max(np.abs(first.frozen.astype(np.float64) - other.frozen)))
        raise BadUpdate(f"{where}: the public factors of two updates differ by up to {off:.3g}: {OTHER}", fix=FIX)
