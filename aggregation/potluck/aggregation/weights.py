"""How much each update counts: factors that are multiplied, then divided by their sum over the round."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, final

from potluck.aggregation.updates import Update


class Weight(Protocol):
    """A factor of an update's weight, from what the update says about itself."""

    def __call__(self, update: Update) -> float:
        """Return the factor, finite and not negative."""


@final
@dataclass(frozen=True, slots=True)
class Uniform:
    """Every update counts the same."""

    def __call__(self, update: Update) -> float:
        return 1.0


@final
@dataclass(frozen=True, slots=True)
class Examples:
    """nᵢ, the number of training examples, as the client states it: cap it where clients are not trusted.

    Source: McMahan et al. 2017, Algorithm 1, arXiv:1602.05629.
    """

    def __call__(self, update: Update) -> float:
        return float(update.examples)


@final
@dataclass(frozen=True, slots=True)
class Staleness:
    """(1 + τ)^(−½) for an update whose start is τ versions old.

    The weights of a round are divided by their sum, so staleness shifts weight from late updates to fresh ones.
    FedBuff divides by the number of updates instead, which also shrinks the step of a round that is late as a whole.

    Source: Nguyen et al. 2022 (FedBuff, polynomial staleness), arXiv:2106.06639; Xie et al. 2019, arXiv:1903.03934.
    """

    def __call__(self, update: Update) -> float:
        return 1.0 / math.sqrt(1.0 + update.staleness)


WEIGHTS: Final[Mapping[str, Callable[..., Weight]]] = MappingProxyType(
    {"uniform": Uniform, "examples": Examples, "staleness": Staleness}
)
