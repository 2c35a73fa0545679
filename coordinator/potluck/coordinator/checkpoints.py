"""The coordinator's own state between rounds as bytes: the float64 master, and what the outer step remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

from potluck.aggregation import Limits, LowRank, State, decode, encode, from_tensors, to_tensors

MASTER: Final = "master."
MOMENTUM: Final = "momentum."
TRUSTED: Final = Limits(max_bytes=1 << 40, max_tensors=1 << 20, max_values=1 << 37)
"""For what this coordinator wrote itself and finds again by its digest."""


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A master and the state of its outer step; empty at version 0."""

    master: Mapping[str, LowRank] = field(default_factory=dict)
    state: State = field(default_factory=State)

    def to_bytes(self) -> bytes:
        """Return the one encoding of this checkpoint."""
        tensors = {MASTER + name: value for name, value in to_tensors(self.master).items()}
        tensors |= {MOMENTUM + name: value for name, value in to_tensors(self.state.momentum).items()}
        return encode(tensors, "fp64")


def read_checkpoint(data: bytes) -> Checkpoint:
    """Return the checkpoint that to_bytes wrote."""
    tensors = decode(data, limits=TRUSTED)
    parts = {
        prefix: from_tensors(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )
        for prefix in (MASTER, MOMENTUM)
    }
    return Checkpoint(parts[MASTER], State(parts[MOMENTUM]))


def published(data: bytes) -> dict[str, LowRank]:
    """Return the factors in an adapter blob: what clients download."""
    return from_tensors(decode(data, limits=TRUSTED))
