"""What a session tells whoever watches it; nothing here prints, and nothing depends on anybody watching."""

from dataclasses import dataclass
from enum import Enum
from typing import final

from potluck.client.records import KeptReceipt
from potluck.client.tasks import TaskState


class When(Enum):
    """On which side of a transaction."""

    BEFORE = "before the new state reaches the disk"
    AFTER = "after it did"


class Phase(Enum):
    """What is being counted."""

    FETCH = "downloading the shared adapter"
    TRAIN = "training"
    UPLOAD = "sending the update"


@final
@dataclass(frozen=True, slots=True)
class Moved:
    """A task is in a new state, durably."""

    lease_id: bytes
    round: int
    version: int
    state: TaskState
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Progressed:
    """Something long got further: bytes, or steps when training."""

    phase: Phase
    done: int
    total: int
    loss: float | None = None


@final
@dataclass(frozen=True, slots=True)
class CheckedIn:
    """The coordinator answered a check-in."""

    version: int
    answer: str  # in words
    clock_offset_s: float  # the coordinator's clock minus ours; shown, never used


@final
@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing to do until then: what, why, until when."""

    why: str
    seconds: float | None  # None: until the gate opens


@final
@dataclass(frozen=True, slots=True)
class Received:
    """A receipt is in."""

    receipt: KeptReceipt


@final
@dataclass(frozen=True, slots=True)
class Slept:
    """The machine was asleep."""

    seconds: float


@final
@dataclass(frozen=True, slots=True)
class Offline:
    """A call failed; it is tried again."""

    why: str
    seconds: float


@final
@dataclass(frozen=True, slots=True)
class GateTurned:
    """The gate opened or shut."""

    sentence: str  # empty: open


@final
@dataclass(frozen=True, slots=True)
class Trouble:
    """Something went wrong that does not end the session."""

    message: str
    fix: str


Happening = Moved | Progressed | CheckedIn | Waiting | Received | Slept | Offline | GateTurned | Trouble
