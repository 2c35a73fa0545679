"""Keys that two clients agree on for one sum, and the channel that shares travel through."""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from potluck.wire.secure.encoding import KEY_BYTES, enc, tagged_hash
from potluck.wire.secure.reasons import Reason, SumRefusal

_NONCE: Final = bytes(12)
"""One message is sent under each key, so the nonce need not change."""


def public_of(private: bytes | bytearray) -> bytes:
    """Return the public half of an X25519 key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(bytes(private)).public_key().public_bytes_raw()


def agreed(private: bytes | bytearray, public: bytes) -> bytes:
    """Return the X25519 secret of two keys, 32 bytes.

    Raises:
        SumRefusal: WEAK_KEY, where the other key has low order: the secret would be zero for everybody.
    """
    try:
        return X25519PrivateKey.from_private_bytes(bytes(private)).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise SumRefusal(
            f"{public.hex()[:16]}…", reason=Reason.WEAK_KEY, fix="do not trust whoever sent this key"
        ) from None


def mask_key(secret: bytes, sid: bytes, one: bytes, other: bytes) -> bytes:
    """Return the 32-byte key of the mask that two nodes share: HKDF over the two ids in rising order."""
    return _derived(secret, sid, b"FL1/secagg/mask" + min(one, other) + max(one, other))


def share_key(secret: bytes, sid: bytes, sender: bytes, receiver: bytes) -> bytes:
    """Return the 32-byte key for what one node sends another: each direction has its own."""
    return _derived(secret, sid, b"FL1/secagg/share" + sender + receiver)


def commitment(sid: bytes, seed: bytes) -> bytes:
    """Return H("FL1/secagg/b", sid, seed)."""
    return tagged_hash("FL1/secagg/b", sid, seed)


def bound_to(sid: bytes, roster_hash: bytes, sender: bytes, receiver: bytes) -> bytes:
    """Return what sealed shares are bound to: a sum, its roster, and who writes to whom."""
    return enc(sid, roster_hash, sender, receiver)


def sealed(key: bytes, shares: bytes, bound: bytes) -> bytes:
    """Return two shares, 66 bytes, under ChaCha20-Poly1305 (RFC 8439): 82 bytes."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, shares, bound)


def unsealed(key: bytes, data: bytes, bound: bytes) -> bytes:
    """Return what sealed took.

    Raises:
        SumRefusal: BAD_SHARE, where it was not sealed for this.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, data, bound)
    except InvalidTag:
        raise SumRefusal(
            "sealed shares do not open", reason=Reason.BAD_SHARE, fix="wait for the next sum; its sender is at fault"
        ) from None


def _derived(secret: bytes, sid: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=sid, info=info).derive(secret)
