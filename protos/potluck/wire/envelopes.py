"""Signed messages: who said it, to whom, and for what purpose.

A signature covers "potluck/v1/" ‖ purpose ‖ 0 ‖ audience ‖ 0 ‖ SHA-256(payload), so that nothing signed for one call,
or for one coordinator, is good for another.  Ed25519, RFC 8032.
"""

import base64
import hashlib
import hmac
from enum import StrEnum
from typing import Protocol, Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError, Message

from potluck.aggregation.errors import PotluckError
from potluck.wire.v1.envelope_pb2 import Envelope

KEY_BYTES = 32
M = TypeVar("M", bound=Message)


class BadSignature(PotluckError):
    """A message whose sender cannot be proved, or that was signed for something else."""


class Purpose(StrEnum):
    """What a signature is for.  A signature for one purpose is void for every other."""

    INVITE = "invite"
    ENROLL = "enroll"
    LEAVE = "leave"
    CHECKIN = "checkin"
    RENEW = "renew"
    OFFER = "offer"
    SUBMIT = "submit"
    ABORT = "abort"
    READ = "read"
    MEET = "meet"
    STEP = "step"
    RECEIPT = "receipt"
    RELEASE = "release"
    LOG = "log"


class Serialisable(Protocol):
    """A protobuf message, seen from the side that sends it."""

    def SerializeToString(self: Self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - protobuf's name
        """Return the message as bytes."""


def peer_id(public_key: bytes) -> str:
    """Return the name that a 32-byte Ed25519 public key gives its owner: 32 characters, a–z and 2–7.

    Raises:
        BadSignature: the key is not 32 bytes long.
    """
    if len(public_key) != KEY_BYTES:
        raise BadSignature(f"a public key has {KEY_BYTES} bytes, this one has {len(public_key)}")
    digest = hashlib.sha256(b"potluck/v1/peer-id\0" + public_key).digest()
    return base64.b32encode(digest[:20]).decode().lower()


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the 32 bytes of the public half of *key*."""
    return key.public_key().public_bytes_raw()


def sign(key: Ed25519PrivateKey, purpose: Purpose, audience: str, payload: Serialisable | bytes) -> Envelope:
    """Return *payload*, signed for *purpose* and for the coordinator called *audience* ("" for everybody)."""
    data = payload if isinstance(payload, bytes) else payload.SerializeToString(deterministic=True)
    return Envelope(payload=data, signer=public_bytes(key), signature=key.sign(signing_input(purpose, audience, data)))


def signing_input(purpose: Purpose, audience: str, payload: bytes) -> bytes:
    """Return the bytes that a signature covers."""
    return b"\0".join([f"potluck/v1/{purpose}".encode(), audience.encode(), hashlib.sha256(payload).digest()])


def opened(envelope: Envelope, purpose: Purpose, audience: str, kind: type[M], *, signer: bytes | None = None) -> M:
    """Return the message in *envelope*, once its signature has been verified; nothing is parsed before that.

    Raises:
        BadSignature: the signature is void, is of somebody other than *signer*, or covers no message of that kind.
    """
    checked(envelope, purpose, audience, signer=signer)
    message = kind()
    try:
        message.ParseFromString(envelope.payload)
    except DecodeError:
        raise BadSignature(f"the signed payload is no {kind.DESCRIPTOR.name}", fix="update the peer") from None
    return message


def checked(envelope: Envelope, purpose: Purpose, audience: str, *, signer: bytes | None = None) -> bytes:
    """Return the payload of *envelope*, once its signature has been verified.

    Raises:
        BadSignature: the signature is void, or is of somebody other than *signer*.
    """
    if signer is not None and not hmac.compare_digest(envelope.signer, signer):
        raise BadSignature(f"signed by {envelope.signer.hex()[:16]}…, expected {signer.hex()[:16]}…")
    try:
        key = Ed25519PublicKey.from_public_bytes(envelope.signer)
        key.verify(envelope.signature, signing_input(purpose, audience, envelope.payload))
    except (InvalidSignature, ValueError):
        raise BadSignature(
            f"the signature for {purpose.value!r} does not hold",
            fix="the message was altered, or was meant for another coordinator; get a new one",
        ) from None
    return envelope.payload
