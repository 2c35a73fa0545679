"""Who says that somebody is a member: a registrar's signature, or a list that is known from elsewhere."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.wire.secure.encoding import enc
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.signatures import Tag, signed, verify


def certificate(registrar: Ed25519PrivateKey, run_id: str, public_key: bytes) -> bytes:
    """Return the registrar's word, 64 bytes, that the owner of *public_key* is a member of the run."""
    return signed(registrar, Tag.MEMBER, enc(run_id.encode(), public_key))


@final
@dataclass(frozen=True, slots=True)
class Certified:
    """Members are those whom the registrar signed for.

    Where the coordinator is its own registrar this proves only that it wrote them down: it can make members up.
    """

    registrar_key: bytes
    run_id: str

    def check(self, public_key: bytes, certificate: bytes) -> None:
        """Verify the certificate.

        Raises:
            SumRefusal: NOT_A_MEMBER.
        """
        try:
            verify(self.registrar_key, Tag.MEMBER, enc(self.run_id.encode(), public_key), certificate)
        except SumRefusal:
            raise _stranger(public_key) from None


@final
@dataclass(frozen=True, slots=True)
class Listed:
    """Members are those on a list, such as the coordinator's own book."""

    keys: AbstractSet[bytes]

    def check(self, public_key: bytes, certificate: bytes) -> None:
        """Look the key up.

        Raises:
            SumRefusal: NOT_A_MEMBER.
        """
        if public_key not in self.keys:
            raise _stranger(public_key)


def _stranger(public_key: bytes) -> SumRefusal:
    return SumRefusal(
        f"{public_key.hex()[:16]}…", reason=Reason.NOT_A_MEMBER, fix="do not take part; ask the operator who that is"
    )
