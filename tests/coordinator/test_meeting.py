"""Clients meet for a sum: it begins when enough are here, and who came in vain comes again when all others do."""

from dataclasses import replace

import pytest

from potluck.coordinator.meeting import Await, Guest, Manners, Meeting, Park
from potluck.wire.secure.reasons import Reason, SumRefusal

MANNERS = Manners(least=5, most=8, patience_s=60.0, again_s=1.0, apart_s=120.0)


def guest(number: int, version: int = 0) -> Guest:
    return Guest(f"client {number}", bytes([number]) * 32, bytes([number]) * 16, bytes(32), version)


def come(meeting: Meeting, numbers: range, now_s: float) -> None:
    for number in numbers:
        meeting.ask(guest(number), now_s)


def test_a_sum_begins_at_once_when_the_whole_cohort_is_here():
    meeting = Meeting(MANNERS)
    come(meeting, range(7), 0.0)
    assert meeting.gathered(0, 0.0) == ()

    meeting.ask(guest(7), 0.5)

    assert [one.client_id for one in meeting.gathered(0, 0.5)] == [f"client {n}" for n in range(8)]
    assert meeting.gathered(0, 0.5) == ()


def test_no_more_than_the_cohort_is_summed_and_the_rest_waits():
    meeting = Meeting(MANNERS)
    come(meeting, range(10), 0.0)

    assert len(meeting.gathered(0, 0.0)) == 8
    assert meeting.ask(guest(9), 0.0) == Await(1.0, 2)


@pytest.mark.parametrize(("came", "begins"), [(4, False), (5, True), (7, True)])
def test_fewer_begin_once_the_first_has_waited_long_enough(came: int, begins):
    meeting = Meeting(MANNERS)
    for now_s in range(61):
        come(meeting, range(came), float(now_s))
        assert bool(meeting.gathered(0, float(now_s))) is (begins and now_s == 60)


def test_all_who_came_in_vain_are_told_one_moment():
    meeting = Meeting(MANNERS)
    for now_s in range(61):
        come(meeting, range(4), float(now_s))
    assert meeting.gathered(0, 60.0) == ()

    told = [meeting.ask(guest(n), 60.0 + n) for n in range(4)]

    assert [60.0 + n + one.again_s for n, one in enumerate(told) if isinstance(one, Park)] == [180.0] * 4
    assert meeting.ask(guest(9), 100.0) == Park(80.0, 0)
    assert meeting.ask(guest(9), 180.0) == Await(1.0, 1)


def test_who_is_silent_is_not_here_any_more():
    """A sum that is opened for laptops that are asleep would only lose its members."""
    meeting = Meeting(MANNERS)
    come(meeting, range(7), 0.0)
    meeting.ask(guest(7), MANNERS.absent_s + 0.5)

    assert meeting.gathered(0, MANNERS.absent_s + 0.5) == ()
    assert meeting.ask(guest(7), MANNERS.absent_s + 0.5) == Await(1.0, 1)


def test_updates_of_another_version_are_not_in_it():
    meeting = Meeting(replace(MANNERS, most=5))
    meeting.ask(guest(9, version=1), 0.0)
    come(meeting, range(4), 0.0)
    assert meeting.gathered(0, 0.0) == ()

    meeting.ask(guest(4), 0.0)

    assert {one.version for one in meeting.gathered(0, 0.0)} == {0}


def test_who_comes_again_counts_once():
    meeting = Meeting(MANNERS)
    for _ in range(20):
        meeting.ask(guest(1), 0.0)

    assert meeting.ask(guest(1), 0.0) == Await(1.0, 1)


def test_who_is_kept_out_of_a_version_is_refused_by_name_until_it_is_over():
    meeting = Meeting(MANNERS)
    come(meeting, range(8), 0.0)
    meeting.keep_out("client 7", 1)

    assert meeting.gathered(0, 0.0) == ()
    for version in (0, 1):
        with pytest.raises(SumRefusal) as caught:
            meeting.ask(guest(7, version), 0.0)
        assert caught.value.reason is Reason.DEALER
    assert isinstance(meeting.ask(guest(7, 2), 0.0), Await)
