"""The coordinator's own state between rounds as bytes: the float64 master, and what is remembered beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from potluck.aggregation import Limits, LowRank, State, decode, encode, from_tensors, to_tensors
from potluck.aggregation.lowrank import Array
from potluck.aggregation.outer.base import Moments

MASTER: Final = "master."
MOMENTUM: Final = "momentum."
FIRST: Final = "first."
SECOND: Final = "second."
ROUNDS: Final = "rounds"
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
        state = self.state
        tensors = {MASTER + name: value for name, value in to_tensors(self.master).items()}
        tensors |= {MOMENTUM + name: value for name, value in to_tensors(state.momentum).items()}
        for name, moments in state.moments.items():
            tensors |= {FIRST + name: moments.first, SECOND + name: moments.second}
        return encode(tensors | {ROUNDS: np.array([state.rounds], dtype=np.float64)}, "fp64")


def read_checkpoint(data: bytes) -> Checkpoint:
    """Return the checkpoint that to_bytes wrote."""
    tensors = decode(data, limits=TRUSTED)
    first, second = below(FIRST, tensors), below(SECOND, tensors)
    state = State(
        momentum=from_tensors(below(MOMENTUM, tensors)),
        moments={name: Moments(first[name].astype("f8"), second[name].astype("f8")) for name in first},
        rounds=int(tensors[ROUNDS][0]),
    )
    return Checkpoint(from_tensors(below(MASTER, tensors)), state)


def below(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors whose names begin with *prefix*, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def published(data: bytes) -> dict[str, LowRank]:
    """Return the factors in an adapter blob: what clients download."""
    return from_tensors(decode(data, limits=TRUSTED))
