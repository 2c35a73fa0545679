"""A small square matrix between two public factors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np

from potluck.aggregation.errors import BadSetting, BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank, compress
from potluck.aggregation.rules.base import Module, Part, Trains

ROUNDING: Final = 1e-6
"""Share of a norm that may lie outside at any slack: published factors are rounded to float32."""


@final
@dataclass(frozen=True, slots=True)
class FedSB:
    """U·(Σ cᵢ·(Rᵢ − Rᵢ⁰))·Vᵀ with Rᵢ = Uᵀ·(sᵢBᵢAᵢ)·V: the mean of the cores between two public subspaces.

    U and V span the columns and the rows of the master, which the first release fixes: Fed-SB takes them from the
    singular value decomposition of a first gradient, so there is no round before it.  A client that trains an r × r
    core R between them sends any factors of U·R·Vᵀ, a smaller client a sub-block; the sum keeps r² numbers.  Exact,
    and linear in the updates.  What lies outside of the subspaces is rounding of the codec and is dropped; an update
    with more than the share *slack* of its norm outside was trained otherwise, and is refused.  It fails by its
    first subspaces: nothing leaves them, and the gradient they came from costs a round that is not counted.

    Source: Singhal et al. 2025 (Fed-SB), arXiv:2502.15436.
    """

    trains: ClassVar[Trains] = "core"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    slack: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.slack < 1:
            raise BadSetting(f"fedsb has slack {self.slack}", fix="use at least 0 and less than 1, such as 0.01")

    def fold(self, module: Module) -> "CoreFold":
        return CoreFold(module, self.slack)


@final
class CoreFold:
    """The running Σ wᵢ·(Rᵢ − Rᵢ⁰) of one module, r × r.

    Raises:
        BadUpdate: the master has no subspaces yet, or an update lies outside of them.
    """

    def __init__(self, module: Module, slack: float) -> None:
        frame = compress([module.master]).low_rank
        if not frame.rank:
            raise BadUpdate(
                f"{module.name} has no public factors yet, between which a core could be",
                fix="begin with a release that spans them, such as the leading part of a first gradient",
            )
        self._name = module.name
        self._slack = slack
        self._u: Floats = frame.b / np.linalg.norm(frame.b, axis=0)
        self._v: Floats = frame.a / np.linalg.norm(frame.a, axis=1)[:, None]
        self._sum: Floats = np.zeros((frame.rank, frame.rank))

    def add(self, part: Part) -> None:
        self._sum += part.weight * (self._core(part.trained) - self._core(part.start))

    def combined(self, total: float) -> Sequence[LowRank]:
        return [LowRank(self._u @ (self._sum / total), self._v)]

    def _core(self, term: LowRank) -> Floats:
        """Return R = Uᵀ·(s·B·A)·V of *term*."""
        core: Floats = (self._u.T @ term.b) @ (term.a @ self._v.T) * term.scale
        norm = term.norm()
        outside = math.sqrt(max(0.0, norm**2 - float(np.sum(core**2))))
        if outside > (self._slack + ROUNDING) * norm:
            raise BadUpdate(
                f"{self._name}: {outside / norm:.1%} of an update lies outside of the public factors' subspaces, "
                f"where {self._slack:.1%} may",
                fix="train the core between the published factors only, or use the rule 'mean'",
            )
        return core
