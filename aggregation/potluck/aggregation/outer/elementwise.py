"""Outer optimisers that work entry by entry: on the trained factor, against a public other one that stays.

Elsewhere the entries are those of an arbitrary basis, and the step would have full rank; the driver refuses that.
When the public factor changes, so do the coordinates, and the moments begin anew.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.outer.base import Moments, Moved
from potluck.aggregation.outer.linear import check_decay, check_rate


@final
@dataclass(frozen=True, slots=True)
class FedAdam:
    """m ← β₁·m + (1 − β₁)·Δ; v ← β₂·v + (1 − β₂)·Δ²; x ← x + η·m / (√v + τ), with v₀ = τ² and no bias correction.

    Source: Reddi et al. 2021, Algorithm 2 (FedAdam), arXiv:2003.00295.
    """

    elementwise: ClassVar[Literal[True]] = True

    eta: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    adaptivity: float = 1e-3
    """τ."""

    def __post_init__(self) -> None:
        check_rate("fedadam", self.eta)
        check_decay("fedadam beta1", self.beta1)
        check_decay("fedadam beta2", self.beta2)
        check_floor("fedadam", self.adaptivity)

    def begun(self, shape: tuple[int, ...]) -> Moments:
        return at_rest(shape, self.adaptivity)

    def __call__(self, change: Floats, moments: Moments) -> Moved:
        first = self.beta1 * moments.first + (1 - self.beta1) * change
        second = self.beta2 * moments.second + (1 - self.beta2) * change**2
        return stepped(Moments(first, second), self.eta, self.adaptivity)


@final
@dataclass(frozen=True, slots=True)
class FedYogi:
    """As `fedadam`, with v ← v − (1 − β₂)·Δ²·sgn(v − Δ²): v falls no faster than it rises.

    Source: Reddi et al. 2021, Algorithm 2 (FedYogi), arXiv:2003.00295.
    """

    elementwise: ClassVar[Literal[True]] = True

    eta: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    adaptivity: float = 1e-3
    """τ."""

    def __post_init__(self) -> None:
        check_rate("fedyogi", self.eta)
        check_decay("fedyogi beta1", self.beta1)
        check_decay("fedyogi beta2", self.beta2)
        check_floor("fedyogi", self.adaptivity)

    def begun(self, shape: tuple[int, ...]) -> Moments:
        return at_rest(shape, self.adaptivity)

    def __call__(self, change: Floats, moments: Moments) -> Moved:
        first = self.beta1 * moments.first + (1 - self.beta1) * change
        square = change**2
        second = moments.second - (1 - self.beta2) * square * np.sign(moments.second - square)
        return stepped(Moments(first, second), self.eta, self.adaptivity)


@final
@dataclass(frozen=True, slots=True)
class FedAdagrad:
    """As `fedadam`, with v ← v + Δ²: the step only ever gets shorter.

    Source: Reddi et al. 2021, Algorithm 2 (FedAdagrad), arXiv:2003.00295.
    """

    elementwise: ClassVar[Literal[True]] = True

    eta: float = 0.1
    beta1: float = 0.9
    adaptivity: float = 1e-3
    """τ."""

    def __post_init__(self) -> None:
        check_rate("fedadagrad", self.eta)
        check_decay("fedadagrad beta1", self.beta1)
        check_floor("fedadagrad", self.adaptivity)

    def begun(self, shape: tuple[int, ...]) -> Moments:
        return at_rest(shape, self.adaptivity)

    def __call__(self, change: Floats, moments: Moments) -> Moved:
        first = self.beta1 * moments.first + (1 - self.beta1) * change
        second = moments.second + change**2
        return stepped(Moments(first, second), self.eta, self.adaptivity)


def at_rest(shape: tuple[int, ...], tau: float) -> Moments:
    """Return m₀ = 0 and v₀ = τ²."""
    return Moments(np.zeros(shape), np.full(shape, tau**2))


def stepped(moments: Moments, eta: float, tau: float) -> Moved:
    """Return η·m / (√v + τ), without bias correction, and the moments it was taken from."""
    return Moved(eta * moments.first / (np.sqrt(moments.second) + tau), moments)


def check_floor(where: str, tau: float) -> None:
    """Refuse a floor of the denominator that lets it be zero."""
    if not 0 < tau < float("inf"):
        raise BadSetting(f"{where} has adaptivity {tau}", fix="use a positive number, such as 0.001")
