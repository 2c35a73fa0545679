"""What a sum of honest updates cannot be.  A cohort whose sum is that is dropped whole: there is nothing to repair."""

from dataclasses import dataclass
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


def decoded(words: Words, count: int, ring: Ring, max_weight: int) -> Decoded:
    """Return the sum of *count* updates from *words*, lanes included.

    It is checked that the lanes say as many clients as are in the sum and that no lane, no coordinate and no norm is
    larger than those of *count* honest updates.

    Raises:
        BadUpdate: it cannot be of honest updates.
    """
    whole = centred(words, ring.bits)
    lanes = read_lanes(whole[ring.size :], ring, max_weight)
    most = largest(max_weight)
    if lanes.count != count:
        raise BadUpdate(f"the lanes say {lanes.count} clients where {count} were summed", fix="drop this cohort")
    if not count <= lanes.weight <= count * max_weight:
        raise BadUpdate(f"the lanes say a weight of {lanes.weight} of {count} clients", fix="drop this cohort")
    for name in ("clipped", "loss", "tokens"):
        if not 0 <= getattr(lanes, name) <= count * getattr(most, name):
            raise BadUpdate(f"the lane {name} says {getattr(lanes, name)}", fix="drop this cohort")
    high = int(np.abs(whole).max(initial=0))
    if high > count * ring.bound:
        raise BadUpdate(f"a coordinate of {high}, {count} clients make at most {count * ring.bound}", fix="drop it")
    total: Floats = whole[: ring.size].astype(np.float64) * ring.step
    weight = lanes.weight / max_weight
    norm = float(np.linalg.norm(total))
    allowed = weight * ring.clip * (1 + _SLACK) + count * ring.step * float(np.sqrt(ring.size))
    if norm > allowed:
        raise BadUpdate(f"a norm of {norm:.4g}, honest updates make at most {allowed:.4g}", fix="drop this cohort")
    return Decoded(total, weight, lanes)
