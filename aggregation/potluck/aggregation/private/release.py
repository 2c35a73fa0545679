"""One round of user-level privacy: clip every contribution, add noise to the sum, divide by a number fixed before."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadTensor
from potluck.aggregation.private.banded import Floats, Schedule, best_bands, responses, sensitivity

Tensors = Mapping[str, NDArray[np.floating]]


@final
@dataclass(frozen=True, slots=True)
class Release:
    """How a round's sum is released.  What it is made of was checked when the recipe was read."""

    schedule: Schedule
    clip: float
    """C: largest norm of one contribution."""
    noise: float
    """z: multiplier of the Gaussian mechanism that the whole run is."""
    clients: int
    """n̄: what a sum is divided by, however many came.  The count of those who came is not public."""
    rounding: float = 0.0
    """What quantising a contribution can add to its norm, in its own units; a secure sum's Δ√d."""

    @property
    def bands(self) -> int:
        """b̂: how far the noise of a round reaches."""
        return best_bands(self.schedule)

    @property
    def scale(self) -> float:
        """Standard deviation of w in the sum: z · (C + rounding) · sens."""
        return self.noise * (self.clip + self.rounding) * sensitivity(self.schedule, self.bands)

    def __call__(self, total: Floats, draw: Callable[[int], Floats], t: int) -> Floats:
        """Return the noised mean of round *t*, counted from 0: (Σ + scale · v_t)/n̄, shape (d,).

        *total* is the sum of clipped contributions; *draw* gives w_s, (d,) independent standard normal numbers, the
        same whenever it is asked for the same s ≤ t.  v_t = Σ_i u_i w_{t−i}, one round's draws in memory at a time.

        Raises:
            BadTensor: the schedule has no such round, or the widths differ.
        """
        if not 0 <= t < self.schedule.rounds:
            raise BadTensor(
                f"round {t + 1} of a run whose guarantee counts {self.schedule.rounds} rounds",
                fix="begin a new run: this one has used all rounds that its guarantee counts",
            )
        noise = np.zeros_like(total)
        for back, share in enumerate(responses(t + 1, self.bands)):
            drawn = draw(t - back)
            if drawn.shape != total.shape:
                raise BadTensor(f"noise of shape {drawn.shape} for a sum of {total.shape}", fix="report this bug")
            noise += share * drawn
        mean: Floats = (total + self.scale * noise) / self.clients
        return mean


def norm(tensors: Tensors) -> float:
    """Return ‖x‖₂ over all *tensors*, in float64."""
    return math.sqrt(sum(float(np.sum(np.square(value, dtype=np.float64))) for value in tensors.values()))


def clipped(tensors: Tensors, clip: float) -> dict[str, Floats]:
    """Return *tensors* shrunk so that their joint norm is at most *clip*: x · min(1, C/(‖x‖ + 1e-12)), float64.

    Raises:
        BadTensor: a number is not finite; a clip would spread it over all others.
    """
    length = norm(tensors)
    if not math.isfinite(length):
        raise BadTensor("an update with numbers that are not finite cannot be clipped", fix="leave it out")
    factor = min(1.0, clip / (length + 1e-12))
    return {name: value.astype(np.float64) * factor for name, value in tensors.items()}
