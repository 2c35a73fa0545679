"""One module's combined innovation and its master, to its next master: the outer step and the cut."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import (
    GRAM_TOLERANCE,
    Array,
    Floats,
    LowRank,
    compress,
    nearly_factored,
    shortened,
    zero,
)
from potluck.aggregation.outer.base import AnyOuter, Elementwise, Moments
from potluck.aggregation.report import Truncation

SAME_BASIS: Final = 1e-6
"""Relative difference up to which two public factors are one: a start is rounded to float32."""


class Before(NamedTuple):
    """What one module has from the rounds before."""

    master: LowRank | None
    momentum: LowRank | None
    moments: Moments | None
    exact: bool = True
    """Whether the terms to come are exact; sketched ones are not worth an exact decomposition."""


class After(NamedTuple):
    """What a round leaves of one module."""

    master: LowRank
    momentum: LowRank | None
    moments: Moments | None
    cost: Truncation


def moved(terms: Sequence[LowRank], before: Before, outer: AnyOuter, *, rank: int, shape: tuple[int, int]) -> After:
    """Return the module after a step of *outer* by the sum of *terms*, cut to *rank* columns."""
    if outer.elementwise:
        raise BadUpdate("an element-wise outer step has no basis to work in", fix="use a rule that trains one factor")
    present = [] if before.master is None else [before.master]
    step = outer(terms, [] if before.momentum is None else [before.momentum])
    master, cost = cut([*present, *step.step, zero(shape)], rank, exact=before.exact)
    momentum = cut([*step.momentum, zero(shape)], rank, exact=before.exact)[0] if step.momentum else None
    return After(master, momentum, None, cost)


def moved_in_basis(
    terms: Sequence[LowRank], before: Before, outer: AnyOuter, *, rank: int, shape: tuple[int, int]
) -> After:
    """Return the module after a step, left in the basis of the public factor where it has that basis already.

    An element-wise step needs it: its coordinates are the entries of the trained factor, times the scale.

    Raises:
        BadUpdate: an element-wise step, and the change is not one term.
    """
    present = [] if before.master is None or not before.master.rank else [before.master]
    moments: Moments | None = None
    steps: Sequence[LowRank]
    if outer.elementwise:
        if len(terms) != 1:
            raise BadUpdate(f"an element-wise step needs a change in one basis, and got {len(terms)} terms")
        steps, moments = entry_by_entry(terms[0], before, outer)
        momentum: LowRank | None = None
    else:
        step = outer(terms, [] if before.momentum is None else [before.momentum])
        steps = step.step
        momentum = joined(step.momentum) if step.momentum else None
        if step.momentum and momentum is None:
            momentum, _ = cut([*step.momentum, zero(shape)], rank)
    master = joined([*present, *steps])
    if master is None or master.rank > rank:
        master, cost = cut([*present, *steps, zero(shape)], rank)
        return After(master, momentum, moments, cost)
    return After(master, momentum, moments, Truncation(master.norm(), 0.0))


def entry_by_entry(term: LowRank, before: Before, outer: Elementwise) -> tuple[list[LowRank], Moments]:
    """Return the step of an element-wise optimiser on the b of *term*, and its moments.

    After another public factor than before the coordinates are others, and the moments begin anew.
    """
    change = term.b.astype(np.float64) * term.scale
    known = before.moments
    fixed = before.master is None or not before.master.rank or joined([before.master, term]) is not None
    moments = known if known is not None and known.first.shape == change.shape and fixed else outer.begun(change.shape)
    step, after = outer(change, moments)
    return [LowRank(step, term.a)], after


def joined(terms: Sequence[LowRank]) -> LowRank | None:
    """Return the sum of *terms* in the basis of the first, or None where they do not share a factor.

    They share a where each row is a multiple of the first term's row, up to float32 rounding; or b likewise.
    """
    if not terms:
        return None
    first = terms[0]
    b = added_along([(term.b, term.scale, term.a) for term in terms], first.a)
    if b is not None:
        return LowRank(b, first.a.astype(np.float64))
    a = added_along([(term.a.T, term.scale, term.b.T) for term in terms], first.b.T)
    return None if a is None else LowRank(first.b.astype(np.float64), np.ascontiguousarray(a.T))


def added_along(terms: Sequence[tuple[Array, float, Array]], rows: Array) -> Floats | None:
    """Return Σ scale·columns·diag(ratio) for (columns, scale, public rows), or None where public rows differ."""
    total: Floats | None = None
    for columns, scale, public in terms:
        ratio = rows_over(public, rows)
        if ratio is None:
            return None
        part: Floats = columns.astype(np.float64) * scale * ratio
        total = part if total is None else total + part
    return total


def rows_over(rows: Array, first: Array) -> Floats | None:
    """Return the (r,) factors by which *rows* (r, k) are multiples of *first*, or None where they are not."""
    if rows.shape != first.shape:
        return None
    rows, first = rows.astype(np.float64), first.astype(np.float64)
    squares = np.einsum("rk,rk->r", first, first)
    ratio: Floats = np.einsum("rk,rk->r", rows, first) / np.where(squares > 0, squares, 1.0)
    off = np.linalg.norm(rows - ratio[:, None] * first, axis=1)
    return ratio if (off <= SAME_BASIS * np.linalg.norm(rows, axis=1)).all() else None


def evened(term: LowRank) -> LowRank:
    """Return *term* with columns of b as long as the rows of a beside them, float64, at scale 1.

    What is short in one factor and long in the other is not small; a Gram matrix of one factor could not know.
    Only zeros are left out: what is not finite stays, to be refused by who decomposes it.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        b, a = term.b * np.float64(term.scale), term.a.astype(np.float64)
        lengths, others = np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1)
        used = (lengths != 0) & (others != 0)
        ratio = np.sqrt(others[used] / lengths[used])
        return LowRank(b[:, used] * ratio, a[used] / ratio[:, None])


def cut(terms: Sequence[LowRank], rank: int, *, exact: bool = True) -> tuple[LowRank, Truncation]:
    """Return the sum of *terms* in at most *rank* columns, and what that cost."""
    if exact:
        kept, discarded = compress(terms, rank=rank)
    else:
        even = [evened(term) for term in terms]
        kept, discarded = shortened(even, terms[0].shape, rank=rank, tolerance=GRAM_TOLERANCE, factor=nearly_factored)
    return kept, Truncation(math.hypot(kept.norm(), discarded), discarded)
