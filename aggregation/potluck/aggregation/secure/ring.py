"""Updates as whole numbers modulo 2ᵇ: clipped, rounded at random, packed, and a sum of them read back.

Sums wrap around at 2³² while they are added and are cut to b bits on the wire: Z/2³² → Z/2ᵇ keeps sums, so masks need
no care.  Nothing is shifted to be positive, since a sum would then have to know how many there were.
"""

from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.lowrank import Array, Floats

Words = NDArray[np.uint32]
"""Whole numbers modulo 2³², two's complement where they stand for signed ones."""

WIDTHS: Final = (16, 20, 24, 32)
MAX_COHORT: Final = 128
MAX_SIZE: Final = 2**28
_SPREAD: Final = 64.0
"""One coordinate may be this many times larger than if the norm were spread evenly."""
_CHUNK: Final = 1 << 16


@final
@dataclass(frozen=True, slots=True)
class Ring:
    """How updates become whole numbers: all who are summed share these four."""

    bits: int
    cohort: int
    """Most clients in one sum."""
    size: int
    """Coordinates of an update."""
    clip: float
    """Its greatest L2 norm, C."""

    @property
    def bound(self) -> int:
        """Q = ⌊(2^(b−1) − 1) / cohort⌋: the largest whole number one client sends."""
        return ((1 << (self.bits - 1)) - 1) // self.cohort

    @property
    def limit(self) -> float:
        """X = min(C, 64·C/√d): the largest coordinate one client sends."""
        return min(self.clip, _SPREAD * self.clip / float(np.sqrt(self.size)))

    @property
    def step(self) -> float:
        """Δ = X/Q: what one step of a whole number stands for."""
        return self.limit / self.bound

    def checked(self) -> Self:
        """Return this ring.

        Raises:
            BadSetting: a width that is not 16, 20, 24 or 32, or a number out of range.
        """
        if self.bits not in WIDTHS or not 1 <= self.cohort <= MAX_COHORT or not 1 <= self.size <= MAX_SIZE:
            raise BadSetting(
                f"a ring of {self.bits} bits for {self.cohort} clients and {self.size} coordinates",
                fix=f"16, 20, 24 or 32 bits, up to {MAX_COHORT} clients and {MAX_SIZE} coordinates",
            )
        if not 0 < self.clip < np.inf:
            raise BadSetting(f"a clip of {self.clip}", fix="it is positive and finite")
        return self


def clipped(vector: Array, norm: float) -> tuple[Floats, bool]:
    """Return x·min(1, C/(‖x‖₂ + 1e-12)) in float64, and whether it was cut.

    Raises:
        BadTensor: a coordinate is not finite.
    """
    raise NotImplementedError


def quantised(vector: Floats, ring: Ring, uniforms: Floats | np.random.Generator) -> Words:
    """Return ⌊clip(x, −X, X)/Δ + u⌋ within [−Q, Q] as words: (d,) -> (d,).

    *uniforms* are u, in [0, 1), or what draws them.  Rounding at random keeps the mean of the sum.

    Raises:
        BadTensor: the vector has not ring.size coordinates.
    """
    raise NotImplementedError


def packed(words: Words, bits: int) -> NDArray[np.uint8]:
    """Return the low *bits* of each word, little-endian and without gaps: ⌈n·b/8⌉ bytes.

    Of 20 bits two words share five bytes; an odd last one takes three.
    """
    raise NotImplementedError


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes packed makes of *count* words."""
    return (count * bits + 7) // 8


def unpacked(data: bytes | memoryview, count: int, bits: int) -> Words:
    """Return the *count* words that packed wrote: each below 2^bits.

    Raises:
        BadTensor: another number of bytes, or bits behind the last word.
    """
    raise NotImplementedError


def centred(total: Words, bits: int) -> NDArray[np.int64]:
    """Return a sum modulo 2^bits as signed whole numbers, from −2^(b−1) to 2^(b−1) − 1."""
    raise NotImplementedError
