"""What the store hands out: plain facts, frozen, without a session behind them."""

from dataclasses import dataclass
from enum import StrEnum

from potluck.coordinator.phases import Phase


class Standing(StrEnum):
    """Where a client stands with the run."""

    ACTIVE = "active"
    LEFT = "left"
    REVOKED = "revoked"


class LeaseState(StrEnum):
    """Where a lease is."""

    OPEN = "open"
    """The client may work on it, or offer what it made."""
    CLOSED = "closed"
    """A receipt was given: accepted, rejected or too late."""
    ABORTED = "aborted"
    """The client gave it back."""
    CANCELLED = "cancelled"
    """The coordinator has no use for new work on it; a sealed update is offered all the same."""


class UpdateState(StrEnum):
    """Where an accepted update is."""

    WAITING = "waiting"
    """In a round that still takes updates."""
    MASKED = "masked"
    """In a secure sum whose masks are being taken off: it counts with the sum, or is spent for nothing."""
    FIXED = "fixed"
    """An input of a round that is being combined."""
    COUNTED = "counted"
    """In a version."""
    DROPPED = "dropped"
    """Its round was abandoned or its version refused, or a rollback made it too old; credited."""
    WITHDRAWN = "withdrawn"
    """Its client left before the inputs were fixed."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The run as a whole."""

    run_id: str
    recipe_json: str
    version: int
    """The model pointer: the shared adapter's version now."""
    paused: bool
    fence: int
    """Number of the coordinator that may commit."""
    changes: int
    """Writing transactions, ever: equal numbers mean that nothing in the database changed."""
    bytes_in: int
    """Update bytes received, ever."""
    bytes_out: int
    """Adapter bytes sent, ever."""


@dataclass(frozen=True, slots=True)
class Member:
    """A client that enrolled."""

    client_id: str
    public_key: bytes
    name: str
    standing: Standing
    invite_id: bytes
    recipe_digest: bytes
    joined_s: float
    boot_id: bytes
    seqno: int
    seen_s: float


@dataclass(frozen=True, slots=True)
class InviteRecord:
    """An invite and what became of it."""

    invite_id: bytes
    token: str
    max_uses: int
    uses: int
    expires_s: float
    revoked: bool
    created_s: float


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A client's right and duty to make one update."""

    lease_id: bytes
    client_id: str
    round: int
    version: int
    state: LeaseState
    started_s: float
    ttl_s: float

    def alive(self, now_s: float) -> bool:
        """Whether its time has not run out."""
        return self.state is LeaseState.OPEN and now_s < self.started_s + self.ttl_s


@dataclass(frozen=True, slots=True)
class Upload:
    """The right to send one update, and how far it got."""

    upload_id: bytes
    lease_id: bytes
    digest: bytes
    size: int
    complete: bool


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """An accepted update."""

    lease_id: bytes
    client_id: str
    round: int
    version: int
    digest: bytes
    size: int
    examples: int
    steps: int
    staleness: int
    tokens: int
    loss_before: float
    loss_after: float
    state: UpdateState


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A receipt that was given, byte for byte."""

    lease_id: bytes
    serial: int
    digest: bytes
    verdict: int
    envelope: bytes
    detail: bytes
    """The ErrorDetail of a rejection, or empty."""
    flagged: bool = False
    """Whether the log says that its client sent other bytes, too."""


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round."""

    number: int
    phase: Phase
    opened_s: float
    started_s: float | None
    """When its first lease was granted."""
    ended_s: float | None
    reason: str
    """Why it was abandoned, or its version refused."""
    version: int | None
    """The version that it made."""
    log_index: int | None
    """The log's entry that tells how it ended; none while it goes on."""


@dataclass(frozen=True, slots=True)
class Input:
    """One update that a round combines, as fixed when the round closed."""

    digest: bytes
    version: int
    """The version that it started from."""
    examples: int
    steps: int
    lease_id: bytes


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the shared adapter."""

    version: int
    parent: int | None
    round: int | None
    """The round that made it; none for version 0 and for a rollback."""
    rolled_back_to: int | None
    checkpoint_digest: bytes
    """float64 master and the outer step's memory; empty at version 0."""
    adapter_digest: bytes
    """float32 factors that clients download; empty at version 0."""
    adapter_size: int
    seed: int
    """For the fresh rows of starts from this version."""
    contributors: int
    examples: int
    loss_before: float
    """Mean over the updates that reported one, in nats per token; 0 if none did."""
    loss_after: float
    truncation: float
    """Relative error of the cut to the master's rank."""
    log_index: int
    """The log's entry that made it."""
    made_s: float


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of the hash-chained log."""

    index: int
    entry: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one client has given, for the operator."""

    client_id: str
    name: str
    standing: Standing
    credit: int
    counted: int
    seen_s: float
