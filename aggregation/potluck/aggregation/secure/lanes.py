"""What a client says about its update, as coordinates behind it: only the sum over the cohort is ever seen.

A lane larger than a coordinate may be is spread over several, as digits in base Q + 1, lowest first.  So one bound, Q,
holds for everything that is summed.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.secure.ring import Ring, Words

LOSS_STEPS: Final = 64
MAX_LOSS: Final = 16
MAX_TOKENS: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Told:
    """The lanes: of one client, or summed over a cohort."""

    count: int
    """1 for a client."""
    weight: int
    clipped: int
    """Whether the update was cut to the clip."""
    loss: int
    """round(64·w·loss), the loss cut to [0, 16]; 0 where losses are not reported."""
    tokens: int
    """Trained on, up to 2²⁰."""


def told(weight: int, tokens: int, *, clipped: bool, loss: float | None) -> Told:
    """Return what one client tells; *loss* None tells none."""
    steps = 0 if loss is None else round(LOSS_STEPS * weight * min(max(loss, 0.0), float(MAX_LOSS)))
    return Told(1, weight, int(clipped), steps, min(max(tokens, 0), MAX_TOKENS))


def largest(max_weight: int) -> Told:
    """Return the most that one client may tell."""
    return Told(1, max_weight, 1, LOSS_STEPS * MAX_LOSS * max_weight, MAX_TOKENS)


def lane_sizes(ring: Ring, max_weight: int) -> tuple[int, ...]:
    """Return how many coordinates each lane takes."""
    base = ring.bound + 1
    sizes = []
    for most in _values(largest(max_weight)):
        size = 1
        while base**size <= most:
            size += 1
        sizes.append(size)
    return tuple(sizes)


def vector_size(ring: Ring, max_weight: int) -> int:
    """Return the coordinates of an update with its lanes."""
    return ring.size + sum(lane_sizes(ring, max_weight))


def with_lanes(update: Words, lanes: Told, ring: Ring, max_weight: int) -> Words:
    """Return the update with its lanes behind it: (d,) -> (d + lanes,).

    Raises:
        BadSetting: a lane is outside what one client may tell.
    """
    base = ring.bound + 1
    digits: list[int] = []
    limits = _values(largest(max_weight))
    for value, most, size in zip(_values(lanes), limits, lane_sizes(ring, max_weight), strict=True):
        if not 0 <= value <= most:
            raise BadSetting(f"a client tells {value}, at most {most}", fix="tell less")
        digits += [value // base**place % base for place in range(size)]
    return np.concatenate([update, np.array(digits, np.uint32)])


def read_lanes(tail: NDArray[np.int64], ring: Ring, max_weight: int) -> Told:
    """Return the lanes from the summed coordinates behind an update: (lanes,) of signed whole numbers."""
    base, place, values = ring.bound + 1, 0, []
    for size in lane_sizes(ring, max_weight):
        digits = tail[place : place + size]
        values.append(sum(int(digit) * base**power for power, digit in enumerate(digits)))
        place += size
    return Told(*values)


def _values(lanes: Told) -> tuple[int, ...]:
    return lanes.count, lanes.weight, lanes.clipped, lanes.loss, lanes.tokens
