"""What a coordinator may say to a client of a sum that is not so."""

from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cohorts import COORDINATOR, key_of, public
from lying import SIZE, Told, first, recorded
from potluck.wire.secure.agreeing import public_of
from potluck.wire.secure.encoding import MAX_CLIENTS, MAX_MESSAGE, enc
from potluck.wire.secure.messages import Agreements, Closing, Delivery, Opening, Step, Survivors
from potluck.wire.secure.registers import certificate
from potluck.wire.secure.roster import Entry, Roster, entry
from potluck.wire.secure.signatures import Tag, signed, sum_id

STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x66" * 32)
LOW_ORDER = (bytes(32), b"\1" + bytes(31), (2**255 - 19).to_bytes(32, "little"), (2**255 - 18).to_bytes(32, "little"))


def empty(told: Told) -> None:
    told.message = b""


def cut(told: Told) -> None:
    told.message = told.message[:-1]


def longer(told: Told) -> None:
    told.message += b"\0"


def huge(told: Told) -> None:
    told.message = bytes(MAX_MESSAGE + 1)


def bit_flipped(told: Told) -> None:
    told.message = told.message[:-1] + bytes([told.message[-1] ^ 1])


def of_another_sum(told: Told) -> None:
    """The same clients, in the same step: replayed."""
    told.message = recorded(1).heard[told.step]


def signed_by_a_stranger(told: Told) -> None:
    parameters = Opening.parse(told.message).parameters
    told.message = Opening(parameters, signed(STRANGER, Tag.OPENING, sum_id(parameters))).to_bytes()


def altered_parameters(told: Told) -> None:
    found = Opening.parse(told.message)
    told.message = replace(found, parameters=found.parameters[:-1] + b"\1").to_bytes()


def signed_nonsense(told: Told) -> None:
    told.message = Opening(b"sum me", signed(COORDINATOR, Tag.OPENING, sum_id(b"sum me"))).to_bytes()


def unsorted(told: Told) -> None:
    told.message = Roster(tuple(reversed(Roster.parse(told.message).entries))).to_bytes()


def twice(told: Told) -> None:
    told.relist(lambda lines: lines.append(lines[0]))


def renamed(told: Told) -> None:
    told.relist(lambda lines: lines.append(replace(lines.pop(), node=b"\xff" * 20)))


def exchange(told: Told, position: int, **changes: bytes) -> None:
    lines = list(told.roster.entries)
    lines[position - 1] = replace(lines[position - 1], **changes)
    told.message = Roster(tuple(lines)).to_bytes()


def keys_of_the_coordinator(told: Told) -> None:
    """What lets it open all that is sealed for somebody, were it not signed."""
    exchange(told, told.other, channel_key=public_of(b"\x11" * 32), mask_key=public_of(b"\x22" * 32))


def keys_swapped(told: Told) -> None:
    theirs = told.roster.at(told.other)
    exchange(told, told.other, channel_key=theirs.mask_key, mask_key=theirs.channel_key)


def my_keys_swapped(told: Told) -> None:
    mine = told.roster.at(told.place)
    exchange(told, told.place, channel_key=mine.mask_key, mask_key=mine.channel_key)


def entry_of_another_sum(told: Told) -> None:
    theirs = recorded(1).roster.at(told.other)
    told.relist(lambda lines: lines.__setitem__(told.other - 1, theirs))


def accomplice(told: Told, channel_key: bytes, mask_key: bytes) -> None:
    """Add a member that signs any keys."""
    key = key_of(50)
    word = certificate(COORDINATOR, "run", public(key))
    told.relist(lambda lines: lines.append(entry(key, told.sum.sid, word, channel_key, mask_key)))


def my_key_taken(told: Told) -> None:
    accomplice(told, public_of(b"\x11" * 32), told.roster.at(told.place).mask_key)


def one_key_for_both(told: Told) -> None:
    accomplice(told, public_of(b"\x11" * 32), public_of(b"\x11" * 32))


def low_order_channel(told: Told) -> None:
    accomplice(told, LOW_ORDER[1], public_of(b"\x11" * 32))


def low_order_mask(told: Told) -> None:
    accomplice(told, public_of(b"\x11" * 32), LOW_ORDER[2])


def made_up(told: Told) -> None:
    """A member whom the registrar does not know: with many of these, one honest client would be summed alone."""
    keys = public_of(b"\x11" * 32), public_of(b"\x22" * 32)
    word = certificate(STRANGER, "run", public(STRANGER))
    told.relist(lambda lines: lines.append(entry(STRANGER, told.sum.sid, word, *keys)))


def without_me(told: Told) -> None:
    told.relist(lambda lines: lines.pop(told.place - 1))


def my_older_keys(told: Told) -> None:
    """My own signature for this sum, of the process before this one."""
    mine = Entry.parse(first(secrets=1).take(Step.OPEN, told.sum.heard[Step.OPEN]).message)
    told.relist(lambda lines: lines.__setitem__(told.place - 1, mine))


def few(told: Told) -> None:
    others = [one for one in told.roster.entries if one != told.roster.at(told.place)]
    told.relist(lambda lines: [lines.remove(one) for one in others[3:]])


def more_than_agreed(told: Told) -> None:
    def add(lines: list[Entry]) -> None:
        for number in range(50, 53):
            key, keys = key_of(number), (public_of(bytes([number]) * 32), public_of(bytes([number + 9]) * 32))
            lines.append(entry(key, told.sum.sid, certificate(COORDINATOR, "run", public(key)), *keys))

    told.relist(add)


def more_than_can_be(told: Told) -> None:
    told.message = enc(*[told.roster.at(1).to_bytes()] * (MAX_CLIENTS + 1))


def boxes_exchanged(told: Told) -> None:
    found = Delivery.parse(told.message)
    told.message = replace(found, sealed=tuple(reversed(found.sealed))).to_bytes()


def for_another(told: Told) -> None:
    """All boxes are good ones, and none is for this client."""
    told.message = told.sum.others[told.step]


def a_box_less(told: Told) -> None:
    found = Delivery.parse(told.message)
    told.message = replace(found, sealed=found.sealed[1:]).to_bytes()


def delivered_without_me(told: Told) -> None:
    told.deliver(tuple(j for j in told.roster.positions if j != told.place))


def delivered_by_nobody(told: Told) -> None:
    told.deliver((*told.roster.positions, SIZE + 1))


def few_delivered(told: Told) -> None:
    told.deliver(told.few)


def another_list(told: Told) -> None:
    found = Survivors.parse(told.message)
    told.message = replace(found, positions=found.positions[:-1]).to_bytes()


def survived_without_me(told: Told) -> None:
    told.survive(tuple(j for j in told.roster.positions if j != told.place))


def survived_from_nowhere(told: Told) -> None:
    told.survive((*told.roster.positions, SIZE + 1))


def few_survived(told: Told) -> None:
    told.survive(told.few)


def agree(told: Told, change: Callable[[dict[int, bytes]], object]) -> None:
    found = Agreements.parse(told.message)
    signatures = dict(zip(found.positions, found.signatures, strict=True))
    change(signatures)
    told.message = Agreements(tuple(signatures), tuple(signatures.values())).to_bytes()


def too_few_agree(told: Told) -> None:
    agree(told, lambda signatures: [signatures.pop(j) for j in range(1, SIZE - 4)])


def one_signs_for_all(told: Told) -> None:
    agree(told, lambda signatures: signatures.update(dict.fromkeys(range(1, SIZE + 1), signatures[3])))


def one_counts_twice(told: Told) -> None:
    found = Agreements.parse(told.message)
    positions = (found.positions[0], *found.positions[:-1])
    told.message = Agreements(positions, (found.signatures[0], *found.signatures[:-1])).to_bytes()


def a_signature_less(told: Told) -> None:
    found = Agreements.parse(told.message)
    told.message = replace(found, signatures=found.signatures[1:]).to_bytes()


def nobody_agrees(told: Told) -> None:
    agree(told, lambda signatures: signatures.update({SIZE + 1: signatures[1]}))


def another_end(told: Told) -> None:
    told.message = replace(Closing.parse(told.message), count=3).to_bytes()


def an_end_of_no_name(told: Told) -> None:
    told.message = enc(b"SOLD", b"\0", b"", bytes(64))


def a_failure_with_a_sum(told: Told) -> None:
    found = Closing.parse(told.message)
    told.message = enc(b"TOO_FEW", b"\0", found.digest, found.signature)
