"""Rules that train one factor against a public other one: exact, one addition per update, and nothing but a sum.

Σ cᵢ·sᵢ·(Bᵢ − Bᵢ⁰)·A = (Σ cᵢ·sᵢ·(Bᵢ − Bᵢ⁰))·A for one A, so the coordinator needs no single update: secure
aggregation and differential privacy want these.  Every client must hold the same A to the last bit; that is checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.rules.base import Module, Part, Trains
from potluck.aggregation.rules.public import Public, TrainedFactor, moved_factor, public_part, same_basis


@final
@dataclass(frozen=True, slots=True)
class FFA:
    """(Σ cᵢ·sᵢ·(Bᵢ − Bᵢ⁰))·A: B is trained, A stays as it was drawn.

    Exact, half the upload, and asynchronous-safe, since A is the same in every version.  It fails by staying in the
    row space of a random A: a floor of the loss that more rounds do not lower, and a spread over seeds.

    Source: Sun et al. 2024 (FFA-LoRA), arXiv:2403.12313.
    """

    trains: ClassVar[Trains] = "b"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "LinearFold":
        return LinearFold(module, "b")


@final
@dataclass(frozen=True, slots=True)
class RoLoRA:
    """B̄ in even versions and Ā in odd ones: each is the mean of the trained factor against a public other one.

    Exact, half the upload, and free of the row space of the first A.  It fails by training half of the adapter at a
    time, and by being synchronous: an update from before the last change of the other factor has another basis, and
    is refused, as is a mixture of parities.

    Source: Chen et al. 2024 and 2025 (RoLoRA), arXiv:2409.02346 and arXiv:2502.01755.
    """

    trains: ClassVar[Trains] = "alternately"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "LinearFold":
        return LinearFold(module, None)


@final
@dataclass(frozen=True, slots=True)
class FedSVD:
    """The sum of `ffa`; then the master is written anew as B = U·Σ and A = Vᵀ, and the next round trains against that.

    The matrix that a round leaves is that of `ffa`.  Its factors are not: ffa's A stays as it was drawn, here it is an
    orthonormal basis of the same row space, ordered by what was learned, with ‖ΔB·A‖ = ‖ΔB‖, so that a clip or noise
    on B acts on the product.  A refresh is a step on public numbers and costs no privacy.  It fails like ffa: training
    B alone never leaves the row space, however often it is re-based.  An update from before a refresh is refused.

    Source: Lee et al. 2025 (FedSVD), arXiv:2505.12805.
    """

    trains: ClassVar[Trains] = "b"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "LinearFold":
        return LinearFold(module, "b")


@final
@dataclass(frozen=True, slots=True)
class FedSA:
    """B·(Σ cᵢ·sᵢ·(Aᵢ − Aᵢ⁰)): the mean of A alone; each client trains a B as well, which never leaves it.

    What a client runs is W₀ + s·Bᵢ·Ā with its private Bᵢ, which the coordinator cannot know.  The B that updates carry
    is the published one: it holds A's place in the master, is the same for all, and must not be zero.  An update
    with another B is refused, since it would give away what was to stay private.  It fails for whoever has no B:
    the shared A alone is no model.  And it depends on the gauge: (Bᵢ·M, M⁻¹·Aᵢ) is the same client and another mean.

    Source: Guo et al. 2024 (FedSA-LoRA), arXiv:2410.01463.
    """

    trains: ClassVar[Trains] = "a"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "LinearFold":
        return LinearFold(module, "a")


@final
class LinearFold:
    """The running Σ wᵢ·(change of the trained factor) of one module: one array of its size.

    Raises:
        BadUpdate: the other factor was trained, or is not the one that the updates before had.
    """

    def __init__(self, module: Module, factor: TrainedFactor | None) -> None:
        self._name = module.name
        self._factor = factor
        self._first: Public | None = None
        self._sum: Floats = np.zeros(0)
        self._room: Floats | None = None

    def add(self, part: Part) -> None:
        factor = self._factor or moved_factor(part.trained, part.start)
        if factor is None:
            return  # it trained neither factor, so it fits either parity and adds nothing
        unit = part.trained.scale if self._first is None else self._first.unit
        size = (part.trained.b if factor == "b" else part.trained.a).shape
        room = self._room if self._room is not None and self._room.shape == size else None
        public = public_part(part.trained, part.start, where=self._name, factor=factor, out=room, unit=unit)
        if self._first is None:
            self._first, self._sum, self._room = public, np.zeros(public.change.shape), np.empty(public.change.shape)
        same_basis(self._name, self._first, public)
        public.change[...] *= part.weight
        self._sum += public.change

    def combined(self, total: float) -> Sequence[LowRank]:
        return [] if self._first is None else [self._first.low_rank(self._sum / total)]
