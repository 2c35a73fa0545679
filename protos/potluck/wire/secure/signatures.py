"""What clients and the coordinator sign in a secure sum.  Ed25519, RFC 8032.

Envelopes prove to the coordinator who sent a message.  These signatures are inside the messages, because other
clients verify them, and because a client that cheated has then signed it.
"""

from enum import StrEnum
from typing import Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from potluck.wire.secure.encoding import NODE_BYTES, SIGNATURE_BYTES, exactly, position_bytes, tagged_hash, u32
from potluck.wire.secure.reasons import Reason, SumRefusal


@final
class Tag(StrEnum):
    """What a signature is for.  One for one purpose is void for every other."""

    OPENING = "FL1/secagg/open"
    ADVERTISE = "FL1/secagg/r0"
    SHARE = "FL1/secagg/r1"
    MASKED = "FL1/secagg/r2"
    AGREE = "FL1/secagg/r3"
    SURVIVORS = "FL1/secagg/survivors"
    RESULT = "FL1/secagg/result"
    MEMBER = "FL1/member"


CERTIFICATE_BYTES: Final = SIGNATURE_BYTES


def node_id(public_key: bytes) -> bytes:
    """Return the 20 bytes that name the owner of an Ed25519 public key in a sum: H("FL1/node-id", key)[:20]."""
    return tagged_hash("FL1/node-id", public_key)[:NODE_BYTES]


def signed(key: Ed25519PrivateKey, tag: Tag, payload: bytes) -> bytes:
    """Return the signature, 64 bytes, over tag ‖ 0 ‖ payload."""
    return key.sign(tag.encode("ascii") + b"\0" + payload)


def verify(public_key: bytes, tag: Tag, payload: bytes, signature: bytes) -> None:
    """Check what signed returned.

    Raises:
        SumRefusal: BAD_SIGNATURE, where it does not hold.
    """
    exactly(signature, SIGNATURE_BYTES, "a signature")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, tag.encode("ascii") + b"\0" + payload)
    except (InvalidSignature, ValueError):
        raise SumRefusal(
            f"for {tag.value!r} by {public_key.hex()[:16]}…", reason=Reason.BAD_SIGNATURE, fix="do not trust the sender"
        ) from None


def sum_id(parameters: bytes) -> bytes:
    """Return the 32 bytes that name a sum: H("FL1/secagg/sid", parameters)."""
    return tagged_hash("FL1/secagg/sid", parameters)


def survivors_hash(sid: bytes, roster_hash: bytes, positions: tuple[int, ...]) -> bytes:
    """Return what all survivors must agree about: H("FL1/secagg/u3", sid, roster hash, position, position, …)."""
    return tagged_hash("FL1/secagg/u3", sid, roster_hash, *(u32(position) for position in sorted(positions)))


def delivered_hash(sid: bytes, roster_hash: bytes, positions: tuple[int, ...]) -> bytes:
    """Return the hash of who delivered shares, which a client signs with its masked vector."""
    return tagged_hash("FL1/secagg/u2", sid, roster_hash, position_bytes(positions))
