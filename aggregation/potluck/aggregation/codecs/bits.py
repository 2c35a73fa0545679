"""Numbers of a few bits, and sorted positions, as bytes.  Bits run from the lowest of the first byte upwards."""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadTensor

Bytes: TypeAlias = NDArray[np.uint8]
Whole: TypeAlias = NDArray[np.int64]

BYTE: Final = 8
WORD: Final = 32


def bytes_of(bits: int) -> int:
    """Return how many bytes hold so many bits."""
    return -(-bits // BYTE)


def packed(values: NDArray[np.integer], width: int) -> Bytes:
    """Return *values*, each below 2^width, one after another: (0xABC, 0x123) of 12 bits is BC 3A 12.

    The last byte is filled with zeros.
    """
    if BYTE % width == 0:
        return _packed_evenly(values.astype(np.uint8), width)
    unsigned = np.ascontiguousarray(values, "<u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(unsigned, axis=1, bitorder="little")[:, :width]
    return np.packbits(bits, bitorder="little")


def unpacked(data: Bytes, width: int, count: int) -> NDArray[np.uint32]:
    """Return the *count* numbers of *width* bits in *data*, which has exactly the bytes that hold them.

    Raises:
        BadTensor: a bit after the last number is set.
    """
    if spare(data, count * width):
        raise BadTensor(f"bits after the last of {count} codes are set")
    if BYTE % width == 0:
        return _unpacked_evenly(data, width, count)
    bits = np.zeros((count, WORD), np.uint8)
    bits[:, :width] = np.unpackbits(data, count=count * width, bitorder="little").reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").reshape(count).astype(np.uint32, copy=False)


def spare(data: Bytes, bits: int) -> int:
    """Return the bits of *data* behind the first *bits*, as a number: 0 for everything that packed wrote."""
    return int(data[-1]) >> (bits % BYTE) if bits % BYTE else 0


def low_width(kept: int, values: int) -> int:
    """Return how many low bits of a position are written as they are: ⌊log₂(values / kept)⌋, at least 0."""
    return max(0, (values // max(1, kept)).bit_length() - 1)


def high_bits(kept: int, values: int) -> int:
    """Return the length of the unary part of *kept* positions below *values*, in bits."""
    return kept + (max(0, values - 1) >> low_width(kept, values)) + 1 if kept else 0


def positions_packed(positions: Whole, values: int) -> tuple[Bytes, Bytes]:
    """Return ascending *positions* below *values* as (unary high parts, packed low parts): Elias-Fano.

    Bit (pᵢ >> l) + i of the first is set for the i-th position pᵢ, with l = low_width; the second holds the l low
    bits of each.  About 2 + log₂(values / kept) bits a position: 5 where every eighth value is kept and 8 where every
    64th is, in place of 12, and a length that is known beforehand.

    Source: Elias 1974, Fano 1971; Vigna 2013, §3, arXiv:1206.4300.
    """
    kept = len(positions)
    width = low_width(kept, values)
    unary = np.zeros(high_bits(kept, values), np.uint8)
    unary[(positions >> width) + np.arange(kept)] = 1
    low = packed(positions & ((1 << width) - 1), width) if width else np.zeros(0, np.uint8)
    return np.packbits(unary, bitorder="little"), low


def positions_unpacked(high: Bytes, low: Bytes, kept: int, values: int) -> Whole:
    """Return the (kept,) positions in what positions_packed wrote: ascending, distinct, below *values*.

    Raises:
        BadTensor: anything else.
    """
    bits, width = high_bits(kept, values), low_width(kept, values)
    if spare(high, bits):
        raise BadTensor("bits after the last position are set")
    ones = np.flatnonzero(np.unpackbits(high, count=bits, bitorder="little"))
    if len(ones) != kept:
        raise BadTensor(f"{len(ones)} positions where {kept} are needed")
    positions: Whole = (ones - np.arange(kept)) << width
    if width:
        positions |= unpacked(low, width, kept).astype(np.int64)
    if kept and (positions[-1] >= values or (np.diff(positions) <= 0).any()):
        raise BadTensor(f"positions are not ascending, or pass {values}")
    return positions


def _packed_evenly(values: Bytes, width: int) -> Bytes:
    """Pack numbers of 1, 2, 4 or 8 bits: so many a byte, lowest first."""
    each = BYTE // width
    padded = np.zeros(-(-len(values) // each) * each, np.uint8)
    padded[: len(values)] = values
    whole = padded[::each].copy()
    for place in range(1, each):
        whole |= padded[place::each] << np.uint8(place * width)
    return whole


def _unpacked_evenly(data: Bytes, width: int, count: int) -> NDArray[np.uint32]:
    """Unpack numbers of 1, 2, 4 or 8 bits."""
    each, mask = BYTE // width, np.uint8((1 << width) - 1)
    values = np.empty(len(data) * each, np.uint32)
    for place in range(each):
        values[place::each] = (data >> np.uint8(place * width)) & mask
    return values[:count]
