"""What one client did in one round, and how far it moved the adapter."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Array, Floats, LowRank, zero


@final
@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """One client's trained adapter beside the start it was given, per module, *as the client decoded it*.

    The rank and the scale may differ from client to client and between trained and start.  A module that *start*
    lacks began at zero.  The mappings may read a module only when it is asked for; see stored.

    Raises:
        BadUpdate: a count out of range, or a module only in start.
    """

    trained: Mapping[str, LowRank]
    start: Mapping[str, LowRank]
    examples: int
    """Training examples it was made from."""
    steps: int = 1
    """Optimiser steps it was made in."""
    staleness: int = 0
    """Versions by which the master has moved on since the start was published."""
    key: bytes = b""
    """SHA-256 of the bytes it was decoded from, where that is known; it then stands for the content."""

    def __post_init__(self) -> None:
        if self.examples < 0 or self.steps < 0 or self.staleness < 0:
            raise BadUpdate(
                f"an update of {self.examples} examples, {self.steps} steps and staleness {self.staleness}",
                fix="none of the three is negative",
            )
        if extra := sorted(set(self.start) - set(self.trained)):
            raise BadUpdate(f"{len(extra)} modules were started and not trained, such as {extra[0]}")

    def innovation(self) -> dict[str, LowRank]:
        """Return Δ = s·B·A − s₀·B₀·A₀ per module, as float64 factors of rank up to 2·max(r, r₀)."""
        return {name: self.innovation_of(name) for name in self.trained}

    def innovation_of(self, name: str) -> LowRank:
        """Return Δ of the one module *name*; see innovation."""
        return difference(*self.part_of(name))

    def part_of(self, name: str) -> tuple[LowRank, LowRank]:
        """Return (trained, start) of the one module *name*; the start is of rank 0 where it began at zero.

        Raises:
            BadUpdate: the two have different shapes.
        """
        trained = self.trained[name]
        start = self.start[name] if name in self.start else zero(trained.shape)
        if start.shape != trained.shape:
            raise BadUpdate(f"{name} was started as {start.shape} and trained as {trained.shape}")
        return trained, start

    def digest(self) -> bytes:
        """Return the SHA-256 of all that this update says: equal for equal updates, whatever order they come in."""
        total = hashlib.sha256(repr((self.examples, self.steps, self.staleness)).encode())
        if self.key:
            total.update(self.key)
            return total.digest()
        for part in (self.trained, self.start):
            for name in sorted(part):
                term = part[name]
                facts = (name, term.scale, term.shape, term.rank, term.b.dtype.str, term.a.dtype.str)
                total.update(repr(facts).encode())
                total.update(flat_bytes(term.b))
                total.update(flat_bytes(term.a))
            total.update(b"|")
        return total.digest()


def difference(trained: LowRank, start: LowRank) -> LowRank:
    """Return trained − start as X·Y with X = s·[B − B₀, B₀] and Y = [A; A − A₀].

    The obvious [s·B, −s₀·B₀]·[A; A₀] subtracts two products that are nearly equal after a short training and loses
    the digits that matter; here the factors are subtracted, where that is exact.  Missing columns are zero.
    Columns of X or rows of Y that are all zero are left out: a factor that was frozen costs nothing.
    """
    rank = max(trained.rank, start.rank)
    shared = trained.scale == start.scale  # then the scale waits: s·B − s·B₀ would round before it subtracts
    if shared and trained.a is start.a:  # half of X and Y is zero, and need not be made
        return _without_zeros(trained.b.astype(np.float64) - start.b, trained.a.astype(np.float64), trained.scale)
    if shared and trained.b is start.b:
        return _without_zeros(trained.b.astype(np.float64), trained.a.astype(np.float64) - start.a, trained.scale)
    b, a = padded(trained, rank, scale=1.0 if shared else trained.scale)
    b_start, a_start = padded(start, rank, scale=1.0 if shared else start.scale)
    x = np.concatenate([b - b_start, b_start], axis=1)
    y = np.concatenate([a, a - a_start], axis=0)
    return _without_zeros(x, y, trained.scale if shared else 1.0)


def _without_zeros(x: Floats, y: Floats, scale: float) -> LowRank:
    """Return scale·x·y without the columns of x and rows of y that add nothing."""
    used = x.any(axis=0) & y.any(axis=1)
    if used.all():
        return LowRank(x, y, scale)
    return LowRank(np.ascontiguousarray(x[:, used]), np.ascontiguousarray(y[used]), scale)


def same_factors(start: LowRank, other: LowRank) -> bool:
    """Return whether two starts are the same factors, entry by entry; those of rank 0 are."""
    if start is other:
        return True
    if (start.rank, start.scale) != (other.rank, other.scale):
        return start.rank == 0 == other.rank
    return np.array_equal(start.b, other.b) and np.array_equal(start.a, other.a)


def padded(term: LowRank, rank: int, *, scale: float) -> tuple[Floats, Floats]:
    """Return scale·B (d, rank) and A (rank, k) in float64, with zeros where the term has fewer columns."""
    b, a = np.zeros((term.shape[0], rank)), np.zeros((rank, term.shape[1]))
    b[:, : term.rank] = term.b
    b *= scale
    a[: term.rank] = term.a
    return b, a


def first_bad_value(term: LowRank) -> str:
    """Return the place of the first value that is not finite, such as "lora_B[3, 0]", or "" if all are."""
    for name, factor in (("lora_B", term.b), ("lora_A", term.a)):
        with np.errstate(over="ignore", invalid="ignore"):
            total = factor.sum()
        if not (np.isfinite(total) or np.isfinite(factor).all()):  # a sum that is finite had nothing else in it
            row, column = np.argwhere(~np.isfinite(factor))[0]
            return f"{name}[{row}, {column}]"
    return ""


def flat_bytes(array: Array) -> memoryview:
    """Return the bytes of *array* in row order, for hashing; copied only if they lie in another order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
