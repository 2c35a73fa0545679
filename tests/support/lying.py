"""A coordinator that lies: what it may say to one client of a sum, step by step, true or forged.

A sum is played once, and what its first client heard is written down.  That client draws the same secrets each time it
is made anew, so that it can be brought to any step of the very same sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from cohorts import COORDINATOR, STEPS, TERMS, client, cohort, key_of, public
from potluck.client.secure.participation import Participation
from potluck.client.secure.used import UsedSums
from potluck.wire.secure.messages import Delivery, Step, Survivors
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Entry, Roster
from potluck.wire.secure.signatures import Tag, signed, survivors_hash

SIZE = 8
FEW = 5
"""One below the threshold of eight."""
AGREED = replace(TERMS, cohort_max=10)


@dataclass(frozen=True)
class Recorded:
    """A sum as it was: what its first client was told in every step, and its second."""

    sid: bytes
    heard: Mapping[Step, bytes]
    others: Mapping[Step, bytes]

    @property
    def roster(self) -> Roster:
        return Roster.parse(self.heard[Step.ADVERTISE])


def first(used: UsedSums | None = None, secrets: int = 0) -> Participation:
    """Return the first client; another number for other secrets."""
    return client(0, AGREED, used, random=np.random.default_rng(secrets).bytes)


@cache
def recorded(nonce: int = 0) -> Recorded:
    """Play a sum in which nobody lies."""
    run, heard, others = cohort(SIZE, AGREED, nonce=nonce), {}, {}
    run.clients[0] = first()
    for step in Step:
        heard[step], others[step] = (run.sum.message(step, public(key_of(number))) for number in (0, 1))
        if step < Step.UNMASK:
            run.advance(STEPS[step])
    return Recorded(run.sum.sid, heard, others)


@dataclass
class Told:
    """What the first client is about to be told in a step."""

    step: Step
    victim: Participation
    message: bytes
    sum: Recorded

    @property
    def roster(self) -> Roster:
        return self.sum.roster

    @property
    def place(self) -> int:
        """The victim's position."""
        return self.roster.position_of(public(key_of(0)))

    @property
    def other(self) -> int:
        """The position of somebody else."""
        return 1 if self.place > 1 else 2

    @property
    def few(self) -> tuple[int, ...]:
        """Positions of too few, the victim's among them."""
        return tuple(sorted([self.place, *(j for j in self.roster.positions if j != self.place)][:FEW]))

    def relist(self, change: Callable[[list[Entry]], object]) -> None:
        """Tell a roster with changed lines, in the order of their nodes."""
        lines = list(self.roster.entries)
        change(lines)
        self.message = Roster(tuple(sorted(lines, key=lambda one: one.node))).to_bytes()

    def survive(self, positions: tuple[int, ...]) -> None:
        """Tell another list of survivors, signed as the true one is."""
        self.message = survivors(self.sum.sid, self.roster, positions)

    def deliver(self, positions: tuple[int, ...]) -> None:
        """Tell another list of who delivered, with as many boxes as it takes."""
        boxes = (Delivery.parse(self.message).sealed * 2)[: len(positions) - 1]
        self.message = Delivery(positions, boxes).to_bytes()


def survivors(sid: bytes, roster: Roster, positions: tuple[int, ...]) -> bytes:
    """Return a list of survivors with the coordinator's own signature."""
    hashed = survivors_hash(sid, roster.hash, positions)
    return Survivors(positions, signed(COORDINATOR, Tag.SURVIVORS, hashed)).to_bytes()


def telling(step: Step, used: UsedSums | None = None) -> Told:
    """Return the first client once it has answered what came before *step*, and what it hears then."""
    told = recorded()
    victim = first(used)
    for before in list(Step)[:step]:
        victim.take(before, told.heard[before])
    return Told(step, victim, told.heard[step], told)


def refused(act: Callable[[], object]) -> Reason:
    """Return why *act* is refused."""
    with pytest.raises(SumRefusal) as caught:
        act()
    return caught.value.reason
