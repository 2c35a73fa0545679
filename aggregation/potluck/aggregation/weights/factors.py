"""How much each update counts: factors that are multiplied, then divided by their sum over the round."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from potluck.aggregation.updates import Update


@final
@dataclass(frozen=True, slots=True)
class Uniform:
    """Every update counts the same."""

    reads_gram: ClassVar[bool] = False

    def __call__(self, update: Update) -> float:
        return 1.0


@final
@dataclass(frozen=True, slots=True)
class Examples:
    """nᵢ, the number of training examples, as the client states it: cap it where clients are not trusted.

    Source: McMahan et al. 2017, Algorithm 1, arXiv:1602.05629.
    """

    reads_gram: ClassVar[bool] = False

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

    reads_gram: ClassVar[bool] = False

    def __call__(self, update: Update) -> float:
        return 1.0 / math.sqrt(1.0 + update.staleness)
