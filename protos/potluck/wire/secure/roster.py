"""Who is in a sum: every client's names and keys, in the one order that gives them their positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.wire.secure.encoding import (
    KEY_BYTES,
    MAX_CLIENTS,
    NODE_BYTES,
    SIGNATURE_BYTES,
    enc,
    exactly,
    malformed,
    parts_of,
    rising,
    tagged_hash,
)
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.signatures import Tag, node_id, signed, verify

MAX_CERTIFICATE: Final = 512


class Register(Protocol):
    """Who is a member of the run: the one thing that the coordinator's word alone should not settle."""

    def check(self, public_key: bytes, certificate: bytes) -> None:
        """Refuse a key whose owner is not proven to be a member.

        Raises:
            SumRefusal: NOT_A_MEMBER.
        """


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One client's line in a roster."""

    node: bytes
    """20 bytes, from the identity key."""
    public_key: bytes
    """Ed25519, the identity."""
    certificate: bytes
    """What proves the membership; empty where the run has no registrar."""
    channel_key: bytes
    """X25519, made for this sum: shares travel under it."""
    mask_key: bytes
    """X25519, made for this sum: pairs of masks come from it, and it is shared among the cohort."""
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return the line."""
        return enc(self.node, self.public_key, self.certificate, self.channel_key, self.mask_key, self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what to_bytes wrote; nothing is verified.

        Raises:
            SumRefusal: MALFORMED or TOO_LARGE.
        """
        node, public_key, certificate, channel_key, mask_key, signature = parts_of(data, least=6, most=6, limit=1_024)
        if len(certificate) > MAX_CERTIFICATE:
            raise malformed(f"a certificate of {len(certificate)} bytes")
        return cls(
            exactly(node, NODE_BYTES, "a node"),
            exactly(public_key, KEY_BYTES, "a key"),
            certificate,
            exactly(channel_key, KEY_BYTES, "a key"),
            exactly(mask_key, KEY_BYTES, "a key"),
            exactly(signature, SIGNATURE_BYTES, "a signature"),
        )

    def verify(self, sid: bytes) -> None:
        """Check that the owner of the identity key made these keys for this sum.

        Raises:
            SumRefusal: BAD_ROSTER, where the node is not the key's; BAD_SIGNATURE.
        """
        if node_id(self.public_key) != self.node:
            raise SumRefusal("a node that is not its key's", reason=Reason.BAD_ROSTER, fix="do not trust the sender")
        verify(self.public_key, Tag.ADVERTISE, enc(sid, self.node, self.channel_key, self.mask_key), self.signature)


def entry(key: Ed25519PrivateKey, sid: bytes, certificate: bytes, channel_key: bytes, mask_key: bytes) -> Entry:
    """Return the signed line of the owner of *key*."""
    public_key = key.public_key().public_bytes_raw()
    node = node_id(public_key)
    signature = signed(key, Tag.ADVERTISE, enc(sid, node, channel_key, mask_key))
    return Entry(node, public_key, certificate, channel_key, mask_key, signature)


@final
@dataclass(frozen=True, slots=True)
class Roster:
    """The lines of all clients, by node; a client's position is its place in them, from 1."""

    entries: tuple[Entry, ...]

    @property
    def hash(self) -> bytes:
        """H("FL1/secagg/roster", line, line, …): what binds every later signature to these keys."""
        return tagged_hash("FL1/secagg/roster", *(one.to_bytes() for one in self.entries))

    @property
    def positions(self) -> range:
        """1 to n."""
        return range(1, len(self.entries) + 1)

    def at(self, position: int) -> Entry:
        """Return the line at *position*, from 1."""
        return self.entries[position - 1]

    def position_of(self, public_key: bytes) -> int:
        """Return the position of the client with that identity.

        Raises:
            SumRefusal: STRANGER, where there is none.
        """
        for position, one in enumerate(self.entries, start=1):
            if one.public_key == public_key:
                return position
        raise SumRefusal(f"{public_key.hex()[:16]}…", reason=Reason.STRANGER, fix="wait for the next sum")

    def to_bytes(self) -> bytes:
        """Return the whole roster."""
        return enc(*(one.to_bytes() for one in self.entries))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what to_bytes wrote; nothing is verified.

        Raises:
            SumRefusal: MALFORMED or TOO_LARGE.
        """
        return cls(tuple(Entry.parse(part) for part in parts_of(data, least=1, most=MAX_CLIENTS)))

    def verify(self, sid: bytes, register: Register) -> None:
        """Check all that does not depend on who is asking: order, names, keys, signatures, membership.

        Raises:
            SumRefusal: BAD_ROSTER, WEAK_KEY, BAD_SIGNATURE or NOT_A_MEMBER.
        """
        if not rising([one.node for one in self.entries]):
            raise SumRefusal("nodes do not rise", reason=Reason.BAD_ROSTER, fix="do not trust the coordinator")
        self._distinct([one.public_key for one in self.entries], "identity")
        self._distinct([key for one in self.entries for key in (one.channel_key, one.mask_key)], "key of this sum")
        for one in self.entries:
            register.check(one.public_key, one.certificate)
            one.verify(sid)

    def _distinct(self, keys: Sequence[bytes], what: str) -> None:
        if len(set(keys)) != len(keys):
            raise SumRefusal(f"one {what} stands twice", reason=Reason.WEAK_KEY, fix="do not trust the coordinator")
