"""What the coordinator checks of each message before it counts."""

import hashlib

from potluck.aggregation.errors import BadTensor
from potluck.aggregation.secure.ring import Words, packed_bytes, unpacked
from potluck.aggregation.secure.shamir import PRIME
from potluck.wire.secure.agreeing import agreed
from potluck.wire.secure.encoding import malformed
from potluck.wire.secure.masks import CHUNK_WORDS
from potluck.wire.secure.messages import Agreement, Masked, Openings, Shares
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Entry, Register, Roster
from potluck.wire.secure.signatures import Tag, delivered_hash, survivors_hash, verify

_PROBE = bytes([1]) * 32
"""Any X25519 key tells a public one of low order: the secret is zero with all of them."""


def entry_of(message: bytes, sender: bytes, sid: bytes, register: Register) -> Entry:
    """Return the entry that *sender* may have in the roster.

    Raises:
        SumRefusal: it is malformed, of somebody else, badly signed, of no member, or has a weak key.
    """
    found = Entry.parse(message)
    if found.public_key != sender:
        raise SumRefusal("an entry of somebody else", reason=Reason.STRANGER, fix="send your own")
    register.check(found.public_key, found.certificate)
    found.verify(sid)
    for key in (found.channel_key, found.mask_key):
        agreed(_PROBE, key)
    return found


def shares_of(message: bytes, sid: bytes, roster: Roster, roster_hash: bytes, position: int) -> Shares:
    """Return the sealed shares of the client at *position*.

    Raises:
        SumRefusal: they are malformed, too few or too many, or badly signed.
    """
    found = Shares.parse(message)
    if len(found.sealed) != len(roster.entries) - 1:
        raise malformed(f"{len(found.sealed)} sealed shares for {len(roster.entries) - 1} others")
    payload = Shares.payload(sid, roster_hash, found.sealed, found.commitment)
    verify(roster.at(position).public_key, Tag.SHARE, payload, found.signature)
    return found


def check_vector(vector: memoryview | None, count: int, bits: int, message: bytes) -> Masked:
    """Return the message of a masked vector, whose length and hash have been checked.

    Raises:
        SumRefusal: WRONG_LENGTH, WRONG_DIGEST or MALFORMED.
    """
    found = Masked.parse(message)
    size = packed_bytes(count, bits)
    if vector is None or vector.nbytes != size:
        told = "no vector" if vector is None else f"{vector.nbytes} bytes"
        raise SumRefusal(f"{told} where {size} bytes belong", reason=Reason.WRONG_LENGTH, fix="send the whole vector")
    if hashlib.sha256(vector).digest() != found.digest:
        raise SumRefusal("the SHA-256 differs", reason=Reason.WRONG_DIGEST, fix="send the vector again")
    return found


def check_masked(found: Masked, sid: bytes, roster_hash: bytes, delivered: tuple[int, ...], key: bytes) -> None:
    """Verify the signature under a masked vector.

    Raises:
        SumRefusal: BAD_SIGNATURE.
    """
    payload = Masked.payload(sid, roster_hash, delivered_hash(sid, roster_hash, delivered), found.digest)
    verify(key, Tag.MASKED, payload, found.signature)


def add_packed(total: Words, vector: memoryview, bits: int) -> None:
    """Add a packed vector to *total*, in chunks and in place.

    Raises:
        SumRefusal: MALFORMED, where bits are set behind the last number; nothing was added then.
    """
    size = packed_bytes(CHUNK_WORDS, bits)
    data = vector.cast("B")
    starts = list(range(0, len(total), CHUNK_WORDS))
    for place in reversed(starts):  # the last first: it alone can be malformed
        part = total[place : place + CHUNK_WORDS]
        offset = place // CHUNK_WORDS * size
        try:
            part += unpacked(data[offset : offset + size], len(part), bits)
        except BadTensor as error:
            raise malformed(str(error)) from None


def agreement_of(message: bytes, sid: bytes, roster_hash: bytes, survivors: tuple[int, ...], key: bytes) -> bytes:
    """Return the signature over the list of survivors.

    Raises:
        SumRefusal: it is malformed, or of another list.
    """
    found = Agreement.parse(message)
    verify(key, Tag.AGREE, survivors_hash(sid, roster_hash, survivors), found.signature)
    return found.signature


def openings_of(message: bytes, delivered: tuple[int, ...]) -> dict[int, int]:
    """Return a client's share for every position that delivered, modulo p.

    A share of p or more is not refused: the client passes on what somebody else dealt to it, and is not at fault.
    What it stands for is as wrong as any other wrong share, and is told from the others as those are.

    Raises:
        SumRefusal: MALFORMED, where there are others than these.
    """
    found = Openings.parse(message)
    if len(found.shares) != len(delivered):
        raise malformed(f"{len(found.shares)} shares for {len(delivered)} clients")
    values = (int.from_bytes(share, "big") % PRIME for share in found.shares)
    return dict(zip(delivered, values, strict=True))
