"""What one sum is about: written once, hashed as bytes, and the same to the last bit for everybody in it.

The hash of these bytes names the sum, goes into every key and is under every signature.  A coordinator that shows two
clients different ones has two sums, and neither client's signatures are good in the other's.
"""

import math
import struct
from dataclasses import dataclass, fields
from typing import Final, Literal, Self, final

from potluck.aggregation.errors import PotluckError
from potluck.aggregation.secure.ring import Ring
from potluck.wire.secure.encoding import HASH_BYTES, enc, exactly, malformed, parts_of
from potluck.wire.secure.reasons import Reason, SumRefusal

LAYOUT: Final = 1
PRG: Final = "aes-256-ctr"
NONCE_BYTES: Final = 32
MAX_NAME: Final = 128
MAX_ADAPTERS: Final = 3
MAX_DEADLINE_S: Final = 3_600
MAX_PARAMETERS: Final = 4_096
SMALLEST: Final = 2
"""A sum over one is no sum; clients insist on more (see potluck.client.secure.policy)."""
STEPS: Final = 5
"""Steps that have a deadline: advertise, share, mask, agree, unmask."""

Corrupt = Literal["1/3", "1/5"]
"""The share of a cohort that may work for the coordinator without it learning more than the sum."""


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """What a client consented to: it works these out from the recipe, and they must be equal, field by field."""

    run_id: str
    version: int
    """The version of the shared adapter that the updates start from."""
    base: bytes
    """SHA-256 that names the base model."""
    manifest: bytes
    """SHA-256 of the manifest: the names, shapes and order of the tensors that are summed."""
    size: int
    """Coordinates of the vector, without the lanes."""
    bits: int
    """Of the ring: 16, 20, 24 or 32."""
    clip: float
    """L2 norm that an update is clipped to."""
    cohort_max: int
    cohort_min: int
    corrupt: Corrupt = "1/3"
    max_weight: int = 1
    """Highest weight of one client; 1 weighs all alike."""
    reports_loss: bool = False
    privacy: str = "none"
    """The statement about differential privacy in the recipe, as text."""

    @property
    def ring(self) -> Ring:
        """The ring that vectors of these terms are summed in."""
        return Ring(self.bits, self.cohort_max, self.size, self.clip)

    def differences(self, other: Self) -> list[str]:
        """Return the names of the fields in which *other* differs."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


@final
@dataclass(frozen=True, slots=True)
class Parameters:
    """The terms of one sum and what makes it this sum."""

    terms: Terms
    adapters: tuple[bytes, ...]
    """SHA-256 of the adapters that updates may have started from."""
    deadlines_s: tuple[int, ...]
    """Seconds for each of the five steps."""
    nonce: bytes
    """32 random bytes, so that no two sums have one name."""

    def to_bytes(self) -> bytes:
        """Return the one spelling of these parameters."""
        terms = self.terms
        return enc(
            LAYOUT.to_bytes(2, "big"),
            terms.run_id.encode(),
            terms.version.to_bytes(8, "big"),
            terms.base,
            terms.manifest,
            terms.size.to_bytes(8, "big"),
            bytes([terms.bits, terms.cohort_max, terms.cohort_min, terms.max_weight, terms.reports_loss]),
            struct.pack(">d", terms.clip),
            terms.corrupt.encode(),
            terms.privacy.encode(),
            PRG.encode(),
            b"".join(self.adapters),
            b"".join(seconds.to_bytes(2, "big") for seconds in self.deadlines_s),
            self.nonce,
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what to_bytes wrote.

        Raises:
            SumRefusal: MALFORMED or TOO_LARGE; whatever is read is in range, and writes the same bytes again.
        """
        parts = parts_of(data, least=14, most=14, limit=MAX_PARAMETERS)
        layout, run_id, version, base, manifest, size, small, clip, corrupt, privacy, prg, adapters, waits, nonce = (
            parts
        )
        if layout != LAYOUT.to_bytes(2, "big") or prg != PRG.encode():
            raise malformed("another layout or mask generator than this program knows")
        if (
            corrupt not in (b"1/3", b"1/5")
            or max(len(run_id), len(privacy)) > MAX_NAME
            or small[4:] not in (b"\0", b"\1")
        ):
            raise malformed("a field of the parameters is out of range")
        try:
            terms = Terms(
                run_id=run_id.decode(),
                version=int.from_bytes(exactly(version, 8, "the version"), "big"),
                base=exactly(base, HASH_BYTES, "the base"),
                manifest=exactly(manifest, HASH_BYTES, "the manifest"),
                size=int.from_bytes(exactly(size, 8, "the size"), "big"),
                bits=small[0],
                cohort_max=small[1],
                cohort_min=small[2],
                max_weight=small[3],
                reports_loss=bool(small[4]),
                clip=float(struct.unpack(">d", exactly(clip, 8, "the clip"))[0]),
                corrupt="1/3" if corrupt == b"1/3" else "1/5",
                privacy=privacy.decode(),
            )
            _in_range(terms)
        except (UnicodeDecodeError, PotluckError) as error:
            raise malformed(str(error)) from None
        found = cls(
            terms,
            tuple(adapters[place : place + HASH_BYTES] for place in range(0, len(adapters), HASH_BYTES)),
            tuple(int.from_bytes(waits[place : place + 2], "big") for place in range(0, len(waits), 2)),
            exactly(nonce, NONCE_BYTES, "the nonce"),
        )
        if (
            not 1 <= len(found.adapters) <= MAX_ADAPTERS
            or len(adapters) % HASH_BYTES
            or len(found.deadlines_s) != STEPS
            or found.to_bytes() != data
        ):
            raise malformed("the parameters are not spelled as they are written")
        return found


def _in_range(terms: Terms) -> None:
    """Refuse terms that no sum can have.

    Raises:
        SumRefusal: MALFORMED.
        BadSetting: the ring cannot be.
    """
    if not SMALLEST <= terms.cohort_min <= terms.cohort_max or terms.max_weight < 1 or not math.isfinite(terms.clip):
        raise malformed(f"a cohort of {terms.cohort_min} to {terms.cohort_max}, weights up to {terms.max_weight}")
    terms.ring.checked()


def same_terms(proposed: Terms, own: Terms) -> None:
    """Compare what the coordinator proposes with what a client agreed to.

    Raises:
        SumRefusal: TERMS, with the fields that differ.
    """
    if odd := own.differences(proposed):
        told = ", ".join(f"{name} = {_shown(getattr(proposed, name))}" for name in odd)
        mine = ", ".join(_shown(getattr(own, name)) for name in odd)
        raise SumRefusal(
            f"{told}; agreed was {mine}",
            reason=Reason.TERMS,
            fix="ask the operator; join again if the recipe changed and you agree to it",
        )


def _shown(value: object) -> str:
    return value.hex()[:16] + "…" if isinstance(value, bytes) else str(value)
