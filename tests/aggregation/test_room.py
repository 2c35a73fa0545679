"""Memory that is used again: whose it is, how much of it, and how much is kept."""

import copy

import numpy as np

from potluck.aggregation.room import Room


def test_room_is_used_again_by_one_after_the_other():
    """What was given back, if it is large enough; whoever comes in between, or runs elsewhere, has its own."""
    room = Room()
    first = room.take(10)
    beside = room.take(0)
    room.give(first)

    assert copy.copy(room).take(1) is not first
    assert room.take(10) is first
    room.give(first)
    larger = room.take(11)

    assert [taken.dtype for taken in (first, beside, larger)] == [np.uint8] * 3
    assert [len(taken) for taken in (first, beside, larger)] == [10, 0, 11]


def test_of_what_is_given_back_the_last_is_kept():
    """Or a round of many modules would end with a piece for each."""
    room = Room()
    pieces = [room.take(size) for size in (30, 20)]
    for piece in pieces:
        room.give(piece)

    assert room.take(5) is pieces[1]
    assert len(room.take(5)) == 5
