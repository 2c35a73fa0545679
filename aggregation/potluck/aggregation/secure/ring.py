"""Updates as whole numbers modulo 2ᵇ: clipped, rounded at random, packed, and a sum of them read back.

Sums wrap around at 2³² while they are added and are cut to b bits on the wire: Z/2³² → Z/2ᵇ keeps sums, so masks need
no care.  Nothing is shifted to be positive, since a sum would then have to know how many there were.
"""

from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.aggregation.lowrank import Array, Floats

Words = NDArray[np.uint32]
"""Whole numbers modulo 2³², two's complement where they stand for signed ones."""

WIDTHS: Final = (16, 20, 24, 32)
MAX_COHORT: Final = 128
MAX_SIZE: Final = 2**28
_SPREAD: Final = 64.0
"""One coordinate may be this many times larger than if the norm were spread evenly."""
_CHUNK: Final = 1 << 16
_TINY: Final = 1e-12
_UNEVEN: Final = 20


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

    @property
    def period(self) -> float:
        """2ᵇ·Δ: a sum is known up to multiples of it."""
        return (1 << self.bits) * self.step

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
    whole: Floats = vector.astype(np.float64)
    length = float(np.linalg.norm(whole))
    if not np.isfinite(length):
        raise BadTensor("an update with a coordinate that is not finite", fix="training diverged: lower its rate")
    factor = norm / (length + _TINY)
    return (whole * factor, True) if factor < 1 else (whole, False)


def quantised(vector: Floats, ring: Ring, uniforms: Floats | np.random.Generator) -> Words:
    """Return ⌊clip(x, −X, X)/Δ + u⌋ within [−Q, Q] as words: (d,) -> (d,).

    *uniforms* are u, in [0, 1), or what draws them.  Rounding at random keeps the mean of the sum.

    Raises:
        BadTensor: the vector has not ring.size coordinates.
    """
    if vector.shape != (ring.size,):
        raise BadTensor(f"a vector of shape {vector.shape} for a ring of {ring.size} coordinates")
    words = np.empty(ring.size, np.uint32)
    bound, limit, step = ring.bound, ring.limit, ring.step
    for start in range(0, ring.size, _CHUNK):
        part = slice(start, min(start + _CHUNK, ring.size))
        drawn = uniforms.random(part.stop - start) if isinstance(uniforms, np.random.Generator) else uniforms[part]
        steps = np.floor(np.clip(vector[part], -limit, limit) / step + drawn)
        words[part] = np.clip(steps, -bound, bound).astype(np.int64).astype(np.uint32)
    return words


def packed(words: Words, bits: int) -> NDArray[np.uint8]:
    """Return the low *bits* of each word, little-endian and without gaps: ⌈n·b/8⌉ bytes.

    Of 20 bits two words share five bytes; an odd last one takes three.
    """
    if bits != _UNEVEN:
        raw = words.astype("<u4").view(np.uint8).reshape(-1, 4)
        return np.ascontiguousarray(raw[:, : bits // 8]).reshape(-1)
    even = np.zeros((len(words) + 1) // 2 * 2, np.uint64)
    even[: len(words)] = words & np.uint32((1 << _UNEVEN) - 1)
    pairs = (even[0::2] | (even[1::2] << np.uint64(_UNEVEN))).astype("<u8").view(np.uint8).reshape(-1, 8)
    return np.ascontiguousarray(pairs[:, :5]).reshape(-1)[: packed_bytes(len(words), bits)]


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes packed makes of *count* words."""
    return (count * bits + 7) // 8


def unpacked(data: bytes | memoryview | NDArray[np.uint8], count: int, bits: int) -> Words:
    """Return the *count* words that packed wrote: each below 2^bits.

    Raises:
        BadTensor: another number of bytes, or bits behind the last word.
    """
    raw = np.frombuffer(data, np.uint8)
    if len(raw) != packed_bytes(count, bits):
        raise BadTensor(f"{len(raw)} bytes for {count} numbers of {bits} bits, {packed_bytes(count, bits)} belong")
    if bits != _UNEVEN:
        wide = np.zeros((count, 4), np.uint8)
        wide[:, : bits // 8] = raw.reshape(count, bits // 8)
        return wide.reshape(-1).view("<u4").astype(np.uint32, copy=False)
    five = np.zeros(((count + 1) // 2, 8), np.uint8)
    whole = np.zeros(len(five) * 5, np.uint8)
    whole[: len(raw)] = raw
    five[:, :5] = whole.reshape(-1, 5)
    pairs = five.reshape(-1).view("<u8")
    words = np.empty(len(five) * 2, np.uint32)
    words[0::2] = pairs & np.uint64((1 << _UNEVEN) - 1)
    words[1::2] = pairs >> np.uint64(_UNEVEN)
    if count % 2 and words[-1]:
        raise BadTensor("bits are set behind the last number")
    return words[:count]


def centred(total: Words, bits: int) -> NDArray[np.int64]:
    """Return a sum modulo 2^bits as signed whole numbers, from −2^(b−1) to 2^(b−1) − 1."""
    low = total.astype(np.int64) & ((1 << bits) - 1)
    return np.where(low >= 1 << (bits - 1), low - (1 << bits), low)
