"""The messages of a sum.  Each is written in one way, and read only if it is written in that way.

step        client to coordinator      coordinator to clients
OPEN                                   Opening
ADVERTISE   Entry (see roster)         Roster
SHARE       Shares                     Delivery, one for each
MASK        Masked, and the vector     Survivors
AGREE       Agreement                  Agreements
UNMASK      Openings                   Closing
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self, final

from potluck.wire.secure.encoding import (
    HASH_BYTES,
    MAX_CLIENTS,
    SIGNATURE_BYTES,
    enc,
    exactly,
    malformed,
    parts_of,
    position_bytes,
    positions_of,
    tagged_hash,
)
from potluck.wire.secure.reasons import Reason

SHARE_BYTES: Final = 33
SEALED_BYTES: Final = 2 * SHARE_BYTES + 16
"""Two shares and the tag of ChaCha20-Poly1305."""


@final
class Step(IntEnum):
    """The steps of a sum: a client's message of a step answers the coordinator's message of the step before."""

    OPEN = 0
    ADVERTISE = 1
    SHARE = 2
    MASK = 3
    AGREE = 4
    UNMASK = 5


@final
@dataclass(frozen=True, slots=True)
class Opening:
    """Coordinator to all who come: what would be summed, signed with the coordinator's own key."""

    parameters: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        return enc(self.parameters, self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        parameters, signature = parts_of(data, least=2, most=2)
        return cls(parameters, exactly(signature, SIGNATURE_BYTES, "a signature"))


@final
@dataclass(frozen=True, slots=True)
class Shares:
    """Client to coordinator: a sealed pair of shares for every other client, by position, and a commitment."""

    sealed: tuple[bytes, ...]
    commitment: bytes
    """H("FL1/secagg/b", sid, seed): what the seed of the own mask will be checked against."""
    signature: bytes

    @staticmethod
    def payload(sid: bytes, roster_hash: bytes, sealed: tuple[bytes, ...], commitment: bytes) -> bytes:
        """Return what the signature covers."""
        return enc(sid, roster_hash, tagged_hash("FL1/secagg/ct", *sealed), commitment)

    def to_bytes(self) -> bytes:
        return enc(b"".join(self.sealed), self.commitment, self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        sealed, commitment, signature = parts_of(data, least=3, most=3)
        return cls(
            _pieces(sealed, SEALED_BYTES, "sealed shares"),
            exactly(commitment, HASH_BYTES, "a commitment"),
            exactly(signature, SIGNATURE_BYTES, "a signature"),
        )


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """Coordinator to one client: who delivered shares (U2), and what the others of them sealed for this client."""

    delivered: tuple[int, ...]
    sealed: tuple[bytes, ...]
    """By position, for all in *delivered* but the receiver."""

    def to_bytes(self) -> bytes:
        return enc(position_bytes(self.delivered), b"".join(self.sealed))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        delivered, sealed = parts_of(data, least=2, most=2)
        found = cls(positions_of(delivered), _pieces(sealed, SEALED_BYTES, "sealed shares"))
        if len(found.sealed) != len(found.delivered) - 1:
            raise malformed(f"{len(found.sealed)} sealed shares of {len(found.delivered)} clients")
        return found


@final
@dataclass(frozen=True, slots=True)
class Masked:
    """Client to coordinator: the SHA-256 of the masked vector, which travels on its own, and a signature over it."""

    digest: bytes
    signature: bytes

    @staticmethod
    def payload(sid: bytes, roster_hash: bytes, delivered: bytes, digest: bytes) -> bytes:
        """Return what the signature covers; *delivered* is the hash of who delivered shares."""
        return enc(sid, roster_hash, delivered, digest)

    def to_bytes(self) -> bytes:
        return enc(self.digest, self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        digest, signature = parts_of(data, least=2, most=2)
        return cls(exactly(digest, HASH_BYTES, "a digest"), exactly(signature, SIGNATURE_BYTES, "a signature"))


@final
@dataclass(frozen=True, slots=True)
class Survivors:
    """Coordinator to all: whose vectors are in the sum (U3), signed: two of them are proof of a lie."""

    positions: tuple[int, ...]
    signature: bytes

    def to_bytes(self) -> bytes:
        return enc(position_bytes(self.positions), self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        positions, signature = parts_of(data, least=2, most=2)
        return cls(positions_of(positions), exactly(signature, SIGNATURE_BYTES, "a signature"))


@final
@dataclass(frozen=True, slots=True)
class Agreement:
    """Client to coordinator: a signature over the hash of the survivors that it was shown."""

    signature: bytes

    def to_bytes(self) -> bytes:
        return enc(self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        (signature,) = parts_of(data, least=1, most=1)
        return cls(exactly(signature, SIGNATURE_BYTES, "a signature"))


@final
@dataclass(frozen=True, slots=True)
class Agreements:
    """Coordinator to all: the signatures of those who agreed, by position."""

    positions: tuple[int, ...]
    signatures: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return enc(position_bytes(self.positions), b"".join(self.signatures))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        positions, signatures = parts_of(data, least=2, most=2)
        found = cls(positions_of(positions), _pieces(signatures, SIGNATURE_BYTES, "signatures"))
        if len(found.positions) != len(found.signatures):
            raise malformed(f"{len(found.signatures)} signatures of {len(found.positions)} clients")
        return found


@final
@dataclass(frozen=True, slots=True)
class Openings:
    """Client to coordinator: one share for each who delivered shares, by position.

    Of a survivor it is the share of its seed; of one that dropped out, the share of its mask key.  Never both.
    """

    shares: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return enc(b"".join(self.shares))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        (shares,) = parts_of(data, least=1, most=1)
        return cls(_pieces(shares, SHARE_BYTES, "shares"))


@final
@dataclass(frozen=True, slots=True)
class Closing:
    """Coordinator to all: how the sum ended, signed."""

    reason: Reason | None
    """None where there is a sum."""
    count: int
    digest: bytes
    """SHA-256 of the packed sum; empty where there is none."""
    signature: bytes

    @staticmethod
    def payload(sid: bytes, reason: Reason | None, count: int, digest: bytes) -> bytes:
        """Return what the signature covers."""
        return enc(sid, b"" if reason is None else reason.name.encode(), bytes([count]), digest)

    def to_bytes(self) -> bytes:
        name = b"" if self.reason is None else self.reason.name.encode()
        return enc(name, bytes([self.count]), self.digest, self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        name, count, digest, signature = parts_of(data, least=4, most=4)
        known = {reason.name.encode(): reason for reason in Reason}
        if (name and name not in known) or len(digest) != (0 if name else HASH_BYTES):
            raise malformed("an end that this program does not know")
        (number,) = exactly(count, 1, "a count")
        return cls(known.get(name), number, digest, exactly(signature, SIGNATURE_BYTES, "a signature"))


def _pieces(data: bytes, size: int, what: str) -> tuple[bytes, ...]:
    """Return *data* cut into pieces of *size* bytes: at most one for each client."""
    if len(data) % size or len(data) > size * MAX_CLIENTS:
        raise malformed(f"{len(data)} bytes of {what}, {size} each")
    return tuple(data[place : place + size] for place in range(0, len(data), size))
