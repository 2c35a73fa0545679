"""Where a sum is at the coordinator and where it may go: one table."""

from enum import Enum
from typing import Final

from potluck.aggregation.errors import PotluckError
from potluck.wire.secure.messages import Step
from potluck.wire.secure.reasons import Reason, SumRefusal


class IllegalEvent(PotluckError):
    """The table of phases has no such row."""


class Phase(Enum):
    """Where a sum is."""

    ADVERTISING = "clients send their keys"
    SHARING = "they send each other shares of their secrets"
    MASKING = "they send masked vectors"
    AGREEING = "they sign who survived"
    UNMASKING = "they send the shares that take the masks off the sum"
    SUMMED = "the sum is known"
    ENDED = "the sum ended without revealing anything"


class Event(Enum):
    """What can happen to a sum."""

    ENOUGH = "the step is over with enough clients"
    TOO_FEW = "the step is over with too few"
    UNUSABLE = "shares do not fit together, or the sum cannot be of honest updates"
    CANCELLED = "the coordinator ends it"


TRANSITIONS: Final = {
    (Phase.ADVERTISING, Event.ENOUGH): Phase.SHARING,
    (Phase.SHARING, Event.ENOUGH): Phase.MASKING,
    (Phase.MASKING, Event.ENOUGH): Phase.AGREEING,
    (Phase.AGREEING, Event.ENOUGH): Phase.UNMASKING,
    (Phase.UNMASKING, Event.ENOUGH): Phase.SUMMED,
    (Phase.UNMASKING, Event.UNUSABLE): Phase.ENDED,
    **{
        (phase, event): Phase.ENDED
        for phase in (Phase.ADVERTISING, Phase.SHARING, Phase.MASKING, Phase.AGREEING, Phase.UNMASKING)
        for event in (Event.TOO_FEW, Event.CANCELLED)
    },
}

TAKEN_IN: Final = {
    Phase.ADVERTISING: Step.ADVERTISE,
    Phase.SHARING: Step.SHARE,
    Phase.MASKING: Step.MASK,
    Phase.AGREEING: Step.AGREE,
    Phase.UNMASKING: Step.UNMASK,
}
"""The one step whose messages a phase takes."""


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


def in_turn(step: Step, phase: Phase) -> None:
    """Refuse a message of *step* that does not belong into *phase*.

    Raises:
        SumRefusal: OVER, LATE or OUT_OF_ORDER.
    """
    expected = TAKEN_IN.get(phase)
    if expected is None:
        raise SumRefusal(step.name, reason=Reason.OVER, fix="wait for the next sum")
    if step is not expected:
        late = Step.OPEN < step < expected
        raise SumRefusal(
            f"{step.name} while {phase.name}",
            reason=Reason.LATE if late else Reason.OUT_OF_ORDER,
            fix="wait for the next sum",
        )


def diagram() -> str:
    """Render the table as Mermaid; docs/secure-aggregation.md holds this text and a test compares."""
    rows = [f"    {a.name} --> {b.name} : {e.value}" for (a, e), b in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> ADVERTISING", *rows, "    SUMMED --> [*]", "    ENDED --> [*]"])
