"""Where a simulated run stands between two events.  All of it is plain JSON; bytes are named by their SHA-256."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import final


class Kind(IntEnum):
    """What happens, in the order in which things happen that happen at the same moment."""

    DEADLINE = 0
    CHECK_IN = 1
    FETCHED = 2
    TRAINED = 3
    ARRIVED = 4
    GONE = 5


@final
@dataclass(frozen=True, slots=True, order=True)
class Happening:
    """An event to come."""

    at_s: float
    kind: Kind
    sequence: int
    subject: int
    """A round of a DEADLINE, a person of a CHECK_IN, a lease of the others."""


@final
@dataclass(frozen=True, slots=True)
class Left:
    """What a codec left out of a client's update, and the start that it belongs to; both names of bytes."""

    residual: str
    basis: str


@final
@dataclass(frozen=True, slots=True)
class Sealed:
    """An update as it travels."""

    digest: str
    size: int
    examples: int
    steps: int
    tokens: int
    loss_before: float
    loss_after: float
    left: Left | None


@final
@dataclass(slots=True)
class Lease:
    """A lease that has not ended."""

    number: int
    person: int
    round: int
    version: int
    granted_s: float
    download_s: float
    gives_up: bool
    """Whether the client will give up during it."""
    train_s: float = 0.0
    upload_s: float = 0.0
    dead: list[tuple[float, float]] = field(default_factory=list)
    """Spans in which its time has run out, for nobody renewed it."""
    sealed: Sealed | None = None
    failed: str = ""
    """Why its training came to nothing; empty where it did not."""

    def alive(self, now_s: float) -> bool:
        """Whether its time has not run out."""
        return not any(begin <= now_s < end for begin, end in self.dead)


@final
@dataclass(slots=True)
class Client:
    """What is remembered of a person."""

    train_s: float | None = None
    """What its training takes: as long as the first time."""
    asked: int = 0
    """Check-ins that got no work."""
    counted_version: int = -1
    """The version that its last update started from that is an input of a round."""
    counted_round: int = -1
    left: Left | None = None
    examples: int = 0
    leases: int = 0
    counted: int = 0
    loss_base: float | None = None
    loss: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Published:
    """A version of the shared adapter, by the names of its bytes; both empty at version 0."""

    checkpoint: str = ""
    adapter: str = ""
    size: int = 0


@final
@dataclass(slots=True)
class Tally:
    """What the present round has come to so far."""

    began_s: float | None = None
    """When its first lease was given."""
    leases: int = 0
    dropped: int = 0
    late: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@final
@dataclass(slots=True)
class Standing:
    """The run."""

    clients: list[Client]
    phase: str
    at_s: float = 0.0
    version: int = 0
    round: int = 1
    tally: Tally = field(default_factory=Tally)
    versions: dict[int, Published] = field(default_factory=lambda: {0: Published()})
    """Those that somebody may still need."""
    events: list[Happening] = field(default_factory=list)
    sequence: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)
    waiting: list[Lease] = field(default_factory=list)
    """Leases whose updates the open round has."""
    pending: list[int] = field(default_factory=list)
    """Leases that have to be trained, in the order in which they were given."""
    ahead: dict[int, Sealed | str] = field(default_factory=dict)
    """What people are known to send if they get a lease on this version, or why nothing; none between two rounds."""
    given: int = 0
    """Leases that were ever given."""
    rounds_written: int = 0
    updates_written: int = 0

    @property
    def published(self) -> Published:
        """The present version."""
        return self.versions[self.version]

    def needed(self) -> set[str]:
        """Return the names of all bytes that may still be read, but for versions."""
        leases = [*self.leases.values(), *self.waiting]
        sealed = [lease.sealed for lease in leases if lease.sealed is not None]
        lefts = [one.left for one in sealed] + [one.left for one in self.clients]
        return {one.digest for one in sealed} | {name for one in lefts if one for name in (one.residual, one.basis)}
