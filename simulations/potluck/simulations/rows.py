"""What a simulation writes down: one row a round, one row an update, one row a client; reports read nothing else."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class RoundRow:
    """A round that ended."""

    round: int
    version: int
    """Of the shared adapter after it; unchanged where the round made none."""
    ended: str
    """A name of potluck.coordinator.phases.Phase: COMMITTED, ABANDONED or REFUSED."""
    reason: str
    """Why it made no version; empty if it made one."""
    began_h: float
    """Simulated hours since the run began at which its first lease was given."""
    ended_h: float
    """Simulated hours at which it was combined."""
    leases: int
    updates: int
    """Updates that it combined."""
    dropped: int
    """Leases that came to nothing: the client went away, or its time ran out."""
    late: int
    """Updates that came and were not wanted any more."""
    hostile: int
    """Of the updates that it combined, those of hostile clients."""
    bytes_up: int
    bytes_down: int
    tokens: int
    """Learned from, by the updates that it combined."""
    loss: float
    """Held-out nats per token of the version, over all measured clients' tokens; NaN where it was not measured."""
    loss_worst_decile: float
    """Mean loss of the tenth of the measured clients that the version serves worst; NaN where it was not measured."""
    truncation: float
    """Relative error of the cut to the master's rank."""
    cpu_s: float
    """CPU-seconds of this machine that it cost, training included."""
    wall_s: float


@final
@dataclass(frozen=True, slots=True)
class UpdateRow:
    """A lease that ended, with or without an update."""

    round: int
    client: str
    version: int
    """That it started from."""
    outcome: str
    """counted, late, dropped (the client went away, or its training failed), expired, rejected."""
    staleness: int
    leased_h: float
    ended_h: float
    download_s: float
    train_s: float
    upload_s: float
    bytes_up: int
    examples: int
    steps: int
    tokens: int
    loss_before: float
    loss_after: float
    share: float
    """What it claims of the round: its share by raw weight; NaN where it was not combined."""
    weight: float
    """What it counted in the end; NaN where it was not combined."""
    reason: str
    """Why it was weighted down, left out or never made, in words; empty if it was not."""
    hostile: bool


@final
@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client, as the world has it, and its held-out loss under the last version that was measured."""

    client: str
    device: str
    rank: int
    examples: int
    bytes_of_text: int
    hostile: bool
    leases: int
    counted: int
    loss_base: float
    loss: float
