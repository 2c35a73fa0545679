"""What the coordinator says when a step is closed."""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.wire.secure.messages import Agreements, Closing, Delivery, Shares, Survivors
from potluck.wire.secure.reasons import Reason
from potluck.wire.secure.signatures import Tag, signed, survivors_hash


def delivery(shares: Mapping[int, Shares], position: int) -> bytes:
    """Return what the client at *position* gets: who delivered, and what they sealed for it."""
    delivered = tuple(sorted(shares))
    others = [j for j in delivered if j != position]
    # a client seals for all but itself, so its list has no place for itself
    return Delivery(delivered, tuple(shares[j].sealed[position - 1 - (position > j)] for j in others)).to_bytes()


def survivors(key: Ed25519PrivateKey, sid: bytes, roster_hash: bytes, positions: tuple[int, ...]) -> bytes:
    """Return the list of survivors, signed: two of one sum prove that the coordinator lied."""
    return Survivors(positions, signed(key, Tag.SURVIVORS, survivors_hash(sid, roster_hash, positions))).to_bytes()


def agreements(signatures: Mapping[int, bytes]) -> bytes:
    """Return the signatures of those who agreed."""
    positions = tuple(sorted(signatures))
    return Agreements(positions, tuple(signatures[j] for j in positions)).to_bytes()


def closing(key: Ed25519PrivateKey, sid: bytes, reason: Reason | None, *, count: int = 0, digest: bytes = b"") -> bytes:
    """Return how the sum ended, signed."""
    return Closing(
        reason, count, digest, signed(key, Tag.RESULT, Closing.payload(sid, reason, count, digest))
    ).to_bytes()
