"""Codes of 8 or 4 bits beside a scale for each block of values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.codecs.base import Part, Stored, between
from potluck.aggregation.codecs.bits import Bytes, bytes_of, packed, unpacked
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.lowrank import Array, Floats

Singles: TypeAlias = NDArray[np.float32]

MIN_BLOCK: Final = 8
MAX_BLOCK: Final = 65536
INT8_TOP: Final = 127
INT4_TOP: Final = 7
INT4_ZERO: Final = 8
"""The code of 0; codes run from 1 to 15."""
NIBBLE: Final = 4
STEPS: Final = 16
"""Scales to a halving of the size."""
NO_SCALE: Final = 255
"""The ratio of a block, or a tensor, that is all zero."""
NF4_LEVELS: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Int8:
    """q = round(127·x / m) with m the largest |x| of each run of *block* flat values; read back as q·m / 127.

    The error of a value is at most m / 254, half a level.  The m travel as float32 beside the codes.

    Source: Dettmers et al. 2022, §2.1 (block-wise absmax), arXiv:2110.02861.

    Raises:
        BadSetting: block is not between 8 and 65536.
    """

    takes: ClassVar[str] = "<f4"
    shows: ClassVar[bool] = True
    forgets: ClassVar[bool] = False

    block: int = 256

    def __post_init__(self) -> None:
        between("int8 block", self.block, MIN_BLOCK, MAX_BLOCK, 256)

    def parts(self, values: int) -> tuple[Part, ...]:
        return Part("", "|i1", values), Part("#scales", "<f4", -(-values // self.block))

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        blocks = in_blocks(flat, self.block)
        largest = np.abs(blocks).max(axis=1, initial=0.0)
        codes = np.rint(INT8_TOP * blocks / np.where(largest > 0, largest, 1.0)[:, None])
        return codes.reshape(-1)[: flat.size].astype(np.int8), largest.astype("<f4")

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        codes, largest = np.asarray(stored[0], np.int8), np.asarray(stored[1], np.float32)
        if codes.size and (codes.min() < -INT8_TOP or not (np.isfinite(largest) & (largest >= 0)).all()):
            raise BadTensor("a code of -128, or a scale that is negative or not finite")
        blocks = in_blocks(codes, self.block) * (largest.astype(np.float64) / INT8_TOP)[:, None]
        return blocks.reshape(-1)[:values].astype(np.float32)


@final
@dataclass(frozen=True, slots=True)
class Int4:
    """q = round(7·x / m), from −7 to 7, with m the scale of each run of *block* flat values; read back as q·m / 7.

    The error of a value is at most m / 14, half a level.  Two codes share a byte; a scale has one, see `normalised`.

    Source: Dettmers and Zettlemoyer 2023, §2 (block-wise absmax at 4 bits), arXiv:2212.09720.

    Raises:
        BadSetting: block is not between 8 and 65536.
    """

    takes: ClassVar[str] = "<f4"
    shows: ClassVar[bool] = False
    forgets: ClassVar[bool] = False

    block: int = 64

    def __post_init__(self) -> None:
        between("int4 block", self.block, MIN_BLOCK, MAX_BLOCK, 64)

    def parts(self, values: int) -> tuple[Part, ...]:
        return nibble_parts(values, self.block)

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        scaled, peak, ratios = normalised(flat, self.block)
        codes = np.clip(np.rint(INT4_TOP * scaled), -INT4_TOP, INT4_TOP) + INT4_ZERO
        return packed(codes.reshape(-1)[: flat.size].astype(np.uint8), NIBBLE), ratios, peak

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        codes = unpacked(np.asarray(stored[0], np.uint8), NIBBLE, values).astype(np.float32) - np.float32(INT4_ZERO)
        if values and codes.min() < -INT4_TOP:
            raise BadTensor("a code of -8, which is never written")
        scales = scales_of(np.asarray(stored[1], np.uint8), np.asarray(stored[2], np.float32))
        return spread(codes, scales / np.float32(INT4_TOP), self.block)


@final
@dataclass(frozen=True, slots=True)
class Nf4:
    """The nearest of 16 levels, quantiles of a normal distribution, times the scale of each run of *block* values.

    Source: Dettmers et al. 2023 (QLoRA), §3 and Appendix E, arXiv:2305.14314.

    Raises:
        BadSetting: block is not between 8 and 65536.
    """

    takes: ClassVar[str] = "<f4"
    shows: ClassVar[bool] = False
    forgets: ClassVar[bool] = False

    block: int = 64

    def __post_init__(self) -> None:
        between("nf4 block", self.block, MIN_BLOCK, MAX_BLOCK, 64)

    def parts(self, values: int) -> tuple[Part, ...]:
        return nibble_parts(values, self.block)

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        scaled, peak, ratios = normalised(flat, self.block)
        levels = np.asarray(NF4_LEVELS)
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled.reshape(-1)[: flat.size])
        return packed(codes, NIBBLE), ratios, peak

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        codes = unpacked(np.asarray(stored[0], np.uint8), NIBBLE, values)
        scales = scales_of(np.asarray(stored[1], np.uint8), np.asarray(stored[2], np.float32))
        return spread(np.asarray(NF4_LEVELS, np.float32)[codes], scales, self.block)


def nibble_parts(values: int, block: int) -> tuple[Part, ...]:
    """Return what int4 and nf4 store: codes, a ratio for each block, the tensor's peak."""
    return (
        Part("#codes", "|u1", bytes_of(NIBBLE * values)),
        Part("#ratios", "|u1", -(-values // block)),
        Part("#peak", "<f4", 1),
    )


def normalised(flat: Array, block: int) -> tuple[Floats, Singles, Bytes]:
    """Return blocks divided by their scales (rows, block), the tensor's peak (1,), and the ratios (rows,).

    The peak is the tensor's largest |x|.  A ratio g stands for the scale peak·2^(−g/16), the nearest to the block's
    own largest |x|: one byte for a scale, at most 2.2 % from it, over a range of 2¹⁶.  Blocks below that range are
    stored at its end.  Measured on Gaussian and t₃ values this errs by 0.1 % more than float32 scales, float16 ratios
    cost twice the bytes, and linear 8-bit ratios err by up to 0.6 % more where blocks differ much.
    """
    rows = in_blocks(flat, block)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    peak = largest.max(initial=0.0)
    with np.errstate(divide="ignore"):
        halvings = np.rint(-STEPS * np.log2(largest / (peak or 1.0)))
    ratios = np.where(largest > 0, np.clip(halvings, 0, NO_SCALE - 1), NO_SCALE).astype(np.uint8)
    peaks = np.array([peak], "<f4")
    scales = scales_of(ratios, peaks)
    rows /= np.where(scales > 0, scales.astype(np.float64), 1.0)[:, None]
    return rows, peaks, ratios


def scales_of(ratios: Bytes, peak: Singles) -> Singles:
    """Return the scale of each block, peak·2^(−ratio/16) as float32, and 0 for the ratio 255.

    Raises:
        BadTensor: the peak is negative or not finite.
    """
    if not 0 <= float(peak[0]) < np.inf:
        raise BadTensor(f"a peak of {peak[0]}")
    table = np.exp2(-np.arange(NO_SCALE + 1) / STEPS) * float(peak[0])
    table[NO_SCALE] = 0.0
    return table.astype(np.float32)[ratios]


def spread(values: Singles, scales: Singles, block: int) -> Singles:
    """Return flat *values* times the scale of their block."""
    return values * np.repeat(scales, block)[: len(values)]


def in_blocks(flat: Stored, block: int) -> Floats:
    """Return *flat* values as float64 rows of *block*, the last one filled up with zeros."""
    rows = -(-flat.size // block)
    padded = np.zeros(rows * block)
    padded[: flat.size] = flat
    return padded.reshape(rows, block)
