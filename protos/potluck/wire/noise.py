"""Secret randomness: uniform and Gaussian numbers that nobody can foresee without the seed, and that repeat with it.

NumPy's generators are for statistics: their state can be worked out from what they gave.  Here every number comes from
AES-256 in counter mode.
"""

import hashlib
import secrets
from typing import Final, final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting

Floats = NDArray[np.float64]
SEED_BYTES: Final = 32
SEED_NAME: Final = b"potluck/noise seed\0"
DRAWS: Final = 4
"""Gaussian numbers that are averaged for one: whoever wants to undo one by its rounding has to guess all of them.

Source: Holohan & Braghin 2021, section 4, arXiv:2107.10138."""
CHUNK: Final = 1 << 16  # numbers made at a time


def new_seed() -> bytes:
    """Return 32 bytes from the system."""
    return secrets.token_bytes(SEED_BYTES)


@final
class SecretNoise:
    """What one seed gives: for every label a stream of its own, always the same.  Never shows the seed."""

    def __init__(self, seed: bytes) -> None:
        """Take a *seed* of 32 secret bytes.

        Raises:
            BadSetting: it has another length.
        """
        if len(seed) != SEED_BYTES:
            raise BadSetting(f"a seed has {SEED_BYTES} bytes, this one {len(seed)}", fix="use new_seed()")
        self._seed = seed

    def __repr__(self) -> str:
        return "SecretNoise(…)"

    @property
    def digest(self) -> str:
        """SHA-256, in hex, that tells noise of this seed from noise of another one, and nothing else about it."""
        return hashlib.sha256(SEED_NAME + self._seed).hexdigest()

    def bound(self, purpose: bytes) -> "SecretNoise":
        """Return noise for that *purpose* alone, 32 bytes that name it; of two it is as good as of two seeds."""
        derived = HKDF(SHA256(), length=SEED_BYTES, salt=purpose, info=b"potluck/noise bound")
        return SecretNoise(derived.derive(self._seed))

    def uniform(self, label: str, count: int) -> Floats:
        """Return *count* numbers in [0, 1), all multiples of 2⁻⁵³."""
        return _unit(self._stream(label, 8 * count))

    def gaussian(self, label: str, count: int) -> Floats:
        """Return *count* independent standard normal numbers: the sum of four from Box and Muller, halved."""
        stream = _Stream(self._key(label))
        result = np.empty(count)
        for start in range(0, count, CHUNK):
            size = min(CHUNK, count - start)
            result[start : start + size] = _normal(stream.take(8 * DRAWS * size), size)
        return result

    def _key(self, label: str) -> bytes:
        return HKDF(SHA256(), length=32, salt=None, info=f"potluck/noise/{label}".encode()).derive(self._seed)

    def _stream(self, label: str, size: int) -> bytes:
        return _Stream(self._key(label)).take(size)


@final
class _Stream:
    """AES-256-CTR from counter 0; every key is used for one stream."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        return self._encryptor.update(bytes(size))


def _unit(stream: bytes) -> Floats:
    """Return numbers in [0, 1) of the upper 53 bits of every 8 bytes."""
    return (np.frombuffer(stream, "<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normal(stream: bytes, count: int) -> Floats:
    """Return *count* standard normal numbers of DRAWS · count uniform ones."""
    first, second = _unit(stream).reshape(2, -1)
    radius = np.sqrt(-2 * np.log1p(-first))  # 1 − u is never 0
    cosines = (radius * np.cos(2 * np.pi * second)).reshape(2, count)
    sines = (radius * np.sin(2 * np.pi * second)).reshape(2, count)
    # Shifted, so that the four of one sum come from four different pairs.
    halved: Floats = (cosines.sum(axis=0) + np.roll(sines, 1, axis=1).sum(axis=0)) / 2
    return halved
