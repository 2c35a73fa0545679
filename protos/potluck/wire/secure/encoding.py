"""One way to write a list of byte strings, and a hash over it: nothing that is signed has two spellings.

enc(x₁, …, xₖ) is u32be(length) ‖ bytes for each part; H(tag, x…) = SHA-256(enc(tag, x…)).  "FL1" in the tags is the
version of the protocol: another one changes every hash, key and signature.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from potluck.wire.secure.reasons import Reason, SumRefusal

HASH_BYTES: Final = 32
NODE_BYTES: Final = 20
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_CLIENTS: Final = 128
MAX_MESSAGE: Final = 1 << 18
"""No message but the masked vector is larger: a roster of 128 has less than 100 KiB."""
_PREFIX: Final = 4


def enc(*parts: bytes) -> bytes:
    """Return the parts, each behind its length in four bytes, big-endian."""
    return b"".join(len(part).to_bytes(_PREFIX, "big") + part for part in parts)


def tagged_hash(tag: str, *parts: bytes) -> bytes:
    """Return H(tag, parts…), 32 bytes."""
    return hashlib.sha256(enc(tag.encode("ascii"), *parts)).digest()


def parts_of(data: bytes, *, least: int = 0, most: int, limit: int = MAX_MESSAGE) -> list[bytes]:
    """Return the parts that enc wrote as *data*: from *least* to *most* of them.

    Raises:
        SumRefusal: TOO_LARGE above *limit* bytes; MALFORMED where a length leads out of the data, or the number of
            parts is another one.
    """
    if len(data) > limit:
        raise SumRefusal(f"{len(data)} bytes, at most {limit}", reason=Reason.TOO_LARGE, fix="update the peer")
    parts: list[bytes] = []
    place = 0
    while place < len(data):
        start = place + _PREFIX
        place = start + int.from_bytes(data[place:start], "big")
        if start > len(data) or place > len(data) or len(parts) == most:
            raise malformed(f"a length leads out of {len(data)} bytes, or more than {most} parts")
        parts.append(data[start:place])
    if len(parts) < least:
        raise malformed(f"{len(parts)} parts where {least} belong")
    return parts


def exactly(data: bytes, length: int, what: str) -> bytes:
    """Return *data* if it has *length* bytes.

    Raises:
        SumRefusal: MALFORMED otherwise.
    """
    if len(data) != length:
        raise malformed(f"{what} has {len(data)} bytes and not {length}")
    return data


def malformed(what: str) -> SumRefusal:
    """Return the refusal of bytes that are no such message."""
    return SumRefusal(what, reason=Reason.MALFORMED, fix="update the peer")


def u32(number: int) -> bytes:
    """Return *number* as four bytes, big-endian."""
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    """Return *number* as eight bytes, big-endian."""
    return number.to_bytes(8, "big")


def position_bytes(positions: Iterable[int]) -> bytes:
    """Return positions in a roster, which begin at 1, as two bytes each in rising order."""
    return b"".join(position.to_bytes(2, "big") for position in sorted(positions))


def positions_of(data: bytes) -> tuple[int, ...]:
    """Return what position_bytes wrote.

    Raises:
        SumRefusal: MALFORMED where they do not rise, begin below 1 or pass 128.
    """
    wrong = malformed(f"{len(data)} bytes that are no rising positions from 1 to {MAX_CLIENTS}")
    if len(data) % 2 or len(data) > 2 * MAX_CLIENTS:
        raise wrong
    found = tuple(int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2))
    if not rising(found) or (found and not 1 <= found[0] <= found[-1] <= MAX_CLIENTS):
        raise wrong
    return found


def rising(values: Sequence[int] | Sequence[bytes]) -> bool:
    """Whether every value is above the one before it."""
    return all(a < b for a, b in pairwise(values))  # type: ignore[operator]
