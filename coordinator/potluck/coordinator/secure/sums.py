"""One sum at the coordinator: takes messages, closes steps, and takes the masks off the sum alone.

A masked vector is added to the running sum as soon as its signed hash is checked, and nothing of it is kept.  So memory
is 4 bytes a coordinate, the vector that is being taken, and half a MiB a thread; reading a sum takes 24 more a moment.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.secure.lanes import vector_size
from potluck.aggregation.secure.thresholds import most_corrupt, threshold
from potluck.coordinator.secure import intake
from potluck.coordinator.secure.phases import TAKEN_IN, Event, IllegalEvent, Phase, after, in_turn
from potluck.coordinator.secure.results import Summed, summed
from potluck.coordinator.secure.saying import agreements, closing, delivery, survivors
from potluck.coordinator.secure.unmasking import Revealed, Suspect, Undecodable, masks_of
from potluck.wire.secure.masks import add_masks
from potluck.wire.secure.messages import Opening, Shares, Step
from potluck.wire.secure.parameters import Parameters
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Entry, Register, Roster
from potluck.wire.secure.signatures import Tag, signed, sum_id


@final
@dataclass(frozen=True, slots=True)
class Site:
    """What the coordinator is, and how much of the machine a sum may take."""

    key: Ed25519PrivateKey
    register: Register
    threads: int = 1
    """That take masks off."""
    noised: bool = False
    """Whether sums are told of with noise only: then nothing of the updates in one decides whether it is dropped."""


@final
class SecureSum:
    """The coordinator's half of a sum.  Not thread-safe; it has no clock: whoever drives it closes the steps."""

    def __init__(self, parameters: Parameters, site: Site) -> None:
        self._terms, self._deadlines_s, self._site = parameters.terms, parameters.deadlines_s, site
        spelled = parameters.to_bytes()
        self._sid = sum_id(spelled)
        self._opening = Opening(spelled, signed(site.key, Tag.OPENING, self._sid)).to_bytes()
        self._phase = Phase.ADVERTISING
        self._reason: Reason | None = None
        self._suspects: tuple[Suspect, ...] = ()
        self._heard: dict[tuple[Step, bytes], bytes] = {}
        self._entries: dict[bytes, Entry] = {}
        self._roster, self._roster_hash, self._threshold, self._closing = Roster(()), b"", 0, b""
        self._shares: dict[int, Shares] = {}
        self._delivered: tuple[int, ...] = ()
        self._running = np.zeros(0, np.uint32)
        self._masked: set[int] = set()
        self._survivors: tuple[int, ...] = ()
        self._agreements: dict[int, bytes] = {}
        self._openings: dict[int, dict[int, int]] = {}
        self._summed: Summed | None = None

    @property
    def phase(self) -> Phase:
        """Where the sum is."""
        return self._phase

    @property
    def sid(self) -> bytes:
        """The sum's 32-byte name."""
        return self._sid

    @property
    def reason(self) -> Reason | None:
        """Why it ended; None while it has not, or with a sum."""
        return self._reason

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """Shares that did not fit, of a sum or of one that ended because of them."""
        return self._suspects

    @property
    def deadline_s(self) -> int:
        """Seconds that the present step may take, from its start; 0 at the end."""
        step = TAKEN_IN.get(self._phase)
        return 0 if step is None else self._deadlines_s[step - 1]

    def complete(self) -> bool:
        """Whether all who can still answer in this step have answered, so that it may be closed early."""
        if self._phase not in _CLOSES:
            return False
        answered, everybody, _ = self._counted()
        return answered == everybody

    def take(self, step: Step, sender: bytes, message: bytes, vector: memoryview | None = None) -> None:
        """Take a client's message of *step*; *sender* is its proven identity key.

        A masked vector is checked against its signed hash, added to the running sum, and not kept.  A refused message
        changes nothing; the very same message again is refused as REPEATED, which a caller may answer as a success.

        Raises:
            SumRefusal: with the reason.
        """
        digest = hashlib.sha256(message).digest()
        if (heard := self._heard.get((step, sender))) is not None:
            same = Reason.REPEATED if heard == digest else Reason.CONTRADICTED
            raise SumRefusal(step.name, reason=same, fix="wait for the next step")
        in_turn(step, self._phase)
        if step is Step.ADVERTISE:
            self._advertised(sender, message)
        elif step is Step.MASK:
            self._mask(self._position(step, sender), message, vector)
        else:
            _TAKES[step](self, self._position(step, sender), message)
        self._heard[step, sender] = digest

    def close(self) -> Phase:
        """Close the present step, at its deadline or when it is complete, and return the phase after it.

        Who has not answered is a dropout.  Closing the last step takes the masks off, which takes seconds.

        Raises:
            IllegalEvent: the sum is over.
        """
        if self._phase not in _CLOSES:
            raise IllegalEvent(f"a step is closed while {self._phase.name}")
        answered, _, least = self._counted()
        if answered < least:
            self._ended(Event.TOO_FEW, Reason.TOO_FEW)
        else:
            _CLOSES[self._phase](self)
        if self._reason is None:
            self._phase = after(self._phase, Event.ENOUGH)
        return self._phase

    def cancel(self) -> None:
        """End the sum.  Nothing is revealed.

        Raises:
            IllegalEvent: it is over.
        """
        self._ended(Event.CANCELLED, Reason.CANCELLED)

    def message(self, step: Step, receiver: bytes) -> bytes | None:
        """Return the coordinator's message of *step* for the client with that key; None before the step is closed.

        OPEN is for everybody.  At the end only the closing message is left, whatever is asked for.

        Raises:
            SumRefusal: STRANGER, where the receiver is not in the sum; LATE, where it dropped out.
        """
        if step is Step.OPEN and not self._closing:
            return self._opening
        if receiver not in self._entries:
            raise SumRefusal(f"{receiver.hex()[:16]}…", reason=Reason.STRANGER, fix="wait for the next sum")
        if self._closing:
            return self._closing
        if TAKEN_IN[self._phase] <= step:
            return None
        if step is Step.ADVERTISE:
            return self._roster.to_bytes()
        return _SAYS[step](self, self._position(Step(step + 1), receiver))

    def result(self) -> Summed:
        """Return the sum.

        Raises:
            SumRefusal: it ended without one, with the reason.
            IllegalEvent: it has not ended.
        """
        if self._reason is not None:
            raise SumRefusal("no sum", reason=self._reason, fix="wait for the next sum; nothing was revealed")
        if self._summed is None:
            raise IllegalEvent(f"a result is asked for while {self._phase.name}", fix="close the steps before")
        return self._summed

    def _counted(self) -> tuple[int, int, int]:
        """Return how many answered in this step, how many still can in all, and how many must."""
        stay = max(self._threshold, self._terms.cohort_min)
        return {
            Phase.ADVERTISING: (len(self._entries), self._terms.cohort_max, self._terms.cohort_min),
            Phase.SHARING: (len(self._shares), len(self._roster.entries), stay),
            Phase.MASKING: (len(self._masked), len(self._delivered), stay),
            Phase.AGREEING: (len(self._agreements), len(self._survivors), self._threshold),
            Phase.UNMASKING: (len(self._openings), len(self._survivors), self._threshold),
        }[self._phase]

    def _position(self, step: Step, sender: bytes) -> int:
        """Return the sender's position, if it may take part in *step*.

        Raises:
            SumRefusal: STRANGER or LATE.
        """
        position = self._roster.position_of(sender)
        allowed = {Step.MASK: self._delivered, Step.AGREE: self._survivors, Step.UNMASK: self._survivors}
        if position not in allowed.get(step, (position,)):
            raise SumRefusal(f"client {position} dropped out", reason=Reason.LATE, fix="wait for the next sum")
        return position

    def _advertised(self, sender: bytes, message: bytes) -> None:
        found = intake.entry_of(message, sender, self._sid, self._site.register)
        if len(self._entries) == self._terms.cohort_max:
            raise SumRefusal(f"{self._terms.cohort_max}", reason=Reason.FULL, fix="wait for the next sum")
        taken = {key for one in self._entries.values() for key in (one.channel_key, one.mask_key)}
        if found.channel_key in taken or found.mask_key in taken or found.channel_key == found.mask_key:
            raise SumRefusal("a key stands twice", reason=Reason.WEAK_KEY, fix="make keys of your own")
        self._entries[sender] = found

    def _share(self, position: int, message: bytes) -> None:
        self._shares[position] = intake.shares_of(message, self._sid, self._roster, self._roster_hash, position)

    def _mask(self, position: int, message: bytes, vector: memoryview | None) -> None:
        found = intake.check_vector(vector, len(self._running), self._terms.bits, message)
        key = self._roster.at(position).public_key
        intake.check_masked(found, self._sid, self._roster_hash, self._delivered, key)
        if vector is not None:
            intake.add_packed(self._running, vector, self._terms.bits)
        self._masked.add(position)

    def _agree(self, position: int, message: bytes) -> None:
        key = self._roster.at(position).public_key
        self._agreements[position] = intake.agreement_of(message, self._sid, self._roster_hash, self._survivors, key)

    def _unmask(self, position: int, message: bytes) -> None:
        self._openings[position] = intake.openings_of(message, self._delivered)

    def _close_advertising(self) -> None:
        self._roster = Roster(tuple(sorted(self._entries.values(), key=lambda one: one.node)))
        self._roster_hash = self._roster.hash
        self._threshold = threshold(len(self._roster.entries), self._terms.corrupt)

    def _close_sharing(self) -> None:
        self._delivered = tuple(sorted(self._shares))
        self._running = np.zeros(vector_size(self._terms.ring, self._terms.max_weight), np.uint32)

    def _close_masking(self) -> None:
        self._survivors = tuple(sorted(self._masked))

    def _close_unmasking(self) -> None:
        """Take the masks off the sum and read it."""
        committed = {j: shares.commitment for j, shares in self._shares.items()}
        known = Revealed(
            self._sid,
            self._roster,
            self._threshold,
            self._delivered,
            self._survivors,
            committed,
            self._openings,
            most_corrupt(len(self._roster.entries), self._terms.corrupt),
        )
        try:
            masks, self._suspects = masks_of(known)
            add_masks(self._running, masks, self._site.threads)
            self._summed = summed(self._running, self._terms, known, self._suspects, noised=self._site.noised)
        except Undecodable as error:
            self._suspects = (error.suspect,)
            self._ended(Event.UNUSABLE, Reason.DEALER)
        except BadUpdate:
            self._ended(Event.UNUSABLE, Reason.INSANE)
        else:
            self._closing = closing(
                self._site.key, self._sid, None, count=len(self._survivors), digest=self._summed.digest
            )
            self._forget()

    def _ended(self, event: Event, reason: Reason) -> None:
        self._phase, self._reason = after(self._phase, event), reason
        self._closing = closing(self._site.key, self._sid, reason)
        self._forget()

    def _forget(self) -> None:
        self._running = np.zeros(0, np.uint32)
        self._shares, self._agreements, self._openings = {}, {}, {}


_TAKES: Final[Mapping[Step, Callable[[SecureSum, int, bytes], None]]] = {
    Step.SHARE: SecureSum._share,  # noqa: SLF001 - the tables of this class
    Step.AGREE: SecureSum._agree,  # noqa: SLF001
    Step.UNMASK: SecureSum._unmask,  # noqa: SLF001
}
_CLOSES: Final[Mapping[Phase, Callable[[SecureSum], None]]] = {
    Phase.ADVERTISING: SecureSum._close_advertising,  # noqa: SLF001
    Phase.SHARING: SecureSum._close_sharing,  # noqa: SLF001
    Phase.MASKING: SecureSum._close_masking,  # noqa: SLF001
    Phase.AGREEING: lambda _: None,  # what they agreed to was fixed one step before
    Phase.UNMASKING: SecureSum._close_unmasking,  # noqa: SLF001
}
_SAYS: Final[Mapping[Step, Callable[[SecureSum, int], bytes]]] = {
    Step.SHARE: lambda told, position: delivery(told._shares, position),  # noqa: SLF001
    Step.MASK: lambda told, _: survivors(told._site.key, told._sid, told._roster_hash, told._survivors),  # noqa: SLF001
    Step.AGREE: lambda told, _: agreements(told._agreements),  # noqa: SLF001
}
