"""What an outer step is."""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.weights.ballot import Step as WeightStep

Terms: TypeAlias = Sequence[LowRank]
"""A matrix, as the low-rank terms whose sum it is."""


class Step(NamedTuple):
    """What to add to the master, and the momentum to keep; empty when the optimiser has none."""

    step: Terms
    momentum: Terms


class Outer(Protocol):
    """An outer optimiser on one module, linear in the innovation: allowed everywhere."""

    elementwise: ClassVar[Literal[False]]

    def weighs(self) -> Sequence[WeightStep]:
        """Return the steps that this optimiser adds at the end of the weights stage; most add none."""

    def __call__(self, innovation: Terms, momentum: Terms) -> Step:
        """Return the step for the combined *innovation* (target minus present) after the last round's *momentum*."""


class Moments(NamedTuple):
    """What an element-wise optimiser remembers of one module: two arrays of the shape of the trained factor."""

    first: Floats
    second: Floats


class Moved(NamedTuple):
    """What to add to the trained factor, and the moments to keep."""

    step: Floats
    moments: Moments


class Elementwise(Protocol):
    """An outer optimiser that works entry by entry: only where all train one factor against a fixed, public other."""

    elementwise: ClassVar[Literal[True]]

    def begun(self, shape: tuple[int, ...]) -> Moments:
        """Return the moments before the first round, and after the public factor has changed."""

    def __call__(self, change: Floats, moments: Moments) -> Moved:
        """Return the step for the combined *change* of the trained factor (target minus present)."""


AnyOuter: TypeAlias = Outer | Elementwise
