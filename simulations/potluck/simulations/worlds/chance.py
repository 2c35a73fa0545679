"""Chance without state: the same seed and the same words, the same number, on every machine and in any order."""

import math
from collections.abc import Sequence
from hashlib import blake2b
from statistics import NormalDist
from typing import Final, TypeVar

import numpy as np

T = TypeVar("T")
_NORMAL: Final = NormalDist()


def uniform(seed: int, *what: str | int) -> float:
    """Return a number in (0, 1) that depends on *seed* and *what* alone."""
    text = "\0".join(map(str, (seed, *what)))
    drawn = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 12
    return (drawn + 0.5) / 2**52


def exponential(mean: float, seed: int, *what: str | int) -> float:
    """Return a draw from the exponential distribution with that *mean*."""
    return -mean * math.log(uniform(seed, *what))


def normal(seed: int, *what: str | int) -> float:
    """Return a draw from N(0, 1)."""
    return _NORMAL.inv_cdf(uniform(seed, *what))


def generator(seed: int, *what: str | int) -> np.random.Generator:
    """Return a generator of its own for *what*."""
    text = "\0".join(map(str, (seed, *what)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "big")))


def apportioned(total: int, shares: Sequence[float]) -> list[int]:
    """Split *total* into whole numbers close to *shares*, by largest remainder; they add up to *total*."""
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    counts = [math.floor(part) for part in exact]
    rest = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in rest[: total - sum(counts)]:
        counts[i] += 1
    return counts


def dealt(total: int, options: Sequence[T], shares: Sequence[float], rng: np.random.Generator) -> list[T]:
    """Return *total* of the *options*, each as often as its share says, in an order that *rng* draws."""
    counts = apportioned(total, shares)
    drawn = [option for option, count in zip(options, counts, strict=True) for _ in range(count)]
    return [drawn[i] for i in rng.permutation(total)]
