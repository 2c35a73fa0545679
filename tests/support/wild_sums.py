"""Secure sums in a wild world: messages are lost, changed, replayed, reordered, and some clients cheat.

What must hold is checked while they are played; a breach is an AssertionError that says what the seed was.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from cohorts import STEPS, TERMS, Cohort, cohort, key_of, public, words_of
from mutants import Rng, mutated, pick
from potluck.aggregation.secure.ring import Words, packed, unpacked
from potluck.aggregation.secure.thresholds import threshold
from potluck.client.secure.participation import Outgoing
from potluck.coordinator.secure.phases import IllegalEvent, Phase
from potluck.wire.secure.agreeing import public_of
from potluck.wire.secure.messages import Agreements, Masked, Openings, Shares, Step, Survivors
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Entry, Roster, entry
from potluck.wire.secure.signatures import Tag, delivered_hash, signed, survivors_hash, verify

MOST = 8
TERMS_OF_ALL = replace(TERMS, size=5, cohort_max=MOST)
OVER = (Phase.SUMMED, Phase.ENDED)


@dataclass
class Seen:
    """What was played, all together."""

    ended: Counter[str] = field(default_factory=Counter)
    """By phase, and reason where there is one."""
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By side and reason."""
    messages: Counter[str] = field(default_factory=Counter)
    """Taken or refused, by side."""
    released: int = 0
    """Clients that gave their shares."""


def breach(what: str) -> AssertionError:
    return AssertionError(f"a secure sum broke its word: {what}")


@dataclass
class Wild:
    """One sum with all that happens to it."""

    rng: Rng
    seen: Seen
    run: Cohort
    noise: float
    """How often a message is not what it should be."""
    drop: float
    cheat: float
    added: dict[int, Words] = field(default_factory=dict)
    """By client: what a cheat adds to its update, by a vector that is signed as it should be."""
    spoilt: set[int] = field(default_factory=set)
    """Clients that advertised keys which are not theirs: a sum with them is noise."""
    shares_changed: bool = False
    """Whether shares were told that are not those that were dealt."""
    true_shares: set[tuple[bytes, bytes]] = field(default_factory=set)
    """By key: messages of UNMASK as clients meant them."""
    said: list[tuple[Step, bytes, bytes]] = field(default_factory=list)
    """Step, sender and message of all that the coordinator was told."""
    heard: list[bytes] = field(default_factory=list)
    lists: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By client: the survivors that it agreed to."""

    def often(self, share: float = 1.0) -> bool:
        return bool(self.rng.random() < self.noise * share)

    def play(self) -> None:
        """Go through a sum, and check what it came to."""
        for step in STEPS:
            for number in self.rng.permutation(sorted(self.run.clients)).tolist():
                self.disturb()
                if self.rng.random() < self.drop or not self.turn(number, step):
                    self.run.clients.pop(number, None)
            if self.often(0.02):
                self.run.sum.cancel()
                break
            if self.run.sum.close() in OVER:
                break
        self.check()

    def turn(self, number: int, step: Step) -> bool:
        """Let a client hear the answer to the step before and say what *step* asks for; whether it is still there."""
        key = public(key_of(number))
        message = self.tried("coordinator", lambda: self.run.sum.message(Step(step - 1), key))
        if message is None:
            return False
        self.heard.append(message)
        before = Step(step - 1)
        if self.often():
            message, before = self.hostile(before, message)
            self.shares_changed = self.shares_changed or before is Step.SHARE
        answer = self.tried("client", lambda: self.run.clients[number].take(before, message))
        if answer is None:
            return False
        if before is Step.MASK:
            self.lists[number] = Survivors.parse(message).positions
        if before is Step.AGREE:
            self.check_release(number, message, answer)
            self.true_shares.add((key, answer.message))
        if self.rng.random() < self.cheat:
            answer = self.cheated(number, answer)
        self.send(key, answer)
        return True

    def hostile(self, step: Step, message: bytes) -> tuple[bytes, Step]:
        """Return what a client may be told instead, and as what."""
        told = pick(self.rng, (mutated(self.rng, message), pick(self.rng, self.heard), b"", message))
        return told, pick(self.rng, (step, step, pick(self.rng, tuple(Step))))

    def send(self, key: bytes, answer: Outgoing) -> None:
        """Tell the coordinator what a client says, sometimes twice or changed on the way before."""
        vector = None if answer.vector is None else answer.vector.data
        if self.often():
            changed = mutated(self.rng, answer.message)
            self.told(answer.step, key, changed, vector)
        if self.often() and vector is not None:
            other = bytearray(vector)
            other[int(self.rng.integers(len(other)))] ^= 1
            self.told(answer.step, key, answer.message, memoryview(other))
        for _ in range(1 + self.often()):
            self.told(answer.step, key, answer.message, vector)
        self.said.append((answer.step, key, answer.message))

    def told(self, step: Step, key: bytes, message: bytes, vector: memoryview | None) -> None:
        """Tell the coordinator something; nothing but what takes masks off is believed without a signature inside."""
        before = len(self.run.sum._openings)  # noqa: SLF001
        self.tried("coordinator", lambda: self.run.sum.take(step, key, message, vector))
        if len(self.run.sum._openings) > before and (key, message) not in self.true_shares:  # noqa: SLF001
            self.shares_changed = True

    def disturb(self) -> None:
        """Tell the coordinator something that nobody says now: replayed, changed, of another, with any vector."""
        while self.often(0.5):
            step, sender, message = pick(self.rng, self.said) if self.said else (Step.ADVERTISE, bytes(32), b"")
            message = pick(self.rng, (message, mutated(self.rng, message)))
            sender = pick(self.rng, (sender, public(key_of(int(self.rng.integers(MOST + 2))))))
            step = pick(self.rng, (step, step, pick(self.rng, tuple(Step))))
            vector = memoryview(self.rng.bytes(pick(self.rng, (0, 1, 3 * len(words_of(0, TERMS_OF_ALL))))))
            self.told(step, sender, message, vector)
            self.tried("coordinator", lambda a=(step, sender): self.run.sum.message(*a))

    def cheated(self, number: int, answer: Outgoing) -> Outgoing:
        """Return what a member may say instead that is signed as it should be."""
        key, sid = key_of(number), self.run.sum.sid
        if answer.step is Step.ADVERTISE:
            keys = pick(self.rng, (bytes(32), public_of(self.rng.bytes(32)))), public_of(self.rng.bytes(32))
            self.spoilt.add(number)
            return replace(answer, message=entry(key, sid, Entry.parse(answer.message).certificate, *keys).to_bytes())
        if answer.step is Step.SHARE:
            found, roster = Shares.parse(answer.message), self.roster()
            boxes = (self.rng.bytes(len(found.sealed[0])), *found.sealed[1:])
            self.shares_changed = True
            told = pick(self.rng, ((boxes, found.commitment), (found.sealed, self.rng.bytes(32))))
            return replace(
                answer,
                message=Shares(*told, signed(key, Tag.SHARE, Shares.payload(sid, roster.hash, *told))).to_bytes(),
            )
        if answer.vector is not None:
            return self.padded(number, answer)
        if answer.step is Step.UNMASK:
            shares = [pick(self.rng, (one, self.rng.bytes(33))) for one in Openings.parse(answer.message).shares]
            return replace(answer, message=Openings(tuple(shares)).to_bytes())
        return answer

    def padded(self, number: int, answer: Outgoing) -> Outgoing:
        """Add anything to a masked vector, and sign it: what one member can always do."""
        size = len(words_of(number, TERMS_OF_ALL))
        more = np.zeros(size, np.uint32)
        more[int(self.rng.integers(TERMS_OF_ALL.size))] = pick(self.rng, (1, 1_000, 2**23))
        vector = packed(unpacked(answer.vector, size, TERMS_OF_ALL.bits) + more, TERMS_OF_ALL.bits)
        digest = hashlib.sha256(vector.data).digest()
        sid, hashed = self.run.sum.sid, self.roster().hash
        payload = Masked.payload(sid, hashed, delivered_hash(sid, hashed, self.run.sum._delivered), digest)  # noqa: SLF001
        self.added[number] = more
        return Outgoing(Step.MASK, Masked(digest, signed(key_of(number), Tag.MASKED, payload)).to_bytes(), vector)

    def roster(self) -> Roster:
        return self.run.sum._roster  # noqa: SLF001 - what the coordinator has

    def tried(self, side: str, act: Callable[[], object]) -> object:
        """Return what *act* returns, or None where it is refused: any other exception is a defect."""
        self.seen.messages[side] += 1
        try:
            return act()
        except SumRefusal as refusal:
            self.seen.refused[side, refusal.reason.name] += 1
            return None

    def check_release(self, number: int, message: bytes, answer: Outgoing) -> None:
        """Shares are given where the threshold signed the very list that this client signed, and for no other."""
        roster, positions = self.roster(), self.lists[number]
        found = Agreements.parse(message)
        hashed = survivors_hash(self.run.sum.sid, roster.hash, positions)
        for j, signature in zip(found.positions, found.signatures, strict=True):
            verify(roster.at(j).public_key, Tag.AGREE, hashed, signature)
        if len(set(found.positions)) < threshold(len(roster.entries), TERMS.corrupt):
            raise breach(f"shares for {len(found.positions)} signatures")
        if len(Openings.parse(answer.message).shares) != len(self.run.sum._delivered):  # noqa: SLF001
            raise breach("not one share for each who delivered")
        self.seen.released += 1

    def check(self) -> None:
        """Check that the sum is the sum, or that there is none and it says why."""
        machine, end = self.run.sum, self.run.sum.phase.name
        if machine.phase is Phase.SUMMED:
            self.check_sum()
        elif machine.reason is None or len(machine._running):  # noqa: SLF001
            raise breach(f"ended at {end} for {machine.reason}, with {len(machine._running)} numbers")  # noqa: SLF001
        else:
            if machine.reason not in self.excused():
                raise breach(f"ended for {machine.reason.name} although nobody gave it cause")
            end += f", {machine.reason.name}"
            self.tried("coordinator", machine.result)
        self.seen.ended[end] += 1
        for act in (machine.close, machine.cancel):
            try:
                act()
            except IllegalEvent:
                continue
            raise breach("a sum that is over went on")

    def excused(self) -> set[Reason]:
        """Return the ends that what happened may lead to."""
        return {
            *([Reason.TOO_FEW] if self.noise or self.drop or self.cheat else []),
            *([Reason.CANCELLED] if self.noise else []),
            *([Reason.DEALER] if self.shares_changed or self.spoilt else []),
            *([Reason.INSANE] if self.added or self.spoilt else []),
        }

    def check_sum(self) -> None:
        """Check a sum, bit for bit, against the plain one of those whose masked vectors were taken."""
        result = self.run.sum.result()
        numbers = [number for number in range(MOST) if public(key_of(number)) in result.cohort]
        if len(numbers) < TERMS_OF_ALL.cohort_min or self.spoilt & set(numbers):
            raise breach(f"a sum of {numbers}, of whom {self.spoilt} have no keys")
        plain = sum(words_of(number, TERMS_OF_ALL) + self.added.get(number, np.uint32(0)) for number in numbers)
        digest = hashlib.sha256(packed(np.asarray(plain, np.uint32), TERMS_OF_ALL.bits).data).digest()
        if result.digest != digest:
            raise breach(f"the sum of {numbers} is another one")


def wild_sum(seed: int, seen: Seen) -> None:
    """Play one sum: what happens in it is all decided by *seed*."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(5, MOST + 1))
    run = cohort(size, TERMS_OF_ALL, nonce=seed % 256, random=rng.bytes)
    noise, drop, cheat = (
        pick(rng, shares) for shares in ((0.0, 0.01, 0.05, 0.3), (0.0, 0.01, 0.05), (0.0, 0.01, 0.03))
    )
    Wild(rng, seen, run, noise, drop, cheat).play()
