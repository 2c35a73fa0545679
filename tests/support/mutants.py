"""Messages of a secure sum that are almost right, and every decoder that must tell."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np

from cohorts import STEPS, cohort, key_of, public
from potluck.wire.secure.encoding import MAX_MESSAGE, enc, parts_of
from potluck.wire.secure.messages import (
    Agreement,
    Agreements,
    Closing,
    Delivery,
    Masked,
    Opening,
    Openings,
    Shares,
    Step,
    Survivors,
)
from potluck.wire.secure.parameters import Parameters
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Entry, Roster

T = TypeVar("T")
Rng = np.random.Generator
LENGTHS = (0, 1, 2, 32, 64, 82, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
"""What a length in front of a part may say instead."""

UNITS = (2, 32, 33, 64, 82)
"""What lists in messages are made of."""


class Decoded(Protocol):
    """What a decoder returns."""

    def to_bytes(self) -> bytes: ...


DECODERS: Mapping[str, Callable[[bytes], Decoded]] = MappingProxyType(
    {
        kind.__name__: kind.parse
        for kind in (
            Parameters,
            Opening,
            Entry,
            Roster,
            Shares,
            Delivery,
            Masked,
            Survivors,
            Agreement,
            Agreements,
            Openings,
            Closing,
        )
    }
)
OF_CLIENTS = MappingProxyType(
    {
        Step.ADVERTISE: "Entry",
        Step.SHARE: "Shares",
        Step.MASK: "Masked",
        Step.AGREE: "Agreement",
        Step.UNMASK: "Openings",
    }
)
OF_THE_COORDINATOR = MappingProxyType(
    {
        Step.OPEN: "Opening",
        Step.ADVERTISE: "Roster",
        Step.SHARE: "Delivery",
        Step.MASK: "Survivors",
        Step.AGREE: "Agreements",
        Step.UNMASK: "Closing",
    }
)


@cache
def corpus() -> Mapping[str, Sequence[bytes]]:
    """Return true messages of every kind: all that two clients of a sum said and heard, and the end of a failed one."""
    found: dict[str, list[bytes]] = {name: [] for name in DECODERS}
    run = cohort(6, random=np.random.default_rng(0).bytes)
    for step in Step:
        heard = [run.sum.message(step, public(key_of(number))) or b"" for number in (0, 1)]
        found[OF_THE_COORDINATOR[step]] += heard
        if step < Step.UNMASK:
            run.advance(STEPS[step])
    for (step, number), sent in run.sent.items():
        if number < 2:
            found[OF_CLIENTS[step]].append(sent.message)
    found["Parameters"].append(Opening.parse(found["Opening"][0]).parameters)
    failed = cohort(6, random=np.random.default_rng(1).bytes)
    failed.run({0: Step.SHARE, 1: Step.SHARE})
    found["Closing"].append(failed.sum.message(Step.UNMASK, public(key_of(2))) or b"")
    return found


def pick(rng: Rng, among: Sequence[T]) -> T:
    """Return one of them."""
    return among[int(rng.integers(len(among)))]


def bit_flipped(rng: Rng, data: bytes) -> bytes:
    place = int(rng.integers(max(len(data), 1)))
    return (
        data[:place] + bytes(one ^ (1 << int(rng.integers(8))) for one in data[place : place + 1]) + data[place + 1 :]
    )


def cut_off(rng: Rng, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def grown(rng: Rng, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 100)))


def slice_moved(rng: Rng, data: bytes) -> bytes:
    """Take a piece out, or say it twice, or put another one in its place."""
    start, stop = sorted(int(rng.integers(len(data) + 1)) for _ in range(2))
    piece = data[start:stop]
    return data[:start] + pick(rng, (b"", piece * 2, rng.bytes(len(piece)), piece[::-1])) + data[stop:]


def length_changed(rng: Rng, data: bytes) -> bytes:
    """Change what looks like a length: it may lead anywhere."""
    places = [0]
    while (following := places[-1] + 4 + int.from_bytes(data[places[-1] : places[-1] + 4], "big")) < len(data):
        places.append(following)
    place = pick(rng, places)
    length = (int.from_bytes(data[place : place + 4], "big") + int(rng.integers(-2, 3))) % 2**32
    length = pick(rng, (length, pick(rng, LENGTHS)))
    return data[:place] + length.to_bytes(4, "big") + data[place + 4 :]


def parts_changed(rng: Rng, data: bytes) -> bytes:
    """Change whole parts, so that every length still leads where it should."""
    try:
        parts = parts_of(data, most=1_000)
    except SumRefusal:
        return data
    where = int(rng.integers(len(parts) + 1))
    if parts[where : where + 1] and rng.random() < 0.5:
        parts[where] = pick(rng, (b"", rng.bytes(len(parts[where])), mutated(rng, parts[where]), pick(rng, parts)))
    elif rng.random() < 0.5:
        parts.insert(where, pick(rng, (b"", rng.bytes(32), *parts)))
    else:
        del parts[where : where + 1]
    return enc(*parts)


def pieces_changed(rng: Rng, data: bytes) -> bytes:
    """Leave out a position, a share, a signature or a sealed pair of one part, say it twice, or change two of them."""
    try:
        parts = parts_of(data, most=1_000)
    except SumRefusal:
        return data
    where, unit = int(rng.integers(max(len(parts), 1))), pick(rng, UNITS)
    for part in parts[where : where + 1]:
        pieces = [part[place : place + unit] for place in range(0, len(part), unit)] or [bytes(unit)]
        place = int(rng.integers(len(pieces)))
        pieces[place : place + 1] = pick(rng, ([], pieces[place : place + 1] * 2, pieces[place : place + 2][::-1]))
        parts[where] = b"".join(pieces)
    return enc(*parts)


def nothing_like_it(rng: Rng, data: bytes) -> bytes:
    return rng.bytes(int(rng.integers(len(data) + 100)))


def of_another_kind(rng: Rng, data: bytes) -> bytes:
    other = pick(rng, corpus()[pick(rng, tuple(DECODERS))])
    return b"" if other == data else other


MUTATIONS = (
    bit_flipped,
    cut_off,
    grown,
    slice_moved,
    length_changed,
    parts_changed,
    parts_changed,
    pieces_changed,
    pieces_changed,
    nothing_like_it,
    of_another_kind,
)


def mutated(rng: Rng, data: bytes) -> bytes:
    """Return *data* changed once, twice or three times."""
    for _ in range(int(rng.integers(1, 4))):
        data = pick(rng, MUTATIONS)(rng, data)
    return data + bytes(MAX_MESSAGE) if rng.random() < 0.002 else data


def decode(name: str, data: bytes) -> Reason | None:
    """Return why a decoder refuses, or None where it reads; then it must write the same bytes again."""
    try:
        found = DECODERS[name](data)
    except SumRefusal as refusal:
        if refusal.reason not in {Reason.MALFORMED, Reason.TOO_LARGE}:
            raise AssertionError(f"{name} refuses {data.hex()} as {refusal.reason.name}") from None
        return refusal.reason
    if found.to_bytes() != data:
        raise AssertionError(f"{name} has two spellings: {data.hex()} and {found.to_bytes().hex()}")
    return None
