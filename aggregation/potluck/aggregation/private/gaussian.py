"""What one Gaussian mechanism gives away, exactly: no library is needed for a closed form."""

import math
from collections.abc import Callable
from typing import Final

from potluck.aggregation.errors import BadSetting

LARGEST: Final = 500.0
"""An epsilon from which on nothing is protected, and e^epsilon is near the end of the floating-point numbers."""
HALVINGS: Final = 200


def epsilon_of(noise: float, delta: float) -> float:
    """Return the smallest ε at which Gaussian noise of *noise* times the sensitivity is (ε, δ)-private; inf above 500.

    δ(ε) = Φ(1/2z − εz) − e^ε Φ(−1/2z − εz), which falls in ε.

    Source: Balle & Wang 2018, Theorem 8, arXiv:1805.06530.

    Raises:
        BadSetting: *noise* is not above 0, or *delta* not between 0 and 1.
    """
    _check(noise, delta)
    if _delta(noise, LARGEST) > delta:
        return math.inf
    return _smallest(lambda epsilon: _delta(noise, epsilon) <= delta, LARGEST)


def noise_of(epsilon: float, delta: float) -> float:
    """Return the smallest noise, as a multiple of the sensitivity, that is (ε, δ)-private.

    Raises:
        BadSetting: *epsilon* is not above 0 and at most 500, or *delta* not between 0 and 1.
    """
    if not 0 < epsilon <= LARGEST:
        raise BadSetting(f"epsilon is {epsilon}", fix=f"use a number above 0 and at most {LARGEST:g}, such as 8")
    _check(1.0, delta)
    most = 1.0
    while _delta(most, epsilon) > delta:
        most *= 2
    return _smallest(lambda noise: noise > 0 and _delta(noise, epsilon) <= delta, most)


def _smallest(enough: Callable[[float], bool], most: float) -> float:
    """Return the smallest number up to *most* that is *enough*, from above."""
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _delta(noise: float, epsilon: float) -> float:
    """Return δ(ε)."""
    half = 1 / (2 * noise)
    return _normal(half - epsilon * noise) - math.exp(epsilon) * _normal(-half - epsilon * noise)


def _normal(x: float) -> float:
    """Return Φ(x); erfc keeps the far tail, where 1 − erf would be 0."""
    return math.erfc(-x / math.sqrt(2)) / 2


def _check(noise: float, delta: float) -> None:
    if not noise > 0:
        raise BadSetting(f"the noise multiplier is {noise}", fix="use a number above 0")
    if not 0 < delta < 1:
        raise BadSetting(f"delta is {delta}", fix="use a number between 0 and 1, such as 1e-5")
