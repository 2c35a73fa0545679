"""Outer optimisers that are linear in the innovation.

They commute with stacking low-rank terms, so momentum is one more low-rank matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.outer.base import Step, Terms
from potluck.aggregation.weights.ballot import Step as WeightStep


@final
@dataclass(frozen=True, slots=True)
class FedAvg:
    """x ← x + η·Δ.

    Source: Reddi et al. 2021, Algorithm 1 with SGD, arXiv:2003.00295; η = 1 is McMahan et al. 2017.
    """

    elementwise: ClassVar[Literal[False]] = False

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_rate("fedavg", self.eta)

    def weighs(self) -> Sequence[WeightStep]:
        return ()

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        return Step(scaled(innovation, self.eta), ())


@final
@dataclass(frozen=True, slots=True)
class FedAvgM:
    """m ← β·m + Δ; x ← x + η·m.

    Source: Hsu, Qi and Brown 2019, arXiv:1909.06335.
    """

    elementwise: ClassVar[Literal[False]] = False

    eta: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        check_rate("fedavgm", self.eta)
        check_decay("fedavgm beta", self.beta)

    def weighs(self) -> Sequence[WeightStep]:
        return ()

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        kept = (*scaled(momentum, self.beta), *innovation)
        return Step(scaled(kept, self.eta), kept)


@final
@dataclass(frozen=True, slots=True)
class Nesterov:
    """m ← μ·m + Δ; x ← x + η·(Δ + μ·m), so x gains η·((1 + μ)·Δ + μ²·m) in terms of the old m.

    Its defaults are the DiLoCo preset, made for a hundred local steps and more: η 0.7 and μ 0.9.

    Source: Douillard et al. 2023 (DiLoCo), Algorithm 1 with Nesterov as in torch.optim.SGD, arXiv:2311.08105.
    """

    elementwise: ClassVar[Literal[False]] = False

    eta: float = 0.7
    mu: float = 0.9

    def __post_init__(self) -> None:
        check_rate("nesterov", self.eta)
        check_decay("nesterov mu", self.mu)

    def weighs(self) -> Sequence[WeightStep]:
        return ()

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        step = (
            *scaled(innovation, self.eta * (1 + self.mu)),
            *scaled(momentum, self.eta * self.mu**2),
        )
        return Step(step, (*scaled(momentum, self.mu), *innovation))


def scaled(terms: Terms, weight: float) -> Terms:
    """Return weight times the matrix, sharing its factors."""
    return [term.times(weight) for term in terms]


def check_rate(where: str, eta: float) -> None:
    """Refuse a step size that is not positive and finite."""
    if not 0 < eta < float("inf"):
        raise BadSetting(f"{where} has eta {eta}", fix="use a positive number; 1.0 takes the whole step")


def check_decay(where: str, share: float) -> None:
    """Refuse a momentum that would never fade."""
    if not 0 <= share < 1:
        raise BadSetting(f"{where} is {share}", fix="use at least 0 and less than 1, such as 0.9")
