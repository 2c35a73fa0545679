"""Steps that correct for what clients say about themselves: how much they have, how long they worked."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.preconditions import positive


@final
@dataclass(frozen=True, slots=True)
class Cap:
    """Cut every weight to at most cap_factor times the median weight, and restore their sum.

    A client states its examples itself.  With a cap_factor of 1 and f < m/4 hostile ones, these hold less than half
    of what is left whatever they state, since at least m/2 − f of the others hold the median.  Vectors without weight
    do not count in the median.

    Source: ours.
    """

    reads_gram: ClassVar[bool] = False

    cap_factor: float = 1.0

    def __post_init__(self) -> None:
        positive("cap_factor", self.cap_factor)

    def cast(self, ballot: Ballot) -> Ballot:
        counting = ballot.weights[ballot.weights > 0]
        if not len(counting):
            raise BadUpdate(
                f"cap got {len(ballot.weights)} vectors without any weight", fix="wait for an update that counts"
            )
        weights = np.minimum(ballot.weights, self.cap_factor * float(np.median(counting)))
        return ballot.weighted(weights * (ballot.weights.sum() / weights.sum()))


@final
@dataclass(frozen=True, slots=True)
class FedNova:
    """Divide every innovation by its number of steps τᵢ and multiply by the round's, so that the slow count in full.

    Δᵢ ← (τ_eff/τᵢ)·Δᵢ, τ_eff = Σ cᵢ·τᵢ/Σ cᵢ.  Steps stand in for the paper's ‖aᵢ‖₁, as under Adam there is no such
    number.  It works on the innovations inside the vectors, so it may stand anywhere; before what clips is where it
    belongs, because a client that states few steps makes itself long.  τ_eff is the server's choice in the paper too:
    with hostile updates (f > 0) it is the weighted median, which no statement of theirs carries off.  An update of no
    steps has done nothing, and its innovation counts as zero.

    Source: Wang et al. 2020, equation 9, NeurIPS (arXiv:2007.07481).

    Raises:
        BadUpdate: when cast, if no update that counts has made a step.
    """

    reads_gram: ClassVar[bool] = False

    def cast(self, ballot: Ballot) -> Ballot:
        steps = ballot.facts.steps.astype(np.float64)
        coefficients = np.maximum(ballot.coefficients, 0.0)
        if not (coefficients * steps).any():
            raise BadUpdate(
                f"none of {len(steps)} updates that count has made a step",
                fix="wait for one that has, or drop 'fednova'",
            )
        effective = (
            weighted_median(steps, coefficients) if ballot.facts.f else float(np.average(steps, weights=coefficients))
        )
        scale = np.divide(effective, steps, out=np.zeros_like(steps), where=steps > 0)
        return replace(ballot, mix=ballot.mix * scale[None, :])


def weighted_median(values: Floats, weights: Floats) -> float:
    """Return the smallest of *values* that, with all below it, holds at least half of the *weights*."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
