"""How a hostile update is put together from the honest ones.

`combination` is exact in the products: its innovation is a weighted sum of the honest innovations.  Where both factors
train it needs more columns than a coordinator's intake lets through, so it is an upper bound on what a client can
really do; where one factor is public, it has the rank that everybody trains.

`entrywise` works on the entries of the trained factors, taken from the common start, at the honest rank and in the
honest shape.  A deviation σ per entry belongs to the start's basis: in another gauge it is another σ.  Where both
factors train, μ is the mean of the factors, not of the products.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from potluck.aggregation import BadSetting, BadUpdate, LowRank, Update, gram
from potluck.aggregation.lowrank import Array, Floats, zero
from potluck.aggregation.updates import difference, padded

BISECTIONS: Final = 60
"""Halvings of the interval that holds Min-Max's γ: to the last bit of a double."""
MAX_GAMMA: Final = 2.0**30


def combination(honest: Sequence[Update], weights: Floats) -> Update:
    """Return an update whose innovation is Σ wᵢ·Δᵢ, exactly.

    With the moves bᵢ and aᵢ from the start (B, A), b = Σ wᵢ·bᵢ and a = Σ wᵢ·aᵢ, the trained product is
    (B + b)·(A + a) and beside it Σ wᵢ·bᵢ·aᵢ − b·a, which is nothing where one factor is public.

    Raises:
        BadUpdate: the honest updates do not start from the same factors, or have other ranks than the start.
    """
    enough("a linear attack", honest, 1)
    trained = {}
    for name in honest[0].trained:
        terms, start = common(honest, name)
        each_b, each_a = moves(terms, start, "b"), moves(terms, start, "a")
        b, a = np.tensordot(weights, each_b, axes=1), np.tensordot(weights, each_a, axes=1)
        if each_b.any() and each_a.any():
            used = np.flatnonzero(weights)
            columns = [start.b + b, -b, *(weights[i] * each_b[i] for i in used)]
            rows = [start.a + a, a, *(each_a[i] for i in used)]
            trained[name] = LowRank(np.concatenate(columns, axis=1), np.concatenate(rows, axis=0), start.scale)
        else:
            trained[name] = shifted(start, b, a, terms[0])
    return sent(honest, trained)


def entrywise(honest: Sequence[Update], move: Callable[[Floats], Floats]) -> Update:
    """Return an update whose trained factors are the start's plus *move* of the honest ones' moves (n, …) from it.

    A factor that no honest client moved stays as it is: it is public, and a change of it would be refused.

    Raises:
        BadUpdate: the honest updates do not start from the same factors, or have other ranks than the start.
    """
    enough("an attack on entries", honest, 1)
    trained = {}
    for name in honest[0].trained:
        terms, start = common(honest, name)
        each = (moves(terms, start, side) for side in ("b", "a"))
        b, a = (move(moved) if moved.any() else np.zeros(moved.shape[1:]) for moved in each)
        trained[name] = shifted(start, b, a, terms[0])
    return sent(honest, trained)


def largest_gamma(honest: Sequence[Update]) -> float:
    """Return Min-Max's γ; 0 if already the mean of the factors is too far from an honest update."""
    parts: tuple[dict[str, LowRank], ...] = ({}, {}, {})
    for name in honest[0].trained:
        terms, start = common(honest, name)
        each = (moves(terms, start, side) for side in ("b", "a"))
        (b, b_std), (a, a_std) = ((moved.mean(axis=0), moved.std(axis=0, ddof=1)) for moved in each)
        middle = LowRank(start.b + b, start.a + a, start.scale)
        parts[0][name] = difference(middle, start)
        # s·(B − γσ_B)·(A − γσ_A) = s·B·A − γ·s·(σ_B·A + B·σ_A) + γ²·s·σ_B·σ_A, at the mean (B, A).
        parts[1][name] = LowRank(
            np.concatenate([b_std, middle.b], axis=1), np.concatenate([middle.a, a_std], axis=0), -start.scale
        )
        parts[2][name] = LowRank(b_std, a_std, start.scale)
    products = gram([*(update.innovation() for update in honest), *parts])
    n = len(honest)
    norms = np.diag(products)[:n]
    widest = float((norms[:, None] + norms - 2 * products[:n, :n]).max())

    def fits(gamma: float) -> bool:
        powers = np.array([1.0, gamma, gamma * gamma])
        squares = norms - 2 * products[:n, n:] @ powers + powers @ products[n:, n:] @ powers
        return bool(squares.max() <= widest)

    return bisected(fits)


def bisected(fits: Callable[[float], bool]) -> float:
    """Return the largest number that *fits*, as doubling from 1 and then halving finds it; 0 if 0 does not."""
    low, high = 0.0, 1.0
    while fits(high) and high < MAX_GAMMA:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def common(honest: Sequence[Update], name: str) -> tuple[list[LowRank], LowRank]:
    """Return the trained factors of the module *name*, and the start that all have in common."""
    terms, start = [update.trained[name] for update in honest], started(honest[0], name)
    if not all(same(started(update, name), start) for update in honest) or {term.rank for term in terms} != {
        start.rank
    }:
        raise BadUpdate(
            f"{name}: {len(honest)} honest updates of ranks {sorted({term.rank for term in terms})} do not start from "
            "the same factors, so no entry means the same in all",
            fix="give the updates of clients of one rank that started from one version",
        )
    return terms, start


def started(update: Update, name: str) -> LowRank:
    """Return the start of the module *name*: B = 0 beside A = 0 if the update has none."""
    if name in update.start:
        return update.start[name]
    trained = update.trained[name]
    b, a = padded(zero(trained.shape), trained.rank, scale=1.0)
    return LowRank(b, a, trained.scale)


def moves(terms: Sequence[LowRank], start: LowRank, side: str) -> Floats:
    """Return how far each of the *terms* moved the factor *side* from *start*, (n, …) float64."""
    return np.stack([getattr(term, side).astype(np.float64) - getattr(start, side) for term in terms])


def shifted(start: LowRank, b: Floats, a: Floats, like: LowRank) -> LowRank:
    """Return *start* moved by *b* and *a*, in the number format of an honest client's factors."""
    return LowRank((start.b + b).astype(like.b.dtype), (start.a + a).astype(like.a.dtype), start.scale)


def same(left: LowRank, right: LowRank) -> bool:
    """Return whether the two have the same factors, bit for bit."""
    return left.scale == right.scale and all_equal([left, right], "a") and all_equal([left, right], "b")


def all_equal(terms: Sequence[LowRank], side: str) -> bool:
    """Return whether the factor *side* is the same in all *terms*."""
    factors: list[Array] = [getattr(term, side) for term in terms]
    return all(np.array_equal(factors[0], factor) for factor in factors[1:])


def sent(honest: Sequence[Update], trained: Mapping[str, LowRank]) -> Update:
    """Return the hostile update: it claims as many examples as any honest one, and the first one's other facts."""
    return replace(honest[0], trained=trained, examples=max(update.examples for update in honest))


def enough(what: str, honest: Sequence[Update], least: int) -> None:
    """Refuse fewer honest updates than an attack looks at."""
    if len(honest) < least:
        raise BadUpdate(f"{what} got {len(honest)} honest updates and needs {least}", fix="give the honest updates")


def positive(what: str, setting: str, value: float) -> None:
    """Refuse a strength that is not positive and finite."""
    if not 0 < value < math.inf:
        raise BadSetting(f"{what} has {setting} {value}", fix="use a positive number")
