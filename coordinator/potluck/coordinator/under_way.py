"""One secure sum at the coordinator, under way or over, with those who were let in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from potluck.coordinator.meeting import Guest
from potluck.coordinator.secure.phases import TAKEN_IN, Phase
from potluck.coordinator.secure.sums import SecureSum
from potluck.wire.secure.messages import Step, Survivors
from potluck.wire.secure.parameters import Parameters
from potluck.wire.secure.roster import Roster

OVER: Final = frozenset({Phase.SUMMED, Phase.ENDED})


class Standing(NamedTuple):
    """Where the sum that is under way stands."""

    phase: Phase
    said: int
    """Members whose message of the present step was taken."""
    members: int


@final
@dataclass(slots=True)
class Sum:
    """One sum, under way or over."""

    machine: SecureSum
    parameters: Parameters
    guests: Mapping[bytes, Guest]
    """By identity key."""
    since_s: float
    """When the present step began."""
    busy: bool = False
    """Whether a step is being closed: nothing is taken, and nothing handed out."""
    unmarked: bool = False
    """Whether it is to be written down whose updates are in it, and nothing else is to be done before."""
    over: bool = False
    """Whether everything that it leads to is in the store."""
    said: set[tuple[Step, bytes]] = field(default_factory=set)
    """Whose message of which step was taken."""

    @property
    def version(self) -> int:
        """The version that its updates start from."""
        return self.parameters.terms.version

    def survivors(self) -> tuple[Guest, ...]:
        """Return whose masked updates are in the sum, once that is settled."""
        any_one = next(key for step, key in self.said if step is Step.MASK)
        roster = Roster.parse(self.machine.message(Step.ADVERTISE, any_one) or b"")
        listed = Survivors.parse(self.machine.message(Step.MASK, any_one) or b"")
        return tuple(self.guests[roster.at(position).public_key] for position in listed.positions)

    def standing(self) -> Standing:
        """Return where it stands."""
        phase = self.machine.phase
        step = TAKEN_IN.get(phase)
        return Standing(phase, sum(one is step for one, _ in self.said), len(self.guests))
