"""Banded matrix-factorisation DP-FTRL: noise that takes back, in later rounds, part of what it added in earlier ones.

No sampling of clients is assumed: a client may take part in `participations` rounds, at least `separation` apart.  The
whole run is then one Gaussian mechanism, of the multiplier by which `scale` is multiplied.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting

Floats = NDArray[np.float64]
MOST_ROUNDS: Final = 100_000


@final
@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a client may take part: in at most *participations* rounds of *rounds*, *separation* apart.

    Round r and round r + separation are far enough apart.

    Raises:
        BadSetting: a number is below 1, or the participations do not fit into the rounds.
    """

    rounds: int
    separation: int
    participations: int

    def __post_init__(self) -> None:
        if min(self.rounds, self.separation, self.participations) < 1 or self.rounds > MOST_ROUNDS:
            raise BadSetting(
                f"{self.participations} participations, {self.separation} apart, in {self.rounds} rounds",
                fix=f"use numbers of at least 1, and at most {MOST_ROUNDS:,} rounds",
            )
        fit = -(-self.rounds // self.separation)
        if self.participations > fit:
            raise BadSetting(
                f"{self.participations} participations, {self.separation} rounds apart, need more than the run's "
                f"{self.rounds} rounds",
                fix=f"allow at most {fit} participations, or a smaller separation",
            )


def coefficients(count: int) -> Floats:
    """Return c_0 … c_{count−1} of the square root of the matrix of prefix sums: c_0 = 1, c_k = c_{k−1}(2k − 1)/2k.

    Source: Fichtenberger, Henzinger & Upadhyay 2023, Fact 1.2, arXiv:2202.11205.
    """
    k = np.arange(1, count)
    return np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])


def sensitivity(schedule: Schedule, bands: int) -> float:
    """Return how far one client of norm 1 moves what the noise is added to, over the whole run; in units of its norm.

    sens² = Σ_{j<k} Σ_{i<min(b̂, T−jb)} c_i², since columns that are b ≥ b̂ apart do not overlap.

    Source: Choquette-Choo et al. 2023, Theorem 2, arXiv:2306.08153.

    Raises:
        BadSetting: *bands* is not between 1 and the separation.
    """
    if not 1 <= bands <= schedule.separation:
        raise BadSetting(f"{bands} bands with a separation of {schedule.separation}", fix="use at most the separation")
    squares = np.cumsum(coefficients(bands) ** 2)
    starts = range(0, schedule.participations * schedule.separation, schedule.separation)
    return math.sqrt(sum(squares[min(bands, schedule.rounds - at) - 1] for at in starts if at < schedule.rounds))


def responses(rounds: int, bands: int) -> Floats:
    """Return u with v_t = Σ_i u_i w_{t−i}: the first column of S⁻¹, for the banded Toeplitz S of `coefficients`."""
    c = coefficients(min(bands, rounds))
    u = np.zeros(rounds)
    u[0] = 1.0
    for t in range(1, rounds):
        reach = min(t, len(c) - 1)
        u[t] = -c[1 : reach + 1] @ u[t - reach : t][::-1]
    return u


def prefix_error(schedule: Schedule, bands: int) -> float:
    """Return the RMS over rounds of the noise in the sum of all rounds so far, for multiplier 1; sensitivity included.

    Independent noise (one band) has √(k(T + 1)/2).
    """
    prefixes = np.cumsum(responses(schedule.rounds, bands))
    return sensitivity(schedule, bands) * math.sqrt(np.mean(np.cumsum(prefixes**2)))


@cache
def best_bands(schedule: Schedule) -> int:
    """Return the number of bands with the least prefix_error."""
    most = min(schedule.separation, schedule.rounds)
    return min(range(1, most + 1), key=lambda bands: prefix_error(schedule, bands))


def correlated(draws: Floats, bands: int) -> Floats:
    """Return v_0 … v_{n−1} of independent *draws* w, both (n, d): v_t = w_t − Σ_{i=1..b̂−1} c_i v_{t−i}, so v = S⁻¹w."""
    c = coefficients(bands)
    v = np.array(draws, dtype=np.float64)
    for t in range(1, len(v)):
        reach = min(t, bands - 1)
        v[t] -= c[1 : reach + 1] @ v[t - reach : t][::-1]
    return v
