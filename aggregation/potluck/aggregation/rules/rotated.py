"""The mean of the factors, after each client's were turned to face the start."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.rules.base import Module, Part, Trains
from potluck.aggregation.rules.factors import FactorFold


@final
@dataclass(frozen=True, slots=True)
class FedRot:
    """B̄ = Σ cᵢ·Bᵢ·Qᵢ and Ā = Σ cᵢ·Qᵢᵀ·Aᵢ with orthogonal Qᵢ = argmin ‖QᵀAᵢ − A₀‖, or ‖BᵢQ − B₀‖ in every second round.

    With Aᵢ·A₀ᵀ = U·Σ·Vᵀ (or Bᵢᵀ·B₀) that is Q = U·Vᵀ.  The first round aligns A, where LoRA begins with B = 0.

    Q may be a reflection.  The published code makes det Q = +1, by turning the least aligned direction the wrong way;
    a reflection leaves Bᵢ·Aᵢ alone just as a rotation does, and of (B, A) and (−B, −A) at rank 1 only it makes a pair
    that does not cancel.  So no orthogonal gauge of what was trained changes the result; any other gauge does, which
    is one way in which it fails.  The other is that of `fedit`: cross terms grow with the clients and local steps.

    Source: Zhang et al. 2026 (FedRot-LoRA), arXiv:2602.23638; orthogonal Procrustes: Schönemann 1966.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = False

    def fold(self, module: Module) -> "RotatedFold":
        return RotatedFold(module)


@final
class RotatedFold:
    """The running sums of both turned factors of one module.

    Raises:
        BadUpdate: an update began at zero, so there is nothing to face; or ranks, scales or starts differ.
    """

    def __init__(self, module: Module) -> None:
        self._name = module.name
        self._by: Literal["a", "b"] = "a" if module.rounds % 2 == 0 else "b"
        self._factors = FactorFold(module.name)

    def add(self, part: Part) -> None:
        trained, start = part.trained, part.start
        reference = start.a if self._by == "a" else start.b
        if not reference.any():
            raise BadUpdate(
                f"{self._name} was started with {self._by.upper()} = 0 in a round that aligns {self._by.upper()}",
                fix="publish a start, with the init 'continue' or 'orthonormal', or use the rule 'mean'",
            )
        if trained.rank == start.rank:  # otherwise the fold says what is wrong
            turn = aligning(trained, start, self._by)
            trained = LowRank(trained.b @ turn, turn.T @ trained.a, trained.scale)
        self._factors.add(Part(part.weight, trained, start))

    def combined(self, total: float) -> Sequence[LowRank]:
        return self._factors.combined(total)


def aligning(trained: LowRank, start: LowRank, by: Literal["a", "b"]) -> Floats:
    """Return the orthogonal (r, r) matrix Q that brings QᵀA (by "a") or B·Q (by "b") nearest to the start's."""
    mine, other = (trained.a, start.a) if by == "a" else (trained.b.T, start.b.T)
    u, _, vt = np.linalg.svd(mine.astype(np.float64) @ other.T.astype(np.float64))
    turn: Floats = u @ vt
    return turn
