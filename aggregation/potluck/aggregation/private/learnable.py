"""Whether a run can learn under noise: the arithmetic of the gate at which a hopeless recipe is refused."""

import math
from dataclasses import dataclass
from typing import Final, final

from potluck.aggregation.private.banded import Schedule, best_bands, prefix_error
from potluck.aggregation.private.gaussian import noise_of

HOPELESS: Final = 2.0
"""Noise in a round's mean, as a multiple of the largest update: above it nothing is learned.  Rule of thumb, measured
on nothing but our own runs: a direction of the update survives where the noise along it is below the update's part."""


@final
@dataclass(frozen=True, slots=True)
class Prospect:
    """A run under user-level noise, as numbers."""

    noise: float
    """Multiplier of the one Gaussian mechanism that the run is."""
    per_round: float
    """Noise of one round as a multiple of the clip, correlation counted: independent noise of that size would add up
    to the same error."""
    numbers: int
    """d: trained numbers in one update."""
    clients: int
    """n: updates in a round."""

    @property
    def ratio(self) -> float:
        """ρ = per_round·√d/n: the norm of the noise in a round's mean as a multiple of the clip."""
        return self.per_round * math.sqrt(self.numbers) / self.clients

    @property
    def hopeless(self) -> bool:
        """Whether nothing can be learned."""
        return self.ratio > HOPELESS

    @property
    def most_numbers(self) -> int:
        """Return the largest d that so many clients can learn: (2n/per_round)²."""
        return int((HOPELESS * self.clients / self.per_round) ** 2)

    @property
    def least_clients(self) -> int:
        """Return the fewest clients in a round that can learn so many numbers: per_round·√d/2."""
        return math.ceil(self.per_round * math.sqrt(self.numbers) / HOPELESS)


def prospect(budget: tuple[float, float], schedule: Schedule, numbers: int, clients: int) -> Prospect:
    """Return what a run with *budget* (ε, δ) for each client can expect.

    Raises:
        BadSetting: the budget is out of range.
    """
    noise = noise_of(*budget)
    error = prefix_error(schedule, best_bands(schedule))
    return Prospect(noise, noise * error / math.sqrt((schedule.rounds + 1) / 2), numbers, clients)
