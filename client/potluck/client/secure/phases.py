"""Where a client is in a sum and where it may go: one table."""

from enum import Enum
from typing import Final

from potluck.wire.secure.messages import Step
from potluck.wire.secure.reasons import Reason, SumRefusal


class Phase(Enum):
    """Where a client is in a sum."""

    WAITING = "has an update and no sum"
    ADVERTISED = "sent two keys, waits for the roster"
    SHARED = "sent shares of its secrets, waits for the others'"
    MASKED = "sent its masked vector, waits for who survived"
    AGREED = "signed who survived, so that its update is spent; waits for the others' signatures"
    SPENT = "sent the shares that reveal the sum"
    DONE = "knows how the sum ended"
    LEFT = "left or was left; its secrets are gone"


TRANSITIONS: Final = {
    (Phase.WAITING, Step.OPEN): Phase.ADVERTISED,
    (Phase.ADVERTISED, Step.ADVERTISE): Phase.SHARED,
    (Phase.SHARED, Step.SHARE): Phase.MASKED,
    (Phase.MASKED, Step.MASK): Phase.AGREED,
    (Phase.AGREED, Step.AGREE): Phase.SPENT,
    (Phase.ADVERTISED, Step.UNMASK): Phase.DONE,
    (Phase.SHARED, Step.UNMASK): Phase.DONE,
    (Phase.MASKED, Step.UNMASK): Phase.DONE,
    (Phase.AGREED, Step.UNMASK): Phase.DONE,
    (Phase.SPENT, Step.UNMASK): Phase.DONE,
}
"""By the coordinator's message; anything else, and any refusal, leads to LEFT."""

TAKES: Final = {
    Step.OPEN: "an opening",
    Step.ADVERTISE: "a roster",
    Step.SHARE: "the others' sealed shares",
    Step.MASK: "who survived",
    Step.AGREE: "who agreed",
    Step.UNMASK: "how it ended",
}


def after(phase: Phase, step: Step) -> Phase:
    """Return the phase that the coordinator's message of *step* leads to from *phase*.

    Raises:
        SumRefusal: the table has no such row: SECOND_LIST, where survivors were told before; otherwise OUT_OF_ORDER.
    """
    try:
        return TRANSITIONS[phase, step]
    except KeyError:
        again = step is Step.MASK and phase in (Phase.AGREED, Phase.SPENT)
        raise SumRefusal(
            f"{TAKES[step]} while {phase.name}",
            reason=Reason.SECOND_LIST if again else Reason.OUT_OF_ORDER,
            fix="do not trust the coordinator" if again else "wait for the next sum",
        ) from None


def diagram() -> str:
    """Render the table as Mermaid; docs/secure-aggregation.md holds this text and a test compares."""
    rows = [f"    {a.name} --> {b.name} : {TAKES[step]}" for (a, step), b in TRANSITIONS.items()]
    leaves = [f"    {a.name} --> LEFT : a refusal" for a in Phase if a not in (Phase.DONE, Phase.LEFT)]
    return "\n".join(["stateDiagram-v2", "    [*] --> WAITING", *rows, *leaves, "    DONE --> [*]", "    LEFT --> [*]"])
