"""What the outbox remembers, as plain values: its rows never leave it."""

from dataclasses import dataclass
from typing import final

from potluck.client.tasks import SEALED, TERMINAL, MembershipState, TaskState


@final
@dataclass(frozen=True, slots=True)
class Membership:
    """This home's place in one run."""

    state: MembershipState
    token: str  # the invite, as it was passed on
    run_id: str
    run_name: str
    coordinator_id: str
    recipe_json: str  # what the owner consented to
    recipe_digest: bytes  # SHA-256 of recipe_json, 32 bytes
    name: str  # what the owner wants to be called; may be empty
    data_path: str
    examples: int  # training samples found there
    pending: bool = False  # the operator has to approve it first


@final
@dataclass(frozen=True, slots=True)
class Sealed:
    """A finished update; its bytes are the file blobs/<digest in hex>."""

    digest: bytes  # SHA-256, 32 bytes
    size: int  # bytes
    examples: int
    steps: int
    tokens: int
    loss_before: float  # nats per token on the client's own held-out text; 0 if unknown
    loss_after: float


@final
@dataclass(frozen=True, slots=True)
class Left:
    """What a codec left out of an update; its numbers are the file blobs/<digest in hex>."""

    fit: bytes  # SHA-256 of the module shapes, rank, scale and init that it belongs to
    digest: bytes  # SHA-256 of the deltas, as fp32
    basis: bytes  # SHA-256 of the start that they are deltas from, as fp16


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """What a lease asks for; never changes."""

    lease_id: bytes  # 16 bytes
    run_id: str
    round: int
    version: int
    adapter_digest: bytes  # empty at version 0
    adapter_size: int
    seed: int
    manifest_digest: bytes
    max_update_bytes: int
    ttl_s: float


@final
@dataclass(frozen=True, slots=True)
class Task:
    """One lease and how far it got."""

    terms: Terms
    state: TaskState
    spent_s: float  # running time in this state
    steps_done: int
    steps_total: int
    sealed: Sealed | None
    upload_id: bytes
    reason: str  # why it was abandoned, in words

    @property
    def lease_id(self) -> bytes:
        """The lease's id, 16 bytes."""
        return self.terms.lease_id

    @property
    def is_sealed(self) -> bool:
        """Whether the update is in the outbox and waits to be delivered."""
        return self.state in SEALED

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in TERMINAL


@final
@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt as the coordinator signed it, with what it says."""

    envelope: bytes  # the serialised Envelope, for anyone to verify
    coordinator_id: str
    run_id: str
    lease_id: bytes
    round: int
    version: int
    digest: bytes
    verdict: str  # ACCEPTED, TOO_LATE, REJECTED
    examples: int
    staleness_weight: float
    credit: int
    serial: int
    received_unix_s: float


@final
@dataclass(frozen=True, slots=True)
class Control:
    """What the owner asked for, perhaps from another process."""

    paused: bool = False
    paused_until_unix_s: float | None = None  # None while paused: until resumed
    finish: bool = False
    leave: bool = False


@final
@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of messages sent and received since the home was made, without what TLS adds."""

    sent: int = 0
    received: int = 0


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """A run's shared adapter that is on this machine, as the blob with that SHA-256."""

    run_id: str
    version: int
    digest: bytes


@final
@dataclass(frozen=True, slots=True)
class Now:
    """What the running process last said about itself."""

    pid: int = 0
    activity: str = ""  # one line: what, why, until when
    reasons: tuple[str, ...] = ()  # names of gate.Reason
    next_check_in_unix_s: float | None = None
    written_unix_s: float = 0.0
