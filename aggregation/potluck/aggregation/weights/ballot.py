"""What the weights stage hands from one of its steps to the next.

Every step is a pure function on two small arrays, never on updates.  The *vectors* of a ballot are mixtures of the
round's innovations, vₐ = Σⱼ mix[a, j]·Δⱼ, and the round's result is Σₐ weights[a]·vₐ.  So a step that clips scales
a row of the mix, a step that averages neighbours or buckets multiplies it from the left, and a step that selects drops
rows; any of them may follow any other.  Inner products of the vectors follow from those of the innovations.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.updates import Update


@final
@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of a round's n updates before any of them is combined."""

    examples: NDArray[np.int64]
    """(n,) as the clients state them."""
    steps: NDArray[np.int64]
    """(n,) optimiser steps."""
    staleness: NDArray[np.int64]
    """(n,) versions."""
    f: int = 0
    """How many of the n may be hostile."""
    seed: int = 0
    """For steps that draw at random; made from the updates' digests, so no update could know it."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Ballot:
    """m vectors that stand for n updates, and what each counts."""

    facts: Facts
    mix: Floats
    """(m, n): the vectors in terms of the innovations; the identity at first."""
    weights: Floats
    """(m,): the result is Σₐ weights[a]·vₐ.  They sum to 1 unless a step moves only part of the way."""
    products: Floats | None = None
    """(n, n): Kᵢⱼ = ⟨Δᵢ, Δⱼ⟩ over all modules; None where no step of the pipeline reads it."""
    reference: Floats | None = None
    """(n + 1,): ⟨g, Δᵢ⟩ for each i and then ⟨g, g⟩, for a trusted innovation g, where there is one."""

    @property
    def gram(self) -> Floats:
        """(m, m): the inner products of the vectors, mix·K·mixᵀ, exactly symmetric.

        Raises:
            BadSetting: the pipeline did not compute K; a step that reads it must say so.
        """
        if self.products is None:
            raise BadSetting("a weight step reads the Gram matrix and does not say so", fix="set reads_gram")
        gram = self.mix @ self.products @ self.mix.T
        symmetric: Floats = (gram + gram.T) / 2
        return symmetric

    @property
    def coefficients(self) -> Floats:
        """(n,): what every innovation is multiplied by in the result, mixᵀ·weights."""
        coefficients: Floats = self.mix.T @ self.weights
        return coefficients

    def mixed(self, matrix: Floats) -> Self:
        """Return the ballot whose vectors are *matrix* (m, m) times these, with the same weights."""
        return replace(self, mix=matrix @ self.mix)

    def weighted(self, weights: Floats) -> Self:
        """Return the ballot with these vectors and other *weights*."""
        return replace(self, weights=weights)


class Factor(Protocol):
    """A factor of an update's weight, from what the update says about itself; multiplied, then divided by the sum."""

    reads_gram: ClassVar[bool]

    def __call__(self, update: Update) -> float:
        """Return the factor, finite and not negative."""


@runtime_checkable
class Step(Protocol):
    """A step of the weights stage that looks at all updates together."""

    reads_gram: ClassVar[bool]
    """Whether it reads Ballot.gram, which costs a pass over the updates."""

    def cast(self, ballot: Ballot) -> Ballot:
        """Return the ballot after this step.

        Raises:
            BadUpdate: the step cannot give what it promises for these n and f; the message has the numbers.
        """
