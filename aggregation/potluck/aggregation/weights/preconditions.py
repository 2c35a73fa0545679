"""What a step demands before it promises anything: of its settings when it is built, of a round when it is cast."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from potluck.aggregation.errors import BadSetting, BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot

LARGEST_SQUARE: Final = 1e300
"""Of a norm; four of them must still fit into a float64, or distances become infinite."""
MOST_ROUNDS: Final = 100_000
"""Of anything that a setting says how often to do: a slip of the keyboard must not hold a coordinator for ever."""


def whole(name: str, value: float, *, least: int, most: float = math.inf) -> None:
    """Refuse a setting that is not a whole number from *least* to *most*.

    Raises:
        BadSetting: it is not.
    """
    if not isinstance(value, int) or not least <= value <= most:
        limit = f"from {least} to {most}" if math.isfinite(most) else f"of at least {least}"
        raise BadSetting(f"{name} is {value!r}", fix=f"use a whole number {limit}")


def positive(name: str, value: float) -> None:
    """Refuse a setting that is not finite and above zero.

    Raises:
        BadSetting: it is not.
    """
    if not 0 < value < math.inf:
        raise BadSetting(f"{name} is {value!r}", fix="use a finite number above 0")


def defended(ballot: Ballot, step: str, *, per_hostile: int = 2, more: int = 1) -> Ballot:
    """Return the ballot without the vectors that count nothing, if *step* keeps its promise on the m that are left.

    With f > 0 hostile ones among them, m must be at least *per_hostile*·f + *more*, and the f heaviest must hold less
    than half of the weight: a client states its own weight, and the weight of a majority is not a thing that any rule
    withstands.  With f = 0 nothing is promised, and every m from 1 up will do.

    Raises:
        BadUpdate: no vector has weight, there are too few, or some weigh too much.
    """
    counts = ballot.weights > 0
    if not counts.any():
        raise BadUpdate(f"{step} got {len(counts)} vectors without any weight", fix="wait for an update that counts")
    ballot = ballot if counts.all() else replace(ballot, mix=ballot.mix[counts], weights=ballot.weights[counts])
    m, f = len(ballot.weights), ballot.facts.f
    if f and m < per_hostile * f + more:
        raise BadUpdate(
            f"{step} got {described(ballot)}, of which {f} may be hostile, and needs at least {per_hostile * f + more}",
            fix=f"wait for {per_hostile * f + more - m} more, or set f to {max(0, (m - more) // per_hostile)}",
        )
    heaviest = float(np.sort(ballot.weights)[m - f :].sum() / ballot.weights.sum())
    if f and heaviest >= 1 / 2:
        raise BadUpdate(
            f"the heaviest {f} of {described(ballot)} hold {heaviest:.0%} of the weight, and {step} withstands less "
            "than half",
            fix="put the weight step 'cap' before it, or weigh by 'uniform'",
        )
    return ballot


def described(ballot: Ballot) -> str:
    """Return how many vectors there are, and from how many updates where that differs."""
    m, n = ballot.mix.shape
    return f"{m} vectors" if m == n else f"{m} vectors (made from {n} updates)"


def inner_products(ballot: Ballot, step: str) -> Floats:
    """Return the ballot's inner products (m, m), none of which turns arithmetic on distances into infinity or NaN.

    Raises:
        BadUpdate: one is NaN, or the square of a norm is above 1e300.
    """
    gram = ballot.gram
    largest = float(np.max(np.diag(gram)))
    if not largest <= LARGEST_SQUARE:
        raise BadUpdate(
            f"{step}: the largest of {described(ballot)} has a norm of {math.sqrt(largest):.3g}",
            fix="leave that update out; clients clip theirs far below",
        )
    return gram
