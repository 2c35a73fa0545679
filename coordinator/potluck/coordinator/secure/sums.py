"""One sum at the coordinator: takes messages, closes steps, and takes the masks off the sum alone."""

from dataclasses import dataclass
from typing import final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.aggregation.lowrank import Floats
from potluck.coordinator.secure.phases import Phase
from potluck.wire.secure.messages import Step
from potluck.wire.secure.parameters import Parameters
from potluck.wire.secure.reasons import Reason
from potluck.wire.secure.roster import Register


@final
@dataclass(frozen=True, slots=True)
class Site:
    """What the coordinator is, and how much of the machine a sum may take."""

    key: Ed25519PrivateKey
    register: Register
    threads: int = 1
    """That take masks off."""


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """What the lanes of a sum say about its cohort, all of it together."""

    count: int
    weight: int
    clipped: int
    loss: float | None
    """Mean loss by weight; None where the run does not report it."""
    tokens: int


@final
@dataclass(frozen=True, slots=True)
class Suspect:
    """A share that does not fit the others."""

    holder: bytes
    """Identity key of the client that sent it on."""
    dealer: bytes
    """Identity key of the client that made it.  From here it cannot be told which of the two is at fault."""


@final
@dataclass(frozen=True, slots=True)
class Summed:
    """A sum, and what a log entry about it holds."""

    total: Floats
    """Σ of the updates of all survivors (of w/W·x where weighted), float64, without the lanes."""
    weight: float
    """What to divide it by for the mean: the count, or Σw/W."""
    tally: Tally
    cohort: tuple[bytes, ...]
    """Identity keys of all survivors, in the order of the roster."""
    roster_hash: bytes
    survivors_hash: bytes
    digest: bytes
    """SHA-256 of the packed sum, lanes included."""
    suspects: tuple[Suspect, ...]


@final
class SecureSum:
    """The coordinator's half of a sum.  Not thread-safe; it has no clock: whoever drives it closes the steps."""

    def __init__(self, parameters: Parameters, site: Site) -> None:
        raise NotImplementedError

    @property
    def phase(self) -> Phase:
        """Where the sum is."""
        raise NotImplementedError

    @property
    def sid(self) -> bytes:
        """The sum's 32-byte name."""
        raise NotImplementedError

    @property
    def reason(self) -> Reason | None:
        """Why it ended; None while it has not, or with a sum."""
        raise NotImplementedError

    @property
    def deadline_s(self) -> int:
        """Seconds that the present step may take, from its start."""
        raise NotImplementedError

    def complete(self) -> bool:
        """Whether all who can still answer in this step have answered, so that it may be closed early."""
        raise NotImplementedError

    def take(self, step: Step, sender: bytes, message: bytes, vector: memoryview | None = None) -> None:
        """Take a client's message of *step*; *sender* is its proven identity key.

        A masked vector is checked against its signed hash, added to the running sum, and not kept.  A refused message
        changes nothing; the very same message again is refused as REPEATED, which a caller may answer as a success.

        Raises:
            SumRefusal: with the reason.
        """
        raise NotImplementedError

    def close(self) -> Phase:
        """Close the present step, at its deadline or when it is complete, and return the phase after it.

        Who has not answered is a dropout.  Closing the last step takes the masks off, which takes seconds.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """End the sum.  Nothing is revealed."""
        raise NotImplementedError

    def message(self, step: Step, receiver: bytes) -> bytes | None:
        """Return the coordinator's message of *step* for the client with that key; None before the step is closed.

        OPEN is for everybody.  At the end only the closing message is left, whatever is asked for.

        Raises:
            SumRefusal: STRANGER, where the receiver is not in the sum.
        """
        raise NotImplementedError

    def result(self) -> Summed:
        """Return the sum.

        Raises:
            SumRefusal: it ended without one, with the reason.
            IllegalEvent: it has not ended.
        """
        raise NotImplementedError
