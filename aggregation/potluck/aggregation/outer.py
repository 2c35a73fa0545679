"""The outer step: from the round's combined innovation to what is added to the master.

Only optimisers that are linear in the innovation are here.  They commute with stacking low-rank terms, so momentum is
one more low-rank matrix.  Element-wise ones (Adam, Yogi, Adagrad) would depend on the gauge and fill the rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeAlias, final

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.lowrank import LowRank

Terms: TypeAlias = Sequence[LowRank]
"""A matrix, as the low-rank terms whose sum it is."""


class Step(NamedTuple):
    """What to add to the master, and the momentum to keep; empty when the optimiser has none."""

    step: Terms
    momentum: Terms


class Outer(Protocol):
    """An outer optimiser on one module."""

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        """Return the step for the combined *innovation* (target minus present) after the last round's *momentum*."""


@final
@dataclass(frozen=True, slots=True)
class FedAvg:
    """x ← x + η·Δ.

    Source: Reddi et al. 2021, Algorithm 1 with SGD, arXiv:2003.00295; η = 1 is McMahan et al. 2017.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_rate("fedavg", self.eta)

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        return Step(scaled(innovation, self.eta), ())


@final
@dataclass(frozen=True, slots=True)
class FedAvgM:
    """m ← β·m + Δ; x ← x + η·m.

    Source: Hsu, Qi and Brown 2019, arXiv:1909.06335.
    """

    eta: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        check_rate("fedavgm", self.eta)
        check_decay("fedavgm beta", self.beta)

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        kept = (*scaled(momentum, self.beta), *innovation)
        return Step(scaled(kept, self.eta), kept)


@final
@dataclass(frozen=True, slots=True)
class Nesterov:
    """m ← μ·m + Δ; x ← x + η·(Δ + μ·m), so x gains η·((1 + μ)·Δ + μ²·m) in terms of the old m.

    Source: Douillard et al. 2023 (DiLoCo), Algorithm 1 with Nesterov as in torch.optim.SGD, arXiv:2311.08105.
    """

    eta: float = 0.7
    mu: float = 0.9

    def __post_init__(self) -> None:
        check_rate("nesterov", self.eta)
        check_decay("nesterov mu", self.mu)

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        step = (
            *scaled(innovation, self.eta * (1 + self.mu)),
            *scaled(momentum, self.eta * self.mu**2),
        )
        return Step(step, (*scaled(momentum, self.mu), *innovation))


OUTER: Final[Mapping[str, Callable[..., Outer]]] = MappingProxyType(
    {"fedavg": FedAvg, "fedavgm": FedAvgM, "nesterov": Nesterov}
)


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
