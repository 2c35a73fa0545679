"""Cohorts for secure sums: clients and a coordinator in one process, and a driver that lets some drop out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.aggregation.secure.lanes import told, vector_size, with_lanes
from potluck.aggregation.secure.ring import Words
from potluck.client.secure.participation import Outgoing, Participation, Standing
from potluck.client.secure.policy import Policy
from potluck.client.secure.secrets import system_bytes
from potluck.client.secure.used import UsedSums
from potluck.coordinator.secure.phases import Phase
from potluck.coordinator.secure.sums import SecureSum, Site
from potluck.wire.secure.messages import Step
from potluck.wire.secure.parameters import Parameters, Terms
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.registers import Certified, certificate

ADAPTER = b"\xad" * 32
COORDINATOR = Ed25519PrivateKey.from_private_bytes(b"\xc0" * 32)
TERMS = Terms("run", 3, b"\xba" * 32, b"\x3a" * 32, 7, 24, 1.0, 128, 5)
STEPS = (Step.ADVERTISE, Step.SHARE, Step.MASK, Step.AGREE, Step.UNMASK)


def key_of(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"client %d" % number).digest())


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass
class Remembered:
    """A record of used sums in memory."""

    claims: list[tuple[bytes, bytes]] = field(default_factory=list)
    spent: list[tuple[bytes, bytes]] = field(default_factory=list)
    seen: list[frozenset[bytes]] = field(default_factory=list)
    begun: list[bytes] = field(default_factory=list)

    def claim(self, sid: bytes, contribution: bytes) -> None:
        if any(sid == old for old, _ in self.claims):
            raise SumRefusal("again", reason=Reason.USED_SUM)
        if any(contribution == old for _, old in self.spent):
            raise SumRefusal("again", reason=Reason.SPENT)
        self.claims.append((sid, contribution))

    def spend(self, sid: bytes, contribution: bytes, cohort: Sequence[bytes], start: bytes) -> None:
        self.spent.append((sid, contribution))
        self.seen.append(frozenset(cohort))
        self.begun.append(start)

    def cohorts(self) -> Sequence[frozenset[bytes]]:
        return self.seen[-20:]

    def starts(self) -> Sequence[bytes]:
        return self.begun


def proposal(terms: Terms = TERMS, nonce: int = 0) -> Parameters:
    return Parameters(terms, (ADAPTER,), (60, 20, 150, 15, 20), bytes([nonce]) * 32)


def register(terms: Terms = TERMS) -> Certified:
    return Certified(public(COORDINATOR), terms.run_id)


def words_of(number: int, terms: Terms = TERMS) -> Words:
    """Return the vector of a client: small whole numbers that differ from all others', with its lanes."""
    drawn = np.random.default_rng(number).integers(-3, 4, terms.size)
    update = (drawn * (terms.ring.bound // 64 + 1)).astype(np.int64).astype(np.uint32)
    return with_lanes(update, told(1, 10 + number, clipped=False, loss=None), terms.ring, terms.max_weight)


def client(
    number: int,
    terms: Terms = TERMS,
    used: UsedSums | None = None,
    *,
    random: Callable[[int], bytes] = system_bytes,
    **policy: bool,
) -> Participation:
    key = key_of(number)
    word = certificate(COORDINATOR, terms.run_id, public(key))
    standing = Standing(key, word, register(terms), Remembered() if used is None else used, random)
    own = Policy(terms, ADAPTER, public(COORDINATOR), **{"small_groups": True, **policy})
    return Participation(standing, own, words_of(number, terms), b"update %d" % number)


@dataclass
class Cohort:
    """A coordinator's sum and the clients in it, by number."""

    sum: SecureSum
    clients: dict[int, Participation]
    sent: dict[tuple[Step, int], Outgoing] = field(default_factory=dict)

    def advance(self, step: Step, gone: Callable[[int], bool] = lambda _: False) -> Phase:
        """Let every client that is not *gone* answer the step before, then close *step*."""
        for number, one in self.clients.items():
            if gone(number):
                continue
            key = public(key_of(number))
            before = self.sum.message(Step(step - 1), key)
            answer = one.take(Step(step - 1), before)
            self.sent[step, number] = answer
            self.sum.take(step, key, answer.message, None if answer.vector is None else answer.vector.data)
        return self.sum.close()

    def run(self, drops: Mapping[int, Step] | None = None, until: Step = Step.UNMASK) -> Phase:
        """Go through all steps; a client in *drops* answers no message of that step or a later one."""
        drops = drops or {}
        for step in STEPS[:until]:
            if self.advance(step, lambda number, step=step: drops.get(number, 99) <= step) is Phase.ENDED:
                break
        return self.sum.phase


def cohort(size: int, terms: Terms = TERMS, *, nonce: int = 0, threads: int = 1, **settings: object) -> Cohort:
    terms = replace(terms, cohort_min=min(terms.cohort_min, size))
    opened = SecureSum(proposal(terms, nonce), Site(COORDINATOR, register(terms), threads))
    return Cohort(opened, {number: client(number, terms, **settings) for number in range(size)})


def plain_sum(numbers: Sequence[int], terms: Terms = TERMS) -> Words:
    """Return what NumPy adds up, modulo 2^bits."""
    total = np.zeros(vector_size(terms.ring, terms.max_weight), np.uint32)
    for number in numbers:
        total += words_of(number, terms)
    return total & np.uint32(2**terms.bits - 1)
