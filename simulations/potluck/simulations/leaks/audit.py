"""A lower bound on ε from one run of what claims to be differentially private: more cannot be hidden than is found."""

import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.lowrank import Floats

LARGEST: Final = 50.0
CLOSE: Final = 1e-3


@final
@dataclass(frozen=True, slots=True)
class Guesses:
    """What an auditor guessed of canaries that were each put in, or left out, by a fair coin."""

    canaries: int
    made: int
    """Guesses; of the other canaries the auditor says nothing."""
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise BadSetting(
                f"{self.right} right of {self.made} guesses at {self.canaries} canaries",
                fix="count every canary and every guess once",
            )


def guessed(scores: Floats, put_in: NDArray[np.bool_], made: int) -> Guesses:
    """Return how often the auditor is right who takes the made/2 highest scores for in, and as many lowest for out.

    *made* is fixed before the scores are looked at.
    """
    order = np.argsort(scores)
    half = made // 2
    right = int(put_in[order[len(order) - half :]].sum() + (~put_in[order[:half]]).sum())
    return Guesses(len(scores), 2 * half, right)


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return the greatest chance of as many right guesses where (epsilon, delta) differential privacy holds.

    Source: Steinke, Nasr & Jagielski 2023, Theorem 5.2, arXiv:2305.08846; neighbours differ in one record that is there
    or not.
    """
    truth = 1 / (1 + math.exp(-epsilon))  # how often randomised response at this ε tells the truth
    chances = [_binomial(guesses.made, k, truth) for k in range(guesses.made + 1)]
    tail = sum(chances[guesses.right :])
    slack, total = 0.0, 0.0
    for missing in range(1, guesses.right + 1):
        total += chances[guesses.right - missing]
        slack = max(slack, total / missing)
    return min(1.0, tail + 2 * guesses.canaries * delta * slack)


def at_least(guesses: Guesses, delta: float, doubt: float = 0.05) -> float:
    """Return the largest ε that is ruled out: with a chance of 1 − *doubt* the true one is no smaller; 0 if none is."""
    low, high = 0.0, LARGEST
    if p_value(guesses, low, delta) > doubt:
        return 0.0
    while high - low > CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(guesses, middle, delta) <= doubt else (low, middle)
    return low


def _binomial(tries: int, hits: int, chance: float) -> float:
    """Return P[Binomial(tries, chance) = hits], for 0 < chance < 1."""
    ways = math.lgamma(tries + 1) - math.lgamma(hits + 1) - math.lgamma(tries - hits + 1)
    miss = max(1 - chance, 5e-324)
    return math.exp(ways + hits * math.log(chance) + (tries - hits) * math.log(miss))
