"""One to two bits for every value: a few learned sizes a block, the same ones for both signs.

AdamW moves almost every factor entry by almost its step size, so after a few local steps the changes spread evenly
over ±(steps · rate) and have no large values worth looking for: a sign for each says more than where a few are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np

from potluck.aggregation.codecs.base import Part, Stored, between
from potluck.aggregation.codecs.bits import (
    Bytes,
    Whole,
    bytes_of,
    packed,
    positions_packed,
    positions_unpacked,
    unpacked,
)
from potluck.aggregation.codecs.blocks import MAX_BLOCK, MIN_BLOCK, Singles, in_blocks
from potluck.aggregation.codecs.sparse import position_parts
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.lowrank import Array, Floats

SIGN: Final = 2
TERNARY: Final = 3
TWO_SIZES: Final = 4
TRITS: Final = 5
"""Codes of three levels in a byte: 3⁵ = 243 of 256."""
MAX_OF: Final = 1024
LLOYD: Final = 4
"""Rounds in which the sizes and what is nearest to them are fitted to each other, beside the first."""


@final
@dataclass(frozen=True, slots=True)
class Levels:
    """Every value as the nearest of 2, 3 or 4 *levels*: ±m, or −m, 0, m, or ±m and ±n, learned for each *block*.

    2 levels are sign(x)·mean(|x|), 1 bit; 3 are 1.6 bits; 4 are 2 bits.  m and n come from Lloyd's algorithm on |x|.
    One *of* so many blocks is sent, those with the largest norms: with error feedback, blocks take turns.

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
    of: int = 1

    def __post_init__(self) -> None:
        between("levels levels", self.levels, SIGN, TWO_SIZES, SIGN)
        between("levels block", self.block, MIN_BLOCK, MAX_BLOCK, 1024)
        between("levels of", self.of, 1, MAX_OF, 1)

    def parts(self, values: int) -> tuple[Part, ...]:
        blocks, kept = self._counts(values)
        codes = min(kept * self.block, values)
        return (
            Part("#codes", "|u1", -(-codes // TRITS) if self.levels == TERNARY else bytes_of(self._width * codes)),
            Part("#sizes", "<f2", self._sizes * kept),
            Part("#peak", "<f4", 1),
            *(position_parts(kept, blocks) if self.of > 1 else ()),
        )

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        blocks = in_blocks(flat, self.block)
        weights = np.ones(blocks.shape)
        weights[-1:, flat.size % self.block or self.block :] = 0.0
        chosen = self._chosen(blocks)
        nearest, sizes = learned(np.abs(blocks[chosen]), weights[chosen], self.levels)
        peak = sizes.max(initial=0.0).astype("<f4")
        shares = (sizes / (float(peak) or 1.0)).astype("<f2")
        negative, count = blocks[chosen] < 0, min(nearest.size, flat.size)
        if self.levels == TERNARY:
            codes = packed_trits(np.where(negative, 2 * nearest, nearest).reshape(-1)[:count])
        else:
            codes = packed((nearest + self._sizes * negative).reshape(-1)[:count], self._width)
        positions = positions_packed(chosen, len(blocks)) if self.of > 1 else ()
        return codes, shares.reshape(-1), peak.reshape(1), *positions

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        data, shares = np.asarray(stored[0], np.uint8), np.asarray(stored[1], np.float32)
        peak = float(np.asarray(stored[2], np.float32)[0])
        if not 0 <= peak < np.inf or not ((shares >= 0) & (shares <= 1)).all():
            raise BadTensor(f"a peak of {peak}, or a size that is over it, negative or not a number")
        sizes = (shares * np.float32(peak)).reshape(-1, self._sizes)
        zero = (np.zeros_like(sizes),) if self.levels == TERNARY else ()
        table = np.concatenate([*zero, sizes, -sizes], axis=1)
        places = self._codes(data, min(len(table) * self.block, values))
        chosen = self._read(stored[3:], values, places)
        places += np.repeat(np.arange(len(table)) * table.shape[1], self.block)[: len(places)]
        found: Singles = table.reshape(-1)[places]
        if len(found) == values:
            return found
        whole = np.zeros((self._counts(values)[0], self.block), np.float32)
        whole[chosen] = found.reshape(-1, self.block)
        return whole.reshape(-1)[:values]

    def _read(self, stored: Sequence[Stored], values: int, codes: Whole) -> Whole:
        """Return which blocks were sent; what fills up a last, shorter one must be zero in *codes*."""
        blocks, kept = self._counts(values)
        if self.of == 1:
            return np.arange(blocks)
        high, low = np.asarray(stored[0], np.uint8), np.asarray(stored[1], np.uint8)
        chosen = positions_unpacked(high, low, kept, blocks)
        fill = blocks * self.block - values
        if 0 < kept < blocks and chosen[-1] == blocks - 1 and codes[len(codes) - fill :].any():
            raise BadTensor(f"codes after the last of {values} values are set")
        return chosen

    def _chosen(self, blocks: Floats) -> Whole:
        """Return which of *blocks* are sent, ascending: the largest norms, of equal ones the first."""
        if self.of == 1:
            return np.arange(len(blocks))
        norms = (blocks**2).sum(axis=1)
        return np.sort(np.argsort(-norms, kind="stable")[: -(-len(blocks) // self.of)])

    def _counts(self, values: int) -> tuple[int, int]:
        """Return how many blocks so many values have, and how many of them are sent."""
        blocks = -(-values // self.block)
        return blocks, -(-blocks // self.of)

    def _codes(self, data: Bytes, count: int) -> Whole:
        """Return *count* codes."""
        if self.levels == TERNARY:
            return unpacked_trits(data, count)
        return unpacked(data, self._width, count).astype(np.int64)

    @property
    def _width(self) -> int:
        """Bits of a code, where a code has whole bits."""
        return self.levels // 2

    @property
    def _sizes(self) -> int:
        """Learned sizes of a block."""
        return 2 if self.levels == TWO_SIZES else 1


def learned(sizes: Floats, weights: Floats, levels: int) -> tuple[Whole, Floats]:
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


def packed_trits(codes: Whole) -> Bytes:
    """Return codes of 0, 1, 2 as base-3 numbers, five a byte, the first the lowest; filled up with zeros."""
    padded = np.zeros(-(-len(codes) // TRITS) * TRITS, np.int64)
    padded[: len(codes)] = codes
    return (padded.reshape(-1, TRITS) @ 3 ** np.arange(TRITS)).astype(np.uint8)


def unpacked_trits(data: Bytes, count: int) -> Whole:
    """Return the *count* codes in what packed_trits wrote.

    Raises:
        BadTensor: a byte over 242, or codes after the last.
    """
    codes = (data.astype(np.int64)[:, None] // 3 ** np.arange(TRITS) % 3).reshape(-1)
    if (data >= 3**TRITS).any() or codes[count:].any():
        raise BadTensor(f"a byte that is no five codes, or codes after the last of {count}")
    return codes[:count]
