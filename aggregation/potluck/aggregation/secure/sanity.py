"""What a sum of honest updates cannot be.  A cohort whose sum is that is dropped whole: there is nothing to repair."""

from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.secure.lanes import Told, largest, read_lanes
from potluck.aggregation.secure.ring import Ring, Words, centred

_SLACK: Final = 1e-3
"""Rounding at random may lengthen an update by this share of the clip."""


@final
@dataclass(frozen=True, slots=True)
class Decoded:
    """A sum that was read."""

    total: Floats
    """Σ q·Δ, float64, (d,)."""
    weight: float
    """What to divide it by for the mean: Σw/W."""
    lanes: Told


def decoded(words: Words, count: int, ring: Ring, max_weight: int, *, noised: bool = False) -> Decoded:
    """Return the sum of *count* updates from *words*, lanes included.

    It is checked that the lanes say as many clients as are in the sum and that no lane, no coordinate and no norm is
    larger than those of *count* honest updates.

    *noised*: what is told of the sum gets noise first.  Then only how many clients the lanes say, and their weight, is
    checked, which no update is in.  Everybody learns whether a sum was dropped, and the rest would let one member ask
    for a bit of the others' sum in that way, without noise.  Lanes are cut to what honest ones can say.

    Raises:
        BadUpdate: it cannot be of honest updates.
    """
    whole = centred(words, ring.bits)
    lanes = read_lanes(whole[ring.size :], ring, max_weight)
    if lanes.count != count:
        raise BadUpdate(f"the lanes say {lanes.count} clients where {count} were summed", fix="drop this cohort")
    if not count <= lanes.weight <= count * max_weight:
        raise BadUpdate(f"the lanes say a weight of {lanes.weight} of {count} clients", fix="drop this cohort")
    total: Floats = whole[: ring.size].astype(np.float64) * ring.step
    weight = lanes.weight / max_weight
    honest = _cut(lanes, count, max_weight)
    if noised:
        return Decoded(total, weight, honest)
    for name in ("clipped", "loss", "tokens"):
        if getattr(lanes, name) != getattr(honest, name):
            raise BadUpdate(f"the lane {name} says {getattr(lanes, name)}", fix="drop this cohort")
    high = int(np.abs(whole).max(initial=0))
    if high > count * ring.bound:
        raise BadUpdate(f"a coordinate of {high}, {count} clients make at most {count * ring.bound}", fix="drop it")
    norm = float(np.linalg.norm(total))
    allowed = weight * ring.clip * (1 + _SLACK) + count * ring.step * float(np.sqrt(ring.size))
    if norm > allowed:
        raise BadUpdate(f"a norm of {norm:.4g}, honest updates make at most {allowed:.4g}", fix="drop this cohort")
    return Decoded(total, weight, lanes)


def _cut(lanes: Told, count: int, max_weight: int) -> Told:
    """Return the lanes with what only members know cut to what *count* honest ones can make it."""
    most = largest(max_weight)
    return replace(
        lanes,
        clipped=min(max(lanes.clipped, 0), count * most.clipped),
        loss=min(max(lanes.loss, 0), count * most.loss),
        tokens=min(max(lanes.tokens, 0), count * most.tokens),
    )
