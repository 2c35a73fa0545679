"""Where a round may go is one table, and the diagram is drawn from it."""

from itertools import product

import pytest

from potluck.coordinator.phases import OPEN, TRANSITIONS, Event, IllegalEvent, Phase, after, diagram


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)), ids=lambda x: x.name)
def test_every_pair_is_a_row_or_an_error(phase: Phase, event: Event):
    """7 × 8 pairs: thirteen are in the table, the other forty-three must be refused."""
    if (phase, event) in TRANSITIONS:
        assert after(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(IllegalEvent, match=f"{event.name} while {phase.name}"):
            after(phase, event)


@pytest.mark.parametrize("start", [Phase.FILLING, Phase.SELECTING], ids=lambda x: x.name)
def test_every_round_can_end_and_the_ends_are_final(start: Phase):
    reached, edge = {start}, [start]
    while edge:
        here = edge.pop()
        following = {b for (a, _), b in TRANSITIONS.items() if a is here} - reached
        reached |= following
        edge += following

    ends = {Phase.COMMITTED, Phase.ABANDONED, Phase.REFUSED}
    assert ends <= reached
    assert not {a for a, _ in TRANSITIONS} & ends


def test_an_asynchronous_round_never_reaches_a_synchronous_phase():
    """It has no deadline, so nothing but enough updates closes it."""
    assert [row for row in TRANSITIONS if row[0] is Phase.FILLING] == [(Phase.FILLING, Event.GOAL)]


def test_updates_are_taken_in_no_phase_that_has_its_inputs():
    assert set(Phase) - OPEN == {Phase.AGGREGATING, Phase.COMMITTED, Phase.ABANDONED, Phase.REFUSED}


def test_the_diagram_has_every_row_and_nothing_else():
    lines = diagram().splitlines()

    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 1 + 2 + len(TRANSITIONS) + 3
    assert "    AGGREGATING --> COMMITTED : the new adapter reached the disk" in lines
