"""A session, watched: everything that can happen is told, as words to people and as JSON to programs."""

import json
from dataclasses import fields
from typing import get_args

import pytest

from potluck.cli.watch import jsonable, sentence, watching
from potluck.client.events import (
    CheckedIn,
    GateTurned,
    Happening,
    Moved,
    Offline,
    Phase,
    Progressed,
    Received,
    Slept,
    Trouble,
    Waiting,
)
from potluck.client.records import KeptReceipt
from potluck.client.tasks import TaskState

RECEIPT = KeptReceipt(
    envelope=b"\x01\xff",
    coordinator_id="abc",
    run_id="run",
    lease_id=b"\x02" * 16,
    round=4,
    version=3,
    digest=b"\x03" * 32,
    verdict="TOO_LATE",
    examples=12,
    staleness_weight=0.7071,
    credit=9,
    serial=17,
    received_unix_s=1.7e9,
)
TOLD: dict[Happening, str | None] = {
    Moved(b"\x01" * 16, 2, 1, TaskState.TRAINING): "round 2: training",
    Moved(b"\x01" * 16, 2, 1, TaskState.LEASED): "",
    Moved(b"\x01" * 16, 2, 1, TaskState.ABANDONED, "no room"): "round 2: dropped; the reason is kept (no room)",
    Progressed(Phase.TRAIN, 3, 6, 1.25): "",
    CheckedIn(1, "work for round 2", -0.5): "checked in: work for round 2",
    Waiting("the others are not done yet", None): "waiting: the others are not done yet · until that changes",
    Waiting("the others are not done yet", 30.0): None,  # a time of day
    Received(RECEIPT): "receipt 17: too late in round 4, 12 examples at weight 0.71, credit 9",
    Slept(3_720.0): "the machine slept for 1 h 2 min; going on where it was",
    Offline("nobody listens", 90.0): "offline: nobody listens · next try in 1 min 30 s",
    GateTurned(
        "the machine runs on battery, until it is on mains"
    ): "the machine runs on battery, until it is on mains",
    GateTurned(""): "the machine is free: going on",
    Trouble("the disk is full", "make room"): "the disk is full\n  fix: make room",
    Trouble("the disk is full", ""): "the disk is full",
}


def test_all_kinds_of_events_are_here():
    """An event that is added later has to be told, too."""
    assert {type(event) for event in TOLD} == set(get_args(Happening))


@pytest.mark.parametrize("event", TOLD, ids=lambda event: type(event).__name__)
def test_every_event_has_a_sentence_or_need_not_be_known(event: Happening):
    if TOLD[event] is None:
        assert sentence(event).startswith("waiting: the others are not done yet · next check-in at ")
    else:
        assert sentence(event) == TOLD[event]


@pytest.mark.parametrize("state", TaskState, ids=lambda state: state.name)
def test_every_state_is_told_in_words_or_passes_in_a_moment(state: TaskState):
    quiet = {"LEASED", "PREPARED", "OFFERING", "COMMITTING"}

    assert (sentence(Moved(b"", 1, 0, state)) == "") == (state.name in quiet)


@pytest.mark.parametrize("event", TOLD, ids=lambda event: type(event).__name__)
def test_every_event_is_json_with_all_that_it_holds(event: Happening):
    facts = json.loads(json.dumps(jsonable(event), allow_nan=False))

    assert facts.pop("event") == type(event).__name__.lower()
    assert set(facts) == {field.name for field in fields(event)}


def test_bytes_are_hex_and_enums_their_names():
    assert jsonable(Moved(b"\xab\xcd", 1, 0, TaskState.SEALING))["lease_id"] == "abcd"
    assert jsonable(Moved(b"\xab\xcd", 1, 0, TaskState.SEALING))["state"] == "SEALING"
    assert jsonable(Received(RECEIPT))["receipt"]["digest"] == "03" * 32
    assert jsonable(Progressed(Phase.UPLOAD, 1, 2))["phase"] == "UPLOAD"


def test_a_program_hears_every_event_as_a_line(capsys):
    with watching(as_json=True) as watch:
        for event in TOLD:
            watch(event)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [type(event).__name__.lower() for event in TOLD]


def test_where_nobody_looks_on_words_come_as_plain_lines(capsys):
    """In a log there are no bars: of progress the end is told, once."""
    with watching(as_json=False) as watch:
        for event in (*TOLD, Progressed(Phase.UPLOAD, 9, 9), Trouble("\x1b[2Jgone", "")):
            watch(event)

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[-2:] == ["sending the update: done (9)", "\N{REPLACEMENT CHARACTER}[2Jgone"]
    assert len(out.splitlines()) == sum(TOLD[event] != "" for event in TOLD) + 1 + 2  # a fix has a line of its own
