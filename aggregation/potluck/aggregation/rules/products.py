"""Rules that sum products, or replace the master by a sum of products: no gauge changes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from potluck.aggregation.errors import BadSetting, BadUpdate
from potluck.aggregation.lowrank import LowRank, compress, zero
from potluck.aggregation.rules.base import Module, Part, Trains
from potluck.aggregation.rules.mean import MeanFold
from potluck.aggregation.sums import InnovationSum


@final
@dataclass(frozen=True, slots=True)
class FLoRA:
    """[B₁ … B_n]·[c₁s₁A₁; …; c_ns_nA_n]: the stacked factors, which are the exact sum.

    Made for clients that begin each round at zero, with the init `fresh`: then nothing else is in a product.  A start
    that is not zero is subtracted, which makes this `mean`.  It fails by what it asks for: a download that grows with
    the clients, and a training that begins anew each round, which few local steps do not make up for.

    Source: Wang et al. 2024 (FLoRA), arXiv:2409.05976.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> MeanFold:
        return MeanFold(module)


@final
@dataclass(frozen=True, slots=True)
class FedEx:
    """s·B̄·Ā + s·(Σ cᵢBᵢAᵢ − B̄·Ā): the mean of the factors, and the residual that makes it exact.

    The two together are Σ cᵢ·s·Bᵢ·Aᵢ, so from a common start the master is that of `mean`; what FedEx keeps apart as a
    change of the base weight is part of the master here, and nobody has to replay it.  As published it knows one rank
    and one scale, so another is refused.  It fails by its download: the residual has rank up to (n − 1)·r, and a
    client that missed a round needs all of those it missed.

    Source: Singhal et al. 2024 (FedEx-LoRA), arXiv:2410.09432.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "FedExFold":
        return FedExFold(module)


@final
class FedExFold:
    """The exact sum of one module, of updates of one rank and scale.

    Raises:
        BadUpdate: two updates differ in rank or scale.
    """

    def __init__(self, module: Module) -> None:
        self._name = module.name
        self._like: tuple[int, float] | None = None
        self._sum = InnovationSum(module)

    def add(self, part: Part) -> None:
        like = (part.trained.rank, part.trained.scale)
        if self._like is None:
            self._like = like
        if like != self._like:
            raise BadUpdate(
                f"{self._name} has rank {like[0]} and scale {like[1]} in one update, "
                f"{self._like[0]} and {self._like[1]} in another",
                fix="use the rule 'mean', which takes any mix",
            )
        self._sum.add(part.trained, part.start, part.weight)

    def combined(self, total: float) -> Sequence[LowRank]:
        return self._sum.scaled(1 / total)


@final
@dataclass(frozen=True, slots=True)
class FlexLoRA:
    """Σ cᵢ·sᵢ·Bᵢ·Aᵢ − G: the master becomes the mean of the whole products, starts included.

    It fails by collapse: a client of rank r was sent the leading r directions, counts the others as zero, and takes
    its share of them out of the master, each round, although it learned nothing about them.  With ranks 4, 8, 16 and
    32 and no training at all ‖G‖ falls to 0.63 in one round.

    Source: Bai et al. 2024 (FlexLoRA), arXiv:2402.11505; the collapse: Wu et al. 2026, arXiv:2602.13486.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    def fold(self, module: Module) -> "ReplacingFold":
        return ReplacingFold(module, energy=None)


@final
@dataclass(frozen=True, slots=True)
class FLoRIST:
    """cut_τ(Σ cᵢ·sᵢ·Bᵢ·Aᵢ) − G: as `flexlora`, with the fewest directions that hold the share τ of Σσ².

    The decomposition is of the stacked Bs and of the stacked As by themselves, and of the small core between them.
    It fails like flexlora, and cuts 1 − τ of the energy each round.

    Source: Ramesh and Dass 2025 (FLoRIST), arXiv:2506.09199.
    """

    trains: ClassVar[Trains] = "both"
    foresees: ClassVar[bool] = False
    any_start: ClassVar[bool] = True

    energy: float = 0.99
    """τ."""

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise BadSetting(f"florist has energy {self.energy}", fix="use a share above 0 and up to 1, such as 0.99")

    def fold(self, module: Module) -> "ReplacingFold":
        return ReplacingFold(module, energy=self.energy)


@final
class ReplacingFold:
    """The running Σ wᵢ·sᵢ·Bᵢ·Aᵢ of one module, and how much of the master it stands for."""

    def __init__(self, module: Module, *, energy: float | None) -> None:
        self._master = module.master
        self._energy = energy
        self._nothing = zero(module.shape)
        self._sum = InnovationSum(module)
        self._share = 0.0

    def add(self, part: Part) -> None:
        self._sum.add(part.trained, self._nothing, part.weight)
        self._share += part.weight

    def combined(self, total: float) -> Sequence[LowRank]:
        terms = self._sum.scaled(1 / total)
        if self._energy is not None:
            terms = [compress([*terms, self._nothing], energy=self._energy).low_rank]
        return [*terms, self._master.times(-self._share / total)]
