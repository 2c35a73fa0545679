"""One client in one sum: a message in, a message out, or a refusal that ends it and destroys its secrets."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from potluck.aggregation.secure.lanes import vector_size
from potluck.aggregation.secure.ring import Words, packed
from potluck.aggregation.secure.thresholds import threshold
from potluck.client.secure.phases import Phase, after
from potluck.client.secure.policy import Policy, check, differing, floor_of, start_of
from potluck.client.secure.secrets import Secrets, deal, drawn, system_bytes
from potluck.client.secure.used import UsedSums
from potluck.wire.secure.agreeing import agreed, bound_to, commitment, mask_key, public_of, sealed, share_key, unsealed
from potluck.wire.secure.masks import add_masks
from potluck.wire.secure.messages import (
    SHARE_BYTES,
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
from potluck.wire.secure.roster import Entry, Register, Roster, entry
from potluck.wire.secure.signatures import Tag, delivered_hash, signed, sum_id, survivors_hash, verify

_DISTRUST: Final = "do not trust the coordinator"


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """Who the client is in the run, and what it keeps and asks."""

    key: Ed25519PrivateKey
    certificate: bytes
    """Empty where the run has no registrar."""
    register: Register
    used: UsedSums
    random: Callable[[int], bytes] = system_bytes
    """Returns that many random bytes."""


@final
@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a client sends."""

    step: Step
    message: bytes
    vector: NDArray[np.uint8] | None = None
    """The masked vector, packed, with a message of step MASK."""


@final
class Participation:
    """The client's half of a sum.  Not thread-safe.

    *words* are the update as with_lanes returned it.  They are masked where they lie: from then on only the masked
    ones exist.  *contribution* names the update (see UsedSums).
    """

    def __init__(self, standing: Standing, policy: Policy, words: Words, contribution: bytes) -> None:
        self._standing, self._policy, self._contribution = standing, policy, contribution
        self._words: Words | None = words
        self._phase = Phase.WAITING
        self._sid = b""
        self._notes: tuple[str, ...] = ()
        self._secrets: Secrets | None = None
        self._own: Entry | None = None
        self._roster, self._roster_hash = Roster(()), b""
        self._position = self._threshold = 0
        self._delivered: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._end: Closing | None = None

    @property
    def phase(self) -> Phase:
        """Where this client is in the sum."""
        return self._phase

    @property
    def sid(self) -> bytes:
        """The sum's 32-byte name; empty before it was opened."""
        return self._sid

    @property
    def notes(self) -> tuple[str, ...]:
        """What the owner should know although it was allowed."""
        return self._notes

    @property
    def end(self) -> Closing | None:
        """What the coordinator said at the end; None before it."""
        return self._end

    def take(self, step: Step, message: bytes) -> Outgoing | None:
        """Take the coordinator's message of *step* and return the answer; None after the last.

        Raises:
            SumRefusal: the message was refused.  The client is out of the sum and its secrets are gone.
        """
        try:
            following = after(self._phase, step)
            answer = _ANSWERS[step](self, message)
        except BaseException:
            self.leave()
            raise
        self._phase = following
        return answer

    def leave(self) -> None:
        """Leave the sum and destroy the secrets; without effect the second time."""
        self._forget()
        if self._phase is not Phase.DONE:
            self._phase = Phase.LEFT

    def _forget(self) -> None:
        if self._secrets is not None:
            self._secrets.destroy()
        self._secrets = self._words = None

    def _open(self, message: bytes) -> Outgoing:
        """Answer the opening with two keys made for this sum."""
        opening = Opening.parse(message)
        self._sid = sum_id(opening.parameters)
        verify(self._policy.coordinator_key, Tag.OPENING, self._sid, opening.signature)
        parameters = Parameters.parse(opening.parameters)
        check(self._policy, parameters)
        terms = parameters.terms
        if self._words is None or len(self._words) != vector_size(terms.ring, terms.max_weight):
            raise SumRefusal("my vector is not of these terms", reason=Reason.WRONG_LENGTH, fix="train again")
        mine = self._secrets = drawn(self._standing.random)
        standing = self._standing
        self._own = entry(standing.key, self._sid, standing.certificate, public_of(mine.channel), public_of(mine.mask))
        return Outgoing(Step.ADVERTISE, self._own.to_bytes())

    def _share(self, message: bytes) -> Outgoing:
        """Answer the roster with shares of the two secrets, sealed for each of the others."""
        roster = self._roster = Roster.parse(message)
        roster.verify(self._sid, self._standing.register)
        if self._own not in roster.entries:
            raise SumRefusal("not in the roster as I sent it", reason=Reason.OWN_ENTRY, fix=_DISTRUST)
        self._position, self._roster_hash = roster.entries.index(self._own) + 1, roster.hash
        clients, terms = len(roster.entries), self._policy.terms
        self._large_enough(clients, 0)
        if clients > terms.cohort_max:
            raise SumRefusal(f"{clients} in the roster", reason=Reason.BAD_ROSTER, fix=_DISTRUST)
        self._threshold = threshold(clients, terms.corrupt)
        mine = self._mine()
        channel = {j: agreed(mine.channel, roster.at(j).channel_key) for j in self._others(roster.positions)}
        for j in channel:
            agreed(mine.mask, roster.at(j).mask_key)  # refused here, before anybody relies on this client
        self._standing.used.claim(self._sid, self._contribution)
        masks = deal(mine.mask, self._threshold, clients, self._standing.random)
        seeds = deal(mine.seed, self._threshold, clients, self._standing.random)
        mine.of_masks[self._position] = bytearray(masks[self._position - 1])
        mine.of_seeds[self._position] = bytearray(seeds[self._position - 1])
        boxes = tuple(
            sealed(
                share_key(secret, self._sid, self._own.node, roster.at(j).node),
                masks[j - 1] + seeds[j - 1],
                bound_to(self._sid, self._roster_hash, self._own.node, roster.at(j).node),
            )
            for j, secret in channel.items()
        )
        committed = commitment(self._sid, bytes(mine.seed))
        payload = Shares.payload(self._sid, self._roster_hash, boxes, committed)
        return Outgoing(Step.SHARE, Shares(boxes, committed, signed(self._standing.key, Tag.SHARE, payload)).to_bytes())

    def _mask(self, message: bytes) -> Outgoing:
        """Answer the others' shares with the masked vector."""
        delivery = Delivery.parse(message)
        self._among(delivery.delivered, tuple(self._roster.positions))
        self._large_enough(len(delivery.delivered), self._threshold)
        others = self._others(delivery.delivered)
        opened = sum([self._unseal(j, box) for j, box in zip(others, delivery.sealed, strict=True)])
        if opened < len(others):
            self._notes += (f"{len(others) - opened} of {len(others)} sealed shares did not open",)
        if opened + 1 < self._threshold:
            raise SumRefusal(f"{opened} of {len(others)} open", reason=Reason.BAD_SHARE, fix="wait for the next sum")
        self._delivered = delivery.delivered
        mine, node, words = self._mine(), self._roster.at(self._position).node, self._words
        if words is None:
            raise SumRefusal("the vector is gone", reason=Reason.OVER)
        masks = [(bytes(mine.seed), 1)]
        for j in others:
            peer = self._roster.at(j)
            key = mask_key(agreed(mine.mask, peer.mask_key), self._sid, node, peer.node)
            masks.append((key, 1 if self._position < j else -1))
        add_masks(words, masks)
        self._words = None
        vector = packed(words, self._policy.terms.bits)
        digest = hashlib.sha256(vector.data).digest()
        delivered = delivered_hash(self._sid, self._roster_hash, delivery.delivered)
        payload = Masked.payload(self._sid, self._roster_hash, delivered, digest)
        signature = signed(self._standing.key, Tag.MASKED, payload)
        return Outgoing(Step.MASK, Masked(digest, signature).to_bytes(), vector)

    def _unseal(self, j: int, box: bytes) -> bool:
        """Keep the two shares that the client at *j* dealt to this one, and return whether they could be opened.

        Where they could not, it keeps zeros, which will not fit the others' shares and so tell of the dealer.  Were
        that a reason to leave, one member could make everybody leave every sum, and nobody would know who it was.
        """
        mine, node, peer = self._mine(), self._roster.at(self._position).node, self._roster.at(j)
        key = share_key(agreed(mine.channel, peer.channel_key), self._sid, peer.node, node)
        both, opened = bytes(2 * SHARE_BYTES), False
        with suppress(SumRefusal):
            both, opened = unsealed(key, box, bound_to(self._sid, self._roster_hash, peer.node, node)), True
        mine.of_masks[j], mine.of_seeds[j] = bytearray(both[:SHARE_BYTES]), bytearray(both[SHARE_BYTES:])
        return opened

    def _agree(self, message: bytes) -> Outgoing:
        """Answer the list of survivors with a signature over it, the only one in this sum; the update is spent.

        Not later: others may reveal the sum while this client is told nothing more of it, and a second sum with the
        same update, without them, would differ from the first by theirs alone.
        """
        survivors = Survivors.parse(message)
        self._among(survivors.positions, self._delivered)
        self._large_enough(len(survivors.positions), self._threshold)
        hashed = survivors_hash(self._sid, self._roster_hash, survivors.positions)
        verify(self._policy.coordinator_key, Tag.SURVIVORS, hashed, survivors.signature)
        cohort = [self._roster.at(j).node for j in survivors.positions]
        self._notes += differing(self._policy, frozenset(cohort), self._standing.used)
        self._standing.used.spend(self._sid, self._contribution, cohort, start_of(self._policy))
        self._survivors = survivors.positions
        return Outgoing(Step.AGREE, Agreement(signed(self._standing.key, Tag.AGREE, hashed)).to_bytes())

    def _unmask(self, message: bytes) -> Outgoing:
        """Answer the others' signatures with one share for each client."""
        agreements = Agreements.parse(message)
        hashed = survivors_hash(self._sid, self._roster_hash, self._survivors)
        valid = 0
        for j, signature in zip(agreements.positions, agreements.signatures, strict=True):
            if j not in self._survivors:
                raise SumRefusal(f"{j} did not survive and agrees", reason=Reason.BAD_LIST, fix=_DISTRUST)
            verify(self._roster.at(j).public_key, Tag.AGREE, hashed, signature)
            valid += 1
        if valid < self._threshold:
            raise SumRefusal(f"{valid} of {self._threshold}", reason=Reason.NO_CONSENSUS, fix="wait for the next sum")
        mine = self._mine()
        shares = tuple(bytes((mine.of_seeds if j in self._survivors else mine.of_masks)[j]) for j in self._delivered)
        self._forget()
        return Outgoing(Step.UNMASK, Openings(shares).to_bytes())

    def _close(self, message: bytes) -> None:
        """Take note of how it ended."""
        closing = Closing.parse(message)
        payload = Closing.payload(self._sid, closing.reason, closing.count, closing.digest)
        verify(self._policy.coordinator_key, Tag.RESULT, payload, closing.signature)
        self._forget()
        self._end = closing

    def _mine(self) -> Secrets:
        if self._secrets is None:
            raise SumRefusal("the secrets are gone", reason=Reason.OVER, fix="wait for the next sum")
        return self._secrets

    def _others(self, positions: range | tuple[int, ...]) -> list[int]:
        return [j for j in positions if j != self._position]

    def _among(self, positions: tuple[int, ...], of: tuple[int, ...]) -> None:
        """Refuse a list that lacks this client, or has somebody who cannot be in it."""
        if self._position not in positions or not set(positions) <= set(of):
            raise SumRefusal(f"{positions} of {of}", reason=Reason.BAD_LIST, fix="wait for the next sum")

    def _large_enough(self, clients: int, least: int) -> None:
        """Refuse fewer clients than the threshold, or than the owner asks for."""
        if clients < max(least, floor_of(self._policy)):
            raise SumRefusal(
                f"{clients}, at least {max(least, floor_of(self._policy))}",
                reason=Reason.SMALL_COHORT,
                fix="wait for the next sum",
            )


_ANSWERS: Final[Mapping[Step, Callable[[Participation, bytes], Outgoing | None]]] = {
    Step.OPEN: Participation._open,  # noqa: SLF001 - the table of this class
    Step.ADVERTISE: Participation._share,  # noqa: SLF001
    Step.SHARE: Participation._mask,  # noqa: SLF001
    Step.MASK: Participation._agree,  # noqa: SLF001
    Step.AGREE: Participation._unmask,  # noqa: SLF001
    Step.UNMASK: Participation._close,  # noqa: SLF001
}
