"""One to two bits for every value: a few learned sizes a block, the same ones for both signs.

AdamW moves almost every factor entry by almost its step size, so after a few local steps the changes spread evenly
over ±(steps · rate) and have no large values worth looking for: a sign for each says more than where a few are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.codecs.base import Part, Stored, between
from potluck.aggregation.codecs.bits import Bytes, bytes_of, packed, unpacked
from potluck.aggregation.codecs.blocks import MAX_BLOCK, MIN_BLOCK, in_blocks
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.lowrank import Array, Floats

Sizes: TypeAlias = NDArray[np.int64]

SIGN: Final = 2
TERNARY: Final = 3
TWO_SIZES: Final = 4
TRITS: Final = 5
"""Codes of three levels in a byte: 3⁵ = 243 of 256."""
LLOYD: Final = 4
"""Rounds in which the sizes and what is nearest to them are fitted to each other, beside the first."""


@final
@dataclass(frozen=True, slots=True)
class Levels:
    """Every value as the nearest of 2, 3 or 4 *levels*: ±m, or −m, 0, m, or ±m and ±n, learned for each *block*.

    2 levels are sign(x)·mean(|x|), 1 bit; 3 are 1.6 bits; 4 are 2 bits.  m and n come from Lloyd's algorithm on |x|.

    Source: Seide et al. 2014 (1-bit SGD with error feedback, a mean for each), Interspeech; Lloyd 1982,
    doi:10.1109/TIT.1982.1056489.

    Raises:
        BadSetting: a setting out of range.
    """

    takes: ClassVar[str] = "<f4"
    shows: ClassVar[bool] = False
    forgets: ClassVar[bool] = True

    levels: int = 2
    block: int = 1024

    def __post_init__(self) -> None:
        between("levels levels", self.levels, SIGN, TWO_SIZES, SIGN)
        between("levels block", self.block, MIN_BLOCK, MAX_BLOCK, 1024)

    def parts(self, values: int) -> tuple[Part, ...]:
        codes = -(-values // TRITS) if self.levels == TERNARY else bytes_of(self._width * values)
        return (
            Part("#codes", "|u1", codes),
            Part("#sizes", "<f2", self._sizes * -(-values // self.block)),
            Part("#peak", "<f4", 1),
        )

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        blocks = in_blocks(flat, self.block)
        last = flat.size % self.block or self.block
        weights = np.ones(blocks.shape)
        weights[-1:, last:] = 0.0
        nearest, sizes = learned(np.abs(blocks), weights, self.levels)
        peak = sizes.max(initial=0.0).astype("<f4")
        shares = (sizes / (float(peak) or 1.0)).astype("<f2")
        negative = blocks < 0
        if self.levels == TERNARY:
            codes = packed_trits(np.where(negative, 2 * nearest, nearest).reshape(-1)[: flat.size])
        else:
            codes = packed((nearest + self._sizes * negative).reshape(-1)[: flat.size], self._width)
        return codes, shares.reshape(-1), peak.reshape(1)

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        data, shares = np.asarray(stored[0], np.uint8), np.asarray(stored[1], np.float32)
        peak = float(np.asarray(stored[2], np.float32)[0])
        if not 0 <= peak < np.inf or not ((shares >= 0) & (shares <= 1)).all():
            raise BadTensor(f"a peak of {peak}, or a size that is over it, negative or not a number")
        sizes = (shares * np.float32(peak)).reshape(-1, self._sizes)
        if self.levels == TERNARY:
            table = np.concatenate([np.zeros_like(sizes), sizes, -sizes], axis=1)
            places = unpacked_trits(data, values)
        else:
            table = np.concatenate([sizes, -sizes], axis=1)
            places = unpacked(data, self._width, values).astype(np.int64)
        places += np.repeat(np.arange(len(table)) * table.shape[1], self.block)[:values]
        found: NDArray[np.float32] = table.reshape(-1)[places]
        return found

    @property
    def _width(self) -> int:
        """Bits of a code, where a code has whole bits."""
        return self.levels // 2

    @property
    def _sizes(self) -> int:
        """Learned sizes of a block."""
        return 2 if self.levels == TWO_SIZES else 1


def learned(sizes: Floats, weights: Floats, levels: int) -> tuple[Sizes, Floats]:
    """Return which size each of *sizes* (rows, block) is nearest to, and the (rows, 1 or 2) sizes of each row.

    With 3 levels, 0 stands for the zero and 1 for the one size.  Values of *weights* 0 count for nothing.
    """
    rows = len(sizes)
    mean = weighted(sizes, weights)
    if levels == SIGN:
        return np.zeros(sizes.shape, np.int64), mean
    edge = mean if levels == TWO_SIZES else mean / 2
    for _ in range(1 + LLOYD):
        large = sizes > edge
        high = weighted(sizes, weights * large)
        low = weighted(sizes, weights * ~large) if levels == TWO_SIZES else np.zeros((rows, 1))
        edge = (low + high) / 2
    return large.astype(np.int64), np.concatenate([low, high], axis=1) if levels == TWO_SIZES else high


def weighted(sizes: Floats, weights: Floats) -> Floats:
    """Return the (rows, 1) mean of each row, 0 where nothing has weight."""
    total: Floats = (sizes * weights).sum(axis=1, keepdims=True)
    mean: Floats = total / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    return mean


def packed_trits(codes: Sizes) -> Bytes:
    """Return codes of 0, 1, 2 as base-3 numbers, five a byte, the first the lowest; filled up with zeros."""
    padded = np.zeros(-(-len(codes) // TRITS) * TRITS, np.int64)
    padded[: len(codes)] = codes
    return (padded.reshape(-1, TRITS) @ 3 ** np.arange(TRITS)).astype(np.uint8)


def unpacked_trits(data: Bytes, count: int) -> Sizes:
    """Return the *count* codes in what packed_trits wrote.

    Raises:
        BadTensor: a byte over 242, or codes after the last.
    """
    codes = (data.astype(np.int64)[:, None] // 3 ** np.arange(TRITS) % 3).reshape(-1)
    if (data >= 3**TRITS).any() or codes[count:].any():
        raise BadTensor(f"a byte that is no five codes, or codes after the last of {count}")
    return codes[:count]
