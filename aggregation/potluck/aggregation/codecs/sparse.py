"""The largest values of each chunk and where they are; the rest waits in the sender's error feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.codecs.base import Part, Stored, between
from potluck.aggregation.codecs.bits import (
    Bytes,
    Whole,
    bytes_of,
    high_bits,
    low_width,
    packed,
    positions_packed,
    positions_unpacked,
    unpacked,
)
from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.aggregation.lowrank import Array, Floats

Singles: TypeAlias = NDArray[np.float32]

MIN_CHUNK: Final = 64
MAX_CHUNK: Final = 1 << 20
HALF: Final = 16
SINGLE: Final = 32
CODE: Final = 2
BINS: Final = 4
EDGE: Final = 1.5
"""In standard deviations: four equal bins over ±3σ have their edges at −1.5σ, 0 and 1.5σ."""
LLOYD: Final = 4
"""Rounds in which bins and their means are fitted to each other."""


@final
@dataclass(frozen=True, slots=True)
class TopK:
    """The *k* largest of every *chunk* flat values, as float16 or float32, and their positions.

    A last, shorter chunk keeps the same share, rounded up.  Of equal values the first are kept.

    Source: Stich et al. 2018, §2, arXiv:1809.07599.

    Raises:
        BadSetting: a setting out of range.
    """

    takes: ClassVar[str] = "<f4"
    shows: ClassVar[bool] = False
    forgets: ClassVar[bool] = True

    chunk: int = 4096
    k: int = 256
    bits: int = 16
    """Of a value, 16 or 32."""

    def __post_init__(self) -> None:
        check(type(self).__name__.lower(), self.chunk, self.k)
        if self.bits not in {HALF, SINGLE} or type(self.bits) is not int:
            raise BadSetting(f"topk bits is {self.bits}", fix=f"use {HALF} or {SINGLE}")

    def parts(self, values: int) -> tuple[Part, ...]:
        kept = kept_of(values, self.chunk, self.k)
        return (*position_parts(kept, values), Part("#values", "<f2" if self.bits == HALF else "<f4", kept))

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        positions = largest(flat, self.chunk, self.k)
        with np.errstate(over="ignore"):
            exact = flat[positions].astype("<f2" if self.bits == HALF else "<f4")
        if not np.isfinite(exact).all():
            raise BadTensor("a value over 65504 does not fit 16 bits", fix="set bits to 32")
        return (*positions_packed(positions, flat.size), exact)

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        positions = read_positions(stored, values, self.chunk, self.k)
        found = np.zeros(values, np.float32)
        found[positions] = stored[2]
        return found


@final
@dataclass(frozen=True, slots=True)
class Sparse2Bit:
    """The *k* largest of every *chunk* flat values, each as one of the chunk's four learned means: 2 bits.

    The bins are four equal ones over ±3σ of the kept values, then Lloyd's algorithm; means are of the values in a
    bin.  A last, shorter chunk keeps the same share, rounded up.  Of equal values the first are kept.

    Source: Sarfi et al. 2025 (SparseLoCo), arXiv:2508.15706; its preset is k = 64 of 4096.

    Raises:
        BadSetting: a setting out of range.
    """

    takes: ClassVar[str] = "<f4"
    shows: ClassVar[bool] = False
    forgets: ClassVar[bool] = True

    chunk: int = 4096
    k: int = 64

    def __post_init__(self) -> None:
        check(type(self).__name__.lower(), self.chunk, self.k)

    def parts(self, values: int) -> tuple[Part, ...]:
        kept = kept_of(values, self.chunk, self.k)
        return (
            *position_parts(kept, values),
            Part("#codes", "|u1", bytes_of(CODE * kept)),
            Part("#means", "<f2", BINS * -(-values // self.chunk)),
            Part("#peak", "<f4", 1),
        )

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        positions = largest(flat, self.chunk, self.k)
        codes, means = four_means(
            flat[positions].astype(np.float64), positions // self.chunk, -(-flat.size // self.chunk)
        )
        peak = np.abs(means).max(initial=0.0).astype("<f4")
        shares = (means / (float(peak) or 1.0)).astype("<f2")
        return (*positions_packed(positions, flat.size), packed(codes, CODE), shares.reshape(-1), peak.reshape(1))

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        positions = read_positions(stored, values, self.chunk, self.k)
        codes = unpacked(np.asarray(stored[2], np.uint8), CODE, len(positions))
        shares, peak = np.asarray(stored[3], np.float32), float(np.asarray(stored[4], np.float32)[0])
        if not 0 <= peak < np.inf or not (np.abs(shares) <= 1).all():
            raise BadTensor(f"a peak of {peak}, or a mean that is over it or not a number")
        found = np.zeros(values, np.float32)
        found[positions] = (shares * np.float32(peak))[BINS * (positions // self.chunk) + codes]
        return found


def check(what: str, chunk: int, k: int) -> None:
    """Refuse a chunk or a k out of range."""
    between(f"{what} chunk", chunk, MIN_CHUNK, MAX_CHUNK, 4096)
    between(f"{what} k", k, 1, chunk, chunk // 64)


def kept_of(values: int, chunk: int, k: int) -> int:
    """Return how many of so many values are kept: k of every chunk, the same share of the rest, rounded up."""
    whole, rest = divmod(values, chunk)
    return whole * k + -(-rest * k // chunk)


def position_parts(kept: int, values: int) -> tuple[Part, Part]:
    """Return the two parts of *kept* positions below *values*."""
    return (
        Part("#high", "|u1", bytes_of(high_bits(kept, values))),
        Part("#low", "|u1", bytes_of(kept * low_width(kept, values))),
    )


def read_positions(stored: Sequence[Stored], values: int, chunk: int, k: int) -> Whole:
    """Return the positions in the first two parts.

    Raises:
        BadTensor: they are not ascending, or not k of every chunk.
    """
    kept = kept_of(values, chunk, k)
    high, low = (np.asarray(part, np.uint8) for part in stored[:2])
    positions = positions_unpacked(high, low, kept, values)
    if (positions // chunk != np.arange(kept) // k).any():
        raise BadTensor(f"a chunk does not have its {k} values")
    return positions


def largest(flat: Array, chunk: int, k: int) -> Whole:
    """Return the ascending positions of the values that are kept; of equal ones at the edge, the first."""
    whole = flat.size // chunk * chunk
    found = [most(np.abs(flat[:whole]).reshape(-1, chunk), k)] if whole else []
    if whole < flat.size:
        rest = np.abs(flat[whole:]).reshape(1, -1)
        found.append(whole + most(rest, -(-rest.size * k // chunk)))
    return np.concatenate([np.zeros(0, np.int64), *found])


def most(sizes: Array, k: int) -> Whole:
    """Return the flat positions of the *k* largest of each row of *sizes*, the first of equal ones: ascending.

    The k-th largest value is the same on every machine; which of several equal ones a partial sort leaves before it
    is not, so ties are settled here.
    """
    edge = np.partition(sizes, sizes.shape[1] - k, axis=1)[:, [sizes.shape[1] - k]]
    kept = sizes > edge
    missing = k - kept.sum(axis=1, keepdims=True)
    ties = sizes == edge
    crowded = np.flatnonzero(ties.sum(axis=1) > missing[:, 0])
    ties[crowded] &= np.cumsum(ties[crowded], axis=1) <= missing[crowded]
    return np.flatnonzero(kept | ties)


def four_means(values: Floats, groups: Whole, count: int) -> tuple[Bytes, Floats]:
    """Return the bin of each value, 0 to 3, and the means (count, 4) of the bins of each group; 0 of an empty one.

    Negative values are in bins 0 and 1, the others in 2 and 3.
    """
    sizes = np.bincount(groups, minlength=count)
    edges = EDGE * np.sqrt(np.bincount(groups, values**2, count) / np.maximum(sizes, 1))
    lower, upper = -edges, edges
    for _ in range(1 + LLOYD):
        codes = np.where(values < 0, (values >= lower[groups]) + 0, (values > upper[groups]) + 2)
        keys = BINS * groups + codes
        members = np.bincount(keys, minlength=BINS * count)
        means = (np.bincount(keys, values, BINS * count) / np.maximum(members, 1)).reshape(count, BINS)
        lower, upper = (means[:, 0] + means[:, 1]) / 2, (means[:, 2] + means[:, 3]) / 2
    return codes.astype(np.uint8), means
