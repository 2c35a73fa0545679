"""Updates that wait for a secure sum, encrypted at rest: AES-256-GCM under a key that only the device key gives.

Whoever copies the outbox alone (a backup, a folder that syncs) gets nothing.  Whoever has the whole home, with the
device key in it, has what this program has: use a disk that is encrypted.  The file's SHA-256, which the coordinator is
told, says nothing about the update either, since the key and the nonce are secret and new.
"""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from potluck.aggregation.errors import BadTensor

MAGIC: Final = b"potluck parked 1\n"
NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32


def contribution(run_id: str, version: int) -> bytes:
    """Return what names an update: there is one for each version of a run, whatever lease it was made under."""
    return f"{run_id}/{version}".encode()


def park(data: bytes, key: Ed25519PrivateKey, name: bytes) -> bytes:
    """Return *data* encrypted for the owner of *key*; *name* says which update it is, and must be known to open it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return MAGIC + nonce + AESGCM(_secret(key, nonce)).encrypt(nonce, data, MAGIC + name)


def unpark(parked: bytes, key: Ed25519PrivateKey, name: bytes) -> bytes:
    """Return what park encrypted.

    Raises:
        BadTensor: it was altered, is another update, or was encrypted for another key.
    """
    start = len(MAGIC) + NONCE_BYTES
    nonce = parked[len(MAGIC) : start]
    try:
        return AESGCM(_secret(key, nonce)).decrypt(nonce, parked[start:], parked[: len(MAGIC)] + name)
    except (InvalidTag, ValueError):  # of another length, there is no nonce
        raise BadTensor(
            "the sealed update was damaged on this disk, or is another device's", fix="it is dropped; check the disk"
        ) from None


def _secret(key: Ed25519PrivateKey, nonce: bytes) -> bytes:
    """Return a key of each file's own, so that no nonce is used twice with one key."""
    derived = HKDF(SHA256(), length=_KEY_BYTES, salt=nonce, info=b"potluck/v1/parked")
    return derived.derive(key.private_bytes_raw())
