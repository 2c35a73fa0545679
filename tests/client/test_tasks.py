from itertools import product
from pathlib import Path

import pytest

from potluck.client.errors import IllegalEvent
from potluck.client.tasks import (
    MEMBERSHIPS,
    SEALED,
    TERMINAL,
    TIMEOUTS_S,
    TRANSITIONS,
    UNSEALED,
    Event,
    MembershipState,
    Step,
    TaskState,
    after,
    diagram,
    membership_after,
    membership_diagram,
)
from potluck.wire.v1 import work_pb2

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.mark.parametrize(("state", "event"), list(product(TaskState, Event)), ids=lambda x: x.name)
def test_every_pair_is_a_row_or_an_error(state: TaskState, event: Event):
    """11 × 14 pairs: 32 are in the table, the other 122 must be refused."""
    if (state, event) in TRANSITIONS:
        assert after(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalEvent, match=f"{event.name} while {state.name}"):
            after(state, event)


@pytest.mark.parametrize(("state", "step"), list(product(MembershipState, Step)), ids=lambda x: x.name)
def test_every_step_of_a_membership_is_a_row_or_an_error(state: MembershipState, step: Step):
    if (state, step) in MEMBERSHIPS:
        assert membership_after(state, step) is MEMBERSHIPS[state, step]
    else:
        with pytest.raises(IllegalEvent, match=f"{step.name} while {state.name}"):
            membership_after(state, step)


def test_the_tables_have_as_many_rows_as_the_protocol_says():
    assert len(TRANSITIONS) == 14 + 2 * 9
    assert {*UNSEALED, *SEALED, *TERMINAL} == set(TaskState)
    assert len(UNSEALED) + len(SEALED) + len(TERMINAL) == len(TaskState)


def test_every_state_that_is_not_the_end_has_a_timeout():
    assert set(TIMEOUTS_S) == set(TaskState) - set(TERMINAL)
    assert all(TIMEOUTS_S[state] == 90 * 86_400 for state in SEALED)


def test_nothing_leads_out_of_an_end_and_an_end_can_be_reached_from_everywhere():
    assert not [state for state, _ in TRANSITIONS if state in TERMINAL]
    reached = set(TERMINAL)
    for _ in TaskState:
        reached |= {a for (a, _), b in TRANSITIONS.items() if b in reached}

    assert reached == set(TaskState)


def test_only_a_sealed_update_can_get_a_receipt():
    """A receipt for something that is not on the disk would be a lie."""
    assert {a for (a, _), b in TRANSITIONS.items() if b is TaskState.RECEIPTED} <= set(SEALED)


def test_the_states_have_the_names_of_the_wire():
    told = {name.removeprefix("TASK_STATE_") for name in work_pb2.TaskState.keys()} - {"UNSPECIFIED"}  # noqa: SIM118

    assert told == {state.name for state in TaskState} - {"RECEIPTED", "ABANDONED"}


def test_the_documentation_shows_the_table():
    assert diagram() in ARCHITECTURE.read_text("utf-8")


def test_a_diagram_has_a_line_for_each_row():
    assert membership_diagram().count("-->") == len(MEMBERSHIPS) + 1
