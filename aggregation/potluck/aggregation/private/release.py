"""One round of user-level privacy: clip every contribution, add noise to the sum, divide by a number fixed before."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadTensor
from potluck.aggregation.private.banded import Floats, Schedule, best_bands, responses, sensitivity

Tensors = Mapping[str, NDArray[np.floating]]
UNLIKELY: Final = 8.0
"""Deviations by which noise is longer than √d with a chance of 1.3e-14 at most."""


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
    period: float = math.inf
    """2ᵇ·Δ of a secure sum, which is known up to multiples of it; infinite where a sum is known as it is."""

    @property
    def bands(self) -> int:
        """b̂: how far the noise of a round reaches."""
        return best_bands(self.schedule)

    @property
    def scale(self) -> float:
        """Standard deviation of w in the sum: z · (C + rounding) · sens."""
        return self.noise * (self.clip + self.rounding) * sensitivity(self.schedule, self.bands)

    def __call__(self, total: Floats, draw: Callable[[int], Floats], t: int) -> Floats:
        """Return the noised mean of round *t*, counted from 0: noised(…)/n̄, shape (d,).

        Where the period is finite nobody looked at the sum, and it may be of anything: what has noise is shrunk to
        the norm `most`, which takes nothing of the sum but what has noise.

        Raises:
            BadTensor: the schedule has no such round, or the widths differ.
        """
        noised = self.noised(total, draw, t)
        if math.isfinite(self.period):
            noised *= min(1.0, self.most(len(noised), t) / (float(np.linalg.norm(noised)) + 1e-12))
        mean: Floats = noised / self.clients
        return mean

    def most(self, size: int, t: int) -> float:
        """Return the largest norm of a noised sum of round *t* that is believed: n̄ · (C + rounding) + σ_t (√d + 8).

        σ_t = scale · ‖u‖ is the deviation of each of its *size* = d numbers.  A sum of honest updates is longer with a
        chance of e⁻³² at most, 1.3e-14.

        Source: Boucheron, Lugosi & Massart 2013, Concentration Inequalities, Theorem 5.6: P(‖w‖ > √d + s) ≤ exp(−s²/2).
        """
        deviation = self.scale * float(np.linalg.norm(responses(t + 1, self.bands)))
        return self.clients * (self.clip + self.rounding) + deviation * (math.sqrt(size) + UNLIKELY)

    def noised(self, total: Floats, draw: Callable[[int], Floats], t: int) -> Floats:
        """Return Σ + scale · v_t of round *t*, counted from 0, shape (d,); wrapped where the period is finite.

        *total* is the sum of clipped contributions; *draw* gives w_s, (d,) independent standard normal numbers, the
        same whenever it is asked for the same s ≤ t.  v_t = Σ_i u_i w_{t−i}, one round's draws in memory at a time.

        A secure sum comes centred: it is S − P·k, where S is the sum over whole numbers of what all sent, P the period,
        and k are whole numbers that depend on S.  S + scale · v_t is the Gaussian mechanism, since one contribution
        moves S by at most C + rounding, whatever the others sent.  And wrap(S − P·k + scale · v_t) is
        wrap(S + scale · v_t), a function of that alone: so it tells no more.  Without the wrap, the smallest change of
        one member's update would move a coordinate that a hostile member had brought to P/2 by P.

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
        noised: Floats = total + self.scale * noise
        return wrapped(noised, self.period) if math.isfinite(self.period) else noised


def wrapped(vector: Floats, period: float) -> Floats:
    """Return *vector* moved by multiples of *period* into [−period/2, period/2); what lies there stays to the bit."""
    moved: Floats = vector - period * np.floor(vector / period + 0.5)
    return moved


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
