"""The life of one task, from a lease to a receipt, and of a membership: tables, and nothing else.

A task is durable: each row of TRANSITIONS is one transaction of the outbox.  After a crash a client goes on from the
last state that reached the disk.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from potluck.client.errors import IllegalEvent

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S


class TaskState(Enum):
    """Where a task is.  The names are those of the wire; RECEIPTED and ABANDONED never travel."""

    LEASED = "has a lease and nothing else yet"
    FETCHING = "downloading the shared adapter"
    PREPARED = "everything is here and fits; not trained yet"
    TRAINING = "training"
    SUSPENDED = "waiting until the machine is free again"
    SEALING = "writing the update to the outbox"
    OFFERING = "sealed; asking whether it is still wanted"
    UPLOADING = "sending the update"
    COMMITTING = "sent; asking for the receipt"
    RECEIPTED = "the coordinator gave its receipt"
    ABANDONED = "dropped; the reason is kept"


class Event(Enum):
    """What can happen to a task."""

    STARTED = "its turn came"
    FETCHED = "adapter, base and data are here and fit"
    BEGUN = "the first step may be taken"
    GATE_SHUT = "the owner needs the machine"
    GATE_OPEN = "the machine is free again"
    TRAINED = "all steps are done"
    SEALED = "the update is in the outbox, fsynced"
    WANTED = "the coordinator wants the update"
    HELD_THERE = "the coordinator holds all of it already"
    SENT = "the last chunk is committed"
    ANSWERED = "the coordinator's receipt is kept"
    FORGOTTEN = "the coordinator no longer knows this transfer"
    DROPPED = "cancelled, refused, failed, or the owner left"
    TIMED_OUT = "it spent too long in one state"


UNSEALED: Final = (
    TaskState.LEASED,
    TaskState.FETCHING,
    TaskState.PREPARED,
    TaskState.TRAINING,
    TaskState.SUSPENDED,
    TaskState.SEALING,
)
"""States in which the work exists only as a checkpoint; losing the lease may end it."""

SEALED: Final = (TaskState.OFFERING, TaskState.UPLOADING, TaskState.COMMITTING)
"""States in which the update is in the outbox; nothing but an answer, the owner or 90 days ends it."""

TERMINAL: Final = (TaskState.RECEIPTED, TaskState.ABANDONED)

TRANSITIONS: Final[Mapping[tuple[TaskState, Event], TaskState]] = MappingProxyType(
    {
        (TaskState.LEASED, Event.STARTED): TaskState.FETCHING,
        (TaskState.FETCHING, Event.FETCHED): TaskState.PREPARED,
        (TaskState.PREPARED, Event.BEGUN): TaskState.TRAINING,
        (TaskState.TRAINING, Event.GATE_SHUT): TaskState.SUSPENDED,
        (TaskState.SUSPENDED, Event.GATE_OPEN): TaskState.TRAINING,
        (TaskState.TRAINING, Event.TRAINED): TaskState.SEALING,
        (TaskState.SEALING, Event.SEALED): TaskState.OFFERING,
        (TaskState.OFFERING, Event.WANTED): TaskState.UPLOADING,
        (TaskState.OFFERING, Event.HELD_THERE): TaskState.COMMITTING,
        (TaskState.OFFERING, Event.ANSWERED): TaskState.RECEIPTED,  # not wanted any more, and credited all the same
        (TaskState.UPLOADING, Event.SENT): TaskState.COMMITTING,
        (TaskState.UPLOADING, Event.FORGOTTEN): TaskState.OFFERING,
        (TaskState.COMMITTING, Event.FORGOTTEN): TaskState.OFFERING,
        (TaskState.COMMITTING, Event.ANSWERED): TaskState.RECEIPTED,
        **{
            (state, event): TaskState.ABANDONED
            for state in (*UNSEALED, *SEALED)
            for event in (Event.DROPPED, Event.TIMED_OUT)
        },
    }
)

TIMEOUTS_S: Final[Mapping[TaskState, float]] = MappingProxyType(
    {
        TaskState.LEASED: DAY_S,
        TaskState.FETCHING: 2 * DAY_S,
        TaskState.PREPARED: 2 * DAY_S,
        TaskState.TRAINING: 7 * DAY_S,
        TaskState.SUSPENDED: 7 * DAY_S,
        TaskState.SEALING: HOUR_S,
        **dict.fromkeys(SEALED, 90 * DAY_S),  # BOINC waits 90 days; at 14 volunteers lost finished work
    }
)
"""Seconds of the program's own running time that a task may spend in one state.

Running time, not wall time: a clock that jumps to another year throws no work away.
"""


def after(state: TaskState, event: Event) -> TaskState:
    """Return the state that *event* leads to from *state*.

    Raises:
        IllegalEvent: the table has no such row.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        legal = ", ".join(e.name for s, e in TRANSITIONS if s is state)
        raise IllegalEvent(f"{event.name} while {state.name}; legal here: {legal or 'nothing'}") from None


def diagram() -> str:
    """Render the table of tasks as Mermaid; the documentation holds this text and a test compares."""
    rows = [f"    {a.name} --> {b.name} : {e.name}" for (a, e), b in TRANSITIONS.items()]
    ends = [f"    {state.name} --> [*]" for state in TERMINAL]
    return "\n".join(["stateDiagram-v2", "    [*] --> LEASED", *rows, *ends])


class MembershipState(Enum):
    """Where this home stands with its run."""

    UNENROLLED = "a member of no run"
    ENROLLING = "consented; the coordinator has not answered yet"
    READY = "a member; takes work"
    FINISHING = "a member; delivers what it holds and takes no new work"
    STOPPED = "a member that holds nothing and takes no work"


class Step(Enum):
    """What can happen to a membership."""

    CONSENTED = "the owner said yes"
    ENROLLED = "the coordinator let the client in"
    REFUSED = "the coordinator did not"
    FINISH = "the owner said finish, or the run is done"
    DRAINED = "the outbox is empty"
    RESUMED = "the owner wants to go on"
    CHANGED = "the recipe changed: the owner has to consent again"
    LEFT = "the owner left the run"


MEMBERSHIPS: Final[Mapping[tuple[MembershipState, Step], MembershipState]] = MappingProxyType(
    {
        (MembershipState.UNENROLLED, Step.CONSENTED): MembershipState.ENROLLING,
        (MembershipState.ENROLLING, Step.CONSENTED): MembershipState.ENROLLING,  # asked again after a crash
        (MembershipState.ENROLLING, Step.ENROLLED): MembershipState.READY,
        (MembershipState.ENROLLING, Step.REFUSED): MembershipState.UNENROLLED,
        (MembershipState.READY, Step.CONSENTED): MembershipState.ENROLLING,  # joined again, or to a changed recipe
        (MembershipState.READY, Step.FINISH): MembershipState.FINISHING,
        (MembershipState.FINISHING, Step.CONSENTED): MembershipState.ENROLLING,
        (MembershipState.FINISHING, Step.RESUMED): MembershipState.READY,
        (MembershipState.FINISHING, Step.DRAINED): MembershipState.STOPPED,
        (MembershipState.STOPPED, Step.CONSENTED): MembershipState.ENROLLING,
        (MembershipState.STOPPED, Step.RESUMED): MembershipState.READY,
        (MembershipState.READY, Step.CHANGED): MembershipState.ENROLLING,
        (MembershipState.STOPPED, Step.CHANGED): MembershipState.ENROLLING,
        **{
            (state, Step.LEFT): MembershipState.UNENROLLED
            for state in MembershipState
            if state is not MembershipState.UNENROLLED
        },
    }
)


def membership_after(state: MembershipState, step: Step) -> MembershipState:
    """Return the membership state that *step* leads to from *state*.

    Raises:
        IllegalEvent: the table has no such row.
    """
    try:
        return MEMBERSHIPS[state, step]
    except KeyError:
        legal = ", ".join(e.name for s, e in MEMBERSHIPS if s is state)
        raise IllegalEvent(f"{step.name} while {state.name}; legal here: {legal or 'nothing'}") from None


def membership_diagram() -> str:
    """Render the table of memberships as Mermaid."""
    rows = [f"    {a.name} --> {b.name} : {e.name}" for (a, e), b in MEMBERSHIPS.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> UNENROLLED", *rows])
