"""What a simulation knows of its volunteers.  Everything here is a pure function of the world's seed.

Time is simulated, in seconds since the run began; a person is its index in `World.people`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, final

NEVER: Final = float("inf")


@final
@dataclass(frozen=True, slots=True)
class Device:
    """A machine and its line."""

    name: str
    tokens_per_s: float
    """Tokens that it learns from in a second, forward and backward, of the recipe's base model."""
    up_bytes_per_s: float
    down_bytes_per_s: float

    def train_s(self, tokens: int) -> float:
        """Return the seconds in which it learns from so many *tokens*."""
        return tokens / self.tokens_per_s

    def upload_s(self, size: int) -> float:
        """Return the seconds in which *size* bytes leave it."""
        return size / self.up_bytes_per_s

    def download_s(self, size: int) -> float:
        """Return the seconds in which *size* bytes reach it."""
        return size / self.down_bytes_per_s


@final
@dataclass(frozen=True, slots=True)
class Person:
    """A volunteer."""

    name: str
    """Stable: the same scenario, recipe and number of clients give the same names in the same order."""
    data: Path
    """Its folder of text, as `potluck join --data` reads it."""
    device: Device
    rank: int = 0
    """Columns that it trains; 0 means the recipe's."""
    hostile: bool = False


class Availability(Protocol):
    """When people are there.  Pure: no hidden state, so a resumed run sees the same world."""

    def next_online_s(self, person: int, at_s: float) -> float:
        """Return the first moment, not before *at_s*, at which *person* is online; NEVER if there is none."""

    def offline_after_s(self, person: int, at_s: float) -> float:
        """Return when *person*, who is online at *at_s*, next goes offline, later than *at_s*; NEVER if it does not.

        Somebody who is not online at *at_s* is offline already: then it returns *at_s*.
        """

    def drops(self, person: int, version: int) -> bool:
        """Whether *person* gives up during a lease on *version*, though it is online."""


@final
@dataclass(frozen=True, slots=True)
class World:
    """Everybody who may take part in a run."""

    people: tuple[Person, ...]
    availability: Availability
    attack: str = ""
    """What hostile people send, a key of potluck.simulations.attacks.ATTACKS; empty if nobody is hostile."""
    attack_settings: Mapping[str, float] = field(default_factory=dict)
    """Of the attack: ATTACKS[attack](**attack_settings)."""
    seed: int = 0
