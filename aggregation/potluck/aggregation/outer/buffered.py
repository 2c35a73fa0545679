"""Outer steps for updates that come late: what each counts falls with the versions it is behind.

They act through the weights, which are not divided by their sum again: a round that is late as a whole takes a
shorter step.  (The weight factor `staleness` only moves weight from late updates to fresh ones.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import numpy as np

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.outer.base import Step, Terms
from potluck.aggregation.outer.linear import check_rate, scaled
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.ballot import Step as WeightStep


@final
@dataclass(frozen=True, slots=True)
class FedBuff:
    """x ← x + (η/K)·Σ s(τᵢ)·Δᵢ with s(τ) = (1 + τ)^(−a); K is the number of updates unless *buffer* says.

    The equation is for weights that are equal; others replace 1/n.  It fails where slow machines hold other text than
    fast ones: staleness is their mark, and their text counts less.

    Source: Nguyen et al. 2022 (FedBuff), Algorithm 1 (K = 10, a = ½), arXiv:2106.06639.
    """

    elementwise: ClassVar[Literal[False]] = False

    eta: float = 1.0
    exponent: float = 0.5
    """a."""
    buffer: int = 0
    """K; 0 is the number of updates of the round."""

    def __post_init__(self) -> None:
        check_rate("fedbuff", self.eta)
        check_fall("fedbuff exponent", self.exponent)
        if self.buffer < 0:
            raise BadSetting(f"fedbuff has buffer {self.buffer}", fix="use the updates of a round, or 0 to count them")

    def weighs(self) -> Sequence[WeightStep]:
        return (Fading(self.exponent, buffer=self.buffer),)

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        return Step(scaled(innovation, self.eta), ())


@final
@dataclass(frozen=True, slots=True)
class FedAsync:
    """x ← x + α·Σ cᵢ·s(τᵢ)·Δᵢ; for a round of one update that is x ← (1 − α_τ)·x + α_τ·xᵢ with α_τ = α·s(τ).

    s is (1 + τ)^(−a), which is constant for a = 0.  With *slope* above 0 it is the hinge: 1 up to *grace* versions,
    1 / (slope·(τ − grace) + 1) from there on.  It mixes innovations rather than models, so an update that is late does
    not take back what others have learned since.  It fails as `fedbuff` does.

    Source: Xie et al. 2019 (FedAsync: α 0.6, a 0.5; hinge a 10, b 4), arXiv:1903.03934.
    """

    elementwise: ClassVar[Literal[False]] = False

    alpha: float = 0.6
    exponent: float = 0.5
    """a."""
    slope: float = 0.0
    """The a of the hinge; 0 is no hinge."""
    grace: float = 4.0
    """The b of the hinge, in versions."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise BadSetting(f"fedasync has alpha {self.alpha}", fix="use more than 0 and at most 1, such as 0.6")
        for name, value in (("exponent", self.exponent), ("slope", self.slope), ("grace", self.grace)):
            check_fall(f"fedasync {name}", value)

    def weighs(self) -> Sequence[WeightStep]:
        return (Fading(self.exponent, slope=self.slope, grace=self.grace),)

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        return Step(scaled(innovation, self.alpha), ())


@final
@dataclass(frozen=True, slots=True)
class Fading:
    """Every innovation times s(τᵢ), and times n/K for a buffer of K; nothing is divided by a sum."""

    reads_gram: ClassVar[bool] = False

    exponent: float
    slope: float = 0.0
    grace: float = 0.0
    buffer: int = 0

    def cast(self, ballot: Ballot) -> Ballot:
        late = ballot.facts.staleness.astype(np.float64)
        faded = (1.0 + late) ** -self.exponent
        if self.slope:
            faded = 1.0 / (self.slope * np.maximum(late - self.grace, 0.0) + 1.0)
        if self.buffer:
            faded = faded * (len(late) / self.buffer)
        return replace(ballot, mix=ballot.mix * faded)


def check_fall(where: str, value: float) -> None:
    """Refuse a fall with staleness that would be a rise."""
    if not 0 <= value < float("inf"):
        raise BadSetting(f"{where} is {value}", fix="use 0 or a positive number")
