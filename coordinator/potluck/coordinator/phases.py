"""Where a round is and where it may go: one table for both kinds of rounds."""

from enum import Enum
from typing import Final

from potluck.aggregation.errors import PotluckError


class IllegalEvent(PotluckError):
    """The table of phases has no such row."""


class Phase(Enum):
    """Where a round is."""

    FILLING = "asynchronous: takes updates until the cohort's number is in"
    SELECTING = "synchronous: hands out leases"
    REPORTING = "synchronous: every lease is out, updates come in"
    AGGREGATING = "the inputs are fixed and are being combined"
    COMMITTED = "the new adapter is stored"
    ABANDONED = "the round ended without a new adapter"
    REFUSED = "the new adapter was worse on the probe, and the one before it stays"


class Event(Enum):
    """What can happen to a round."""

    SELECTED = "enough clients hold a lease"
    GOAL = "the cohort's number of updates is in"
    ENOUGH = "time ran out with the minimum in"
    TOO_FEW = "time ran out with less than the minimum in"
    SUMMED = "a secure sum of enough updates is known"
    ROLLED_BACK = "the operator went back to an earlier version"
    STORED = "the new adapter reached the disk"
    UNUSABLE = "the rule refused the updates"
    WORSE = "the new adapter is worse on the probe"


OPEN: Final = frozenset({Phase.FILLING, Phase.SELECTING, Phase.REPORTING})
"""Phases in which a round still takes updates."""

TRANSITIONS: Final = {
    (Phase.FILLING, Event.GOAL): Phase.AGGREGATING,
    (Phase.SELECTING, Event.SELECTED): Phase.REPORTING,
    (Phase.SELECTING, Event.GOAL): Phase.AGGREGATING,
    (Phase.SELECTING, Event.ENOUGH): Phase.AGGREGATING,
    (Phase.SELECTING, Event.TOO_FEW): Phase.ABANDONED,
    (Phase.SELECTING, Event.SUMMED): Phase.AGGREGATING,
    (Phase.SELECTING, Event.ROLLED_BACK): Phase.ABANDONED,
    (Phase.REPORTING, Event.GOAL): Phase.AGGREGATING,
    (Phase.REPORTING, Event.ENOUGH): Phase.AGGREGATING,
    (Phase.REPORTING, Event.TOO_FEW): Phase.ABANDONED,
    (Phase.REPORTING, Event.SUMMED): Phase.AGGREGATING,
    (Phase.REPORTING, Event.ROLLED_BACK): Phase.ABANDONED,
    (Phase.AGGREGATING, Event.STORED): Phase.COMMITTED,
    (Phase.AGGREGATING, Event.UNUSABLE): Phase.ABANDONED,
    (Phase.AGGREGATING, Event.WORSE): Phase.REFUSED,
}


def after(phase: Phase, event: Event) -> Phase:
    """Return the phase that *event* leads to from *phase*.

    Raises:
        IllegalEvent: the table has no such row.
    """
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        legal = [e.name for p, e in TRANSITIONS if p is phase]
        raise IllegalEvent(f"{event.name} while {phase.name}; legal here: {legal or 'nothing'}") from None


def diagram() -> str:
    """Render the table as Mermaid; docs/architecture.md holds this text and a test compares."""
    rows = [f"    {a.name} --> {b.name} : {e.value}" for (a, e), b in TRANSITIONS.items()]
    starts = [f"    [*] --> {start.name}" for start in (Phase.FILLING, Phase.SELECTING)]
    ends = [f"    {end.name} --> [*]" for end in (Phase.COMMITTED, Phase.ABANDONED, Phase.REFUSED)]
    return "\n".join(["stateDiagram-v2", *starts, *rows, *ends])
