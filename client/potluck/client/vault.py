"""What is encrypted at rest: AES-256-GCM, under a key that the system's keyring keeps or a passphrase gives.

A sealed file is MAGIC, the length of its head, the head as JSON, and what was sealed with its tag.  The head says where
the key comes from and is part of what the tag protects.  Every file is sealed under a key of its own, so that no nonce
is used twice with one key, however often a file is written.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from potluck.aggregation.errors import PotluckError
from potluck.client.home import store

MAGIC: Final = b"potluck sealed 1\n"
KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
COST: Final = 2**17  # scrypt's N with r = 8, p = 1: 128 MiB and about half a second
BLOCK: Final = 8
MOST_COST: Final = 2**20  # 1 GiB; a head that asks for more is an attack on this machine's memory
MAX_HEAD: Final = 4_096
SHORTEST: Final = 8  # characters of a new passphrase
SERVICE: Final = "potluck"


class Locked(PotluckError):
    """A sealed file cannot be opened with what was given, or is damaged."""


class NoKeyring(PotluckError):
    """This machine has no keyring that could keep a key."""


class BadPassphrase(PotluckError):
    """A passphrase that must not be used."""


class Key(Protocol):
    """Where a file's key comes from."""

    @property
    def kind(self) -> str:
        """What the head calls it: passphrase or keyring."""

    def new(self) -> tuple[dict[str, object], bytes]:
        """Return what a head says of a new key, and its 32 bytes."""

    def again(self, facts: Mapping[str, Any]) -> bytes:
        """Return the key that a head with these *facts* speaks of.

        Raises:
            Locked: there is none, or the facts are not sane.
        """


class Ring(Protocol):
    """What a keyring does; the module `keyring` is one."""

    def get_password(self, service: str, username: str) -> str | None:
        """Return what is kept there, or None."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep *password* there."""


@final
@dataclass(frozen=True, slots=True)
class Passphrase:
    """A key that scrypt makes of what the owner types.

    Source: Percival & Josefsson 2016, RFC 7914.
    """

    text: str = field(repr=False)
    kind: str = field(default="passphrase", init=False)

    def new(self) -> tuple[dict[str, object], bytes]:
        if len(self.text) < SHORTEST:
            raise BadPassphrase(
                f"the passphrase has {len(self.text)} characters, {SHORTEST} are the least",
                fix="use several words that nobody would put together",
            )
        salt = secrets.token_bytes(SALT_BYTES)
        return {"salt": salt.hex(), "n": COST}, self._derived(salt, COST)

    def again(self, facts: Mapping[str, Any]) -> bytes:
        cost = facts["n"]
        if not isinstance(cost, int) or not 1 < cost <= MOST_COST or cost & (cost - 1):
            raise Locked(
                f"the file asks for scrypt with N = {cost!r}, more than is right", fix="restore it from a copy"
            )
        return self._derived(bytes.fromhex(facts["salt"]), cost)

    def _derived(self, salt: bytes, cost: int) -> bytes:
        return Scrypt(salt=salt, length=KEY_BYTES, n=cost, r=BLOCK, p=1).derive(self.text.encode())


@final
@dataclass(frozen=True, slots=True)
class Keyring:
    """A random secret that the system's keyring keeps under *name*, and for each file a key made of it."""

    ring: Ring
    name: str
    kind: str = field(default="keyring", init=False)

    def new(self) -> tuple[dict[str, object], bytes]:
        secret = self.ring.get_password(SERVICE, self.name)
        if secret is None:
            secret = secrets.token_hex(KEY_BYTES)
            self.ring.set_password(SERVICE, self.name, secret)
            if self.ring.get_password(SERVICE, self.name) != secret:
                raise NoKeyring("the system's keyring does not keep what it is given", fix="use --passphrase")
        salt = secrets.token_bytes(SALT_BYTES)
        return {"salt": salt.hex(), "name": self.name}, self._derived(secret, salt)

    def again(self, facts: Mapping[str, Any]) -> bytes:
        secret = self.ring.get_password(SERVICE, facts["name"])
        if secret is None:
            raise Locked(
                f"the system's keyring has no key called {facts['name']!r}",
                fix="log in as the user who made it, or unlock the keyring",
            )
        return self._derived(secret, bytes.fromhex(facts["salt"]))

    def _derived(self, secret: str, salt: bytes) -> bytes:
        return HKDF(SHA256(), length=KEY_BYTES, salt=salt, info=b"potluck/personal").derive(bytes.fromhex(secret))


def system_keyring() -> Ring:
    """Return the system's keyring.

    Raises:
        NoKeyring: the package is missing, or there is none that protects what it keeps.
    """
    fix = "use a passphrase: --passphrase"
    try:
        import keyring  # noqa: PLC0415 - optional, and slow to look for what the system has
    except ModuleNotFoundError:
        raise NoKeyring(
            "the package keyring is not installed", fix=f"pip install 'potluck[keyring]', or {fix}"
        ) from None
    found: Any = keyring.get_keyring()
    if found.priority < 1:  # what keyring's own rules call not recommended: none at all, or one in plain text
        raise NoKeyring(f"this machine has no keyring that protects a key ({found.name})", fix=fix)
    return GuardedRing(found, keyring.errors.KeyringError)


@final
@dataclass(frozen=True, slots=True)
class GuardedRing:
    """A keyring whose own troubles, such as one that stays locked, are told with what to do."""

    ring: Ring
    trouble: type[Exception]

    def get_password(self, service: str, username: str) -> str | None:
        with self._told():
            return self.ring.get_password(service, username)

    def set_password(self, service: str, username: str, password: str) -> None:
        with self._told():
            self.ring.set_password(service, username, password)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self.trouble as error:
            raise NoKeyring(
                f"the system's keyring does not answer: {error}", fix="unlock it and try again, or use --passphrase"
            ) from None


@final
@dataclass(frozen=True, slots=True)
class Seal:
    """The key of one file that is to be written, there before what it is for: it closes once."""

    facts: Mapping[str, object]
    """What the file's head says of where its key comes from."""
    secret: bytes = field(repr=False)
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(NONCE_BYTES), init=False)

    @classmethod
    def of(cls, key: Key) -> Self:
        """Return a seal that *key* opens.

        Raises:
            BadPassphrase: the passphrase is too short.
            NoKeyring: the keyring does not keep what it is given.
        """
        facts, secret = key.new()
        return cls({"key": key.kind, **facts}, secret)

    def close(self, data: bytes, path: Path) -> None:
        """Encrypt *data* and put it at *path*; after a crash there is all of it or what was there before.

        Raises:
            DiskFull: there is no room.
        """
        head = json.dumps({"nonce": self.nonce.hex(), **self.facts}).encode()
        front = MAGIC + len(head).to_bytes(2, "big") + head
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        store(front + AESGCM(self.secret).encrypt(self.nonce, data, front), path, secret=True)


def seal(data: bytes, key: Key, path: Path) -> None:
    """Encrypt *data* with a new seal of *key* and put it at *path*.

    Raises:
        BadPassphrase: the passphrase is too short.
        NoKeyring: the keyring does not keep what it is given.
        DiskFull: there is no room.
    """
    Seal.of(key).close(data, path)


def unseal(path: Path, key: Key) -> bytes:
    """Return what was sealed at *path*.

    Raises:
        Locked: the key is not the right one, or the file is damaged or no sealed file.
    """
    front, head, sealed = _parts(path)
    if head["key"] != key.kind:
        raise Locked(
            f"{path} was sealed with a {head['key']}, not with a {key.kind}", fix="use what it was sealed with"
        )
    try:
        return AESGCM(key.again(head)).decrypt(bytes.fromhex(head["nonce"]), sealed, front)
    except InvalidTag:
        raise Locked(
            f"{path} does not open: the {key.kind} is not the right one, or the file is damaged",
            fix="try again; what is lost can be made again: potluck personalize --anew",
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise Locked(f"{path} is damaged: {error!r}", fix="restore it from a copy") from None


def kind_of(path: Path) -> str:
    """Return what the file at *path* was sealed with: passphrase or keyring.

    Raises:
        Locked: it is no sealed file.
    """
    return str(_parts(path)[1]["key"])


def _parts(path: Path) -> tuple[bytes, dict[str, Any], bytes]:
    """Return (all before the ciphertext, the head, the ciphertext); nothing of it is believed yet."""
    data = path.read_bytes()
    start = len(MAGIC) + 2
    length = int.from_bytes(data[len(MAGIC) : start], "big")
    try:
        head = json.loads(data[start : start + length]) if data.startswith(MAGIC) and length <= MAX_HEAD else None
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("key") not in {"passphrase", "keyring"}:
        raise Locked(f"{path} is no sealed file of this program, or is damaged", fix="restore it from a copy")
    return data[: start + length], head, data[start + length :]
