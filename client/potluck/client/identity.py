"""Who this client is: one Ed25519 key, made here, never sent anywhere."""

import hashlib
import logging
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.client.errors import BadKey
from potluck.client.home import store
from potluck.wire.envelopes import peer_id, public_bytes

_LOG = logging.getLogger(__name__)

FIRST: Final = (  # noqa: SIM905 - a list literal would take a line for each word
    "amber brave calm dapper eager fair gentle happy ivory jolly keen lively mellow noble olive plucky quiet rosy "
    "sunny tidy upbeat vivid warm young zesty bold crisp dusky fresh golden hardy indigo"
).split()
SECOND: Final = (  # noqa: SIM905
    "apricot basil cherry dill endive fennel ginger hazel iris juniper kale lemon mango nutmeg okra pepper quince "
    "radish saffron thyme umami vanilla walnut yam zucchini almond barley clove date fig grape honey"
).split()
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_SHORT: Final = 6


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """The key and the names that follow from it."""

    key: Ed25519PrivateKey

    @property
    def client_id(self) -> str:
        """32 characters that the coordinator knows this client by."""
        return peer_id(public_bytes(self.key))

    @property
    def display(self) -> str:
        """Two words and a short id with check digits, such as "sunny-basil k3x7qa-4f"."""
        return display(self.client_id)


def display(some_id: str) -> str:
    """Return the short name of a client or a coordinator: two words and six characters with two check digits."""
    digest = hashlib.sha256(some_id.encode()).digest()
    words = f"{FIRST[digest[0] % len(FIRST)]}-{SECOND[digest[1] % len(SECOND)]}"
    return f"{words} {some_id[:_SHORT]}-{check_digits(some_id[:_SHORT])}"


def check_digits(text: str) -> str:
    """Return two characters that change when one of *text* is mistyped or two neighbours are swapped.

    A weighted sum modulo the prime 1021: each place has its own weight, so that a single slip or a swap of
    neighbours always changes the remainder.
    """
    total = sum(pow(33, place + 1, 1021) * (_ALPHABET.index(c) + 1) for place, c in enumerate(text)) % 1021
    return _ALPHABET[total // 32] + _ALPHABET[total % 32]


def identity_at(path: Path) -> Identity:
    """Return the identity in the file at *path*; make a new key where there is none.

    A key file that others could read is closed to them, with a warning: refusing would only stop the volunteer, and
    whoever wanted to read it has had the time.

    Raises:
        BadKey: the file is there and is not an Ed25519 key.
    """
    if not path.exists():
        _make(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        _LOG.warning("event=key_was_open path=%s mode=%o now=600", path, stat.S_IMODE(path.stat().st_mode))
        path.chmod(0o600)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad(path, "cannot be read as a key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad(path, "holds a key of another kind than Ed25519")
    return Identity(key)


def _bad(path: Path, what: str) -> BadKey:
    """Return the error for a key file that is of no use."""
    return BadKey(f"{path} {what}", fix=f"restore it from a backup, or move it away to become a new client: {path}")


def _make(path: Path) -> None:
    """Write a new key to *path*: whole or not at all, and never over another one."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600, and nobody else's
    temporary = Path(name)
    try:
        os.write(file, pem)
        os.fsync(file)
    finally:
        os.close(file)
    try:
        os.link(temporary, path)  # unlike a rename, it fails where another process was first
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        store(pem, path, secret=True)
    finally:
        temporary.unlink(missing_ok=True)
