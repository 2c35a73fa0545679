"""When people are there: the two calls agree, chance has no memory, and the shares come out as the tables say."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation.errors import BadSetting
from potluck.simulations.worlds.availability import DAY_S, HOUR_S, Days, Present, Spells, Traced, present, traced
from potluck.simulations.worlds.base import NEVER
from potluck.simulations.worlds.errors import Impossible
from potluck.simulations.worlds.tables import Availability, Churn, Diurnal, Trace, Zone

EVENING = Diurnal(from_h=20.0, hours=3.0, spread_h=1.0, jitter_h=0.5, days=0.8, zones=(Zone(utc_h=1, share=1.0),))
COMING = Churn(online_h=2.0, offline_h=6.0, joins_h=24.0, stays_h=240.0)
SPANS = ((0.0, 3_600.0), (7_200.0, 10_800.0))

PATTERNS = [
    Days(EVENING, 0),
    Days(Diurnal(from_h=23.0, hours=23.4, jitter_h=3.0, always=0.5), 1),
    Spells(COMING, 0),
    Spells(Churn(online_h=0.5, offline_h=40.0), 2),
    Traced((SPANS, SPANS[1:]), 0),
    Traced((SPANS, ((0.0, 100.0), (14_000.0, 14_400.0)), ((0.0, 14_400.0),)), 0, 14_400.0),
    Present((Days(EVENING, 0), Spells(COMING, 0)), 0.1, 0),
    Present((), 0.0, 0),
]


def spans(pattern, person: int, until_s: float) -> list[tuple[float, float]]:
    """Return when *person* is online, by asking as a simulation does."""
    result, moment = [], 0.0
    while (opens := pattern.next_online_s(person, moment)) < until_s:
        moment = pattern.offline_after_s(person, opens)
        result.append((opens, moment))
        if moment == NEVER:
            break
    return result


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: type(pattern).__name__)
@given(person=st.integers(0, 40), at_s=st.floats(0, 60 * DAY_S))
def test_the_two_calls_agree(pattern, person: int, at_s: float):
    """Online now, until later than now; or offline now, from now on until the next time."""
    opens, closes = pattern.next_online_s(person, at_s), pattern.offline_after_s(person, at_s)

    assert opens >= at_s
    if opens == at_s:
        assert closes > at_s
        for share in (0.05, 0.5, 0.95):
            between = at_s + share * (min(closes, at_s + 400 * DAY_S) - at_s)
            assert pattern.next_online_s(person, between) == between
            assert pattern.offline_after_s(person, between) == closes
        if closes < NEVER:
            assert pattern.next_online_s(person, closes) > closes
    else:
        assert closes == at_s
        if opens < NEVER:
            halfway = (at_s + opens) / 2
            assert pattern.next_online_s(person, halfway) == opens
            assert pattern.offline_after_s(person, opens) > opens


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: type(pattern).__name__)
def test_answers_do_not_depend_on_what_was_asked_before(pattern):
    """A resumed run asks other questions than the one that was killed, and sees the same world."""
    moments = [day * DAY_S / 3 for day in range(30)]
    forwards = [(pattern.next_online_s(3, at), pattern.offline_after_s(3, at)) for at in moments]
    backwards = [(pattern.next_online_s(3, at), pattern.offline_after_s(3, at)) for at in reversed(moments)]

    assert forwards == backwards[::-1]


def test_an_evening_is_an_evening_on_the_persons_own_clock():
    """20:00 at UTC+1, in a run that begins at noon UTC, is seven hours in: give or take one hour between people."""
    pattern = Days(Diurnal(from_h=20, hours=3, jitter_h=0.0, zones=(Zone(utc_h=1, share=1.0),)), 0)
    first = [pattern.next_online_s(person, 0.0) / HOUR_S for person in range(400)]

    assert sum(first) / len(first) == pytest.approx(7.0, abs=0.15)
    assert sum(abs(hours - 7.0) < 1.0 for hours in first) / len(first) == pytest.approx(0.683, abs=0.06)
    assert {round(closes - opens) for opens, closes in spans(pattern, 5, 9 * DAY_S)} == {3 * 3_600}


def test_people_come_on_the_share_of_the_days_that_the_table_says():
    pattern = Days(EVENING, 0)
    days = [len(spans(pattern, person, 100 * DAY_S)) for person in range(20)]

    assert sum(days) / 2_000 == pytest.approx(0.8, abs=0.03)


def test_zones_hold_the_shares_of_people_that_the_table_says():
    zones = (Zone(utc_h=0, share=0.75), Zone(utc_h=-8, share=0.25))
    pattern = Days(Diurnal(from_h=18, hours=1, spread_h=0.0, jitter_h=0.0, zones=zones, starts_utc_h=12), 0)
    opens = [pattern.next_online_s(person, 0.0) / HOUR_S for person in range(1_000)]

    assert {round(hours) for hours in opens} == {6, 14}
    assert sum(hours < 10 for hours in opens) / 1_000 == pytest.approx(0.75, abs=0.04)


def test_spells_have_the_mean_lengths_of_the_table():
    """Exponential spells: 2 and 6 hours on average, and twice as long as that with probability e⁻²."""
    pattern = Spells(Churn(online_h=2.0, offline_h=6.0), 0)
    online, offline = [], []
    for person in range(15):
        found = spans(pattern, person, 200 * DAY_S)
        online += [(closes - opens) / HOUR_S for opens, closes in found[1:]]
        offline += [(after - before) / HOUR_S for (_, before), (after, _) in pairwise(found)]

    assert len(online) > 8_000
    assert sum(online) / len(online) == pytest.approx(2.0, rel=0.04)
    assert sum(offline) / len(offline) == pytest.approx(6.0, rel=0.04)
    assert sum(hours > 4.0 for hours in online) / len(online) == pytest.approx(0.1353, abs=0.01)


def test_at_any_moment_the_share_of_people_online_is_that_of_the_chain():
    """On from the start on, without settling in: 2 / (2 + 6) at hour 0 as at hour 100."""
    pattern = Spells(Churn(online_h=2.0, offline_h=6.0), 0)
    for at_s in (0.0, 100 * HOUR_S):
        there = sum(pattern.next_online_s(person, at_s) == at_s for person in range(3_000))
        assert there / 3_000 == pytest.approx(0.25, abs=0.025)


def test_people_join_over_the_time_of_the_table_and_leave_for_good():
    pattern = Spells(Churn(online_h=1.0, offline_h=0.001, joins_h=48.0, stays_h=100.0), 0)
    first = [pattern.next_online_s(person, 0.0) / HOUR_S for person in range(1_000)]
    later = sum(pattern.next_online_s(person, 148 * HOUR_S) < NEVER for person in range(1_000))

    assert 0 <= min(first) < 1
    assert 47 < max(first) < 49
    assert sum(first) / 1_000 == pytest.approx(24, abs=1.5)
    assert later / 1_000 == pytest.approx(0.2893, abs=0.04)  # ∫ exp(−(148 − j) / 100) dj / 48 over j in (0, 48)


def test_somebody_who_is_online_goes_when_it_leaves_for_good():
    pattern = Spells(Churn(online_h=1e4, offline_h=10.0, stays_h=10.0), 0)
    there = [person for person in range(1_000) if pattern.next_online_s(person, 0.0) == 0.0]
    leaves = {person: pattern.offline_after_s(person, 0.0) for person in there}

    assert len(there) > 990
    assert sum(leaves.values()) / len(there) / HOUR_S == pytest.approx(10.0, rel=0.1)
    assert sum(pattern.next_online_s(person, moment) == NEVER for person, moment in leaves.items()) > 980


def test_dropouts_are_the_share_of_the_leases_that_the_table_says():
    pattern = Present((), 0.1, 0)
    gave_up = [pattern.drops(person, version) for person in range(100) for version in range(100)]

    assert sum(gave_up) / 10_000 == pytest.approx(0.1, abs=0.01)
    assert gave_up == [pattern.drops(person, version) for person in range(100) for version in range(100)]


def test_of_two_patterns_people_are_there_when_both_say_so():
    both = Present((Traced((SPANS,), 0), Traced((((1_800.0, 9_000.0),),), 0)), 0.0, 0)

    assert spans(both, 0, DAY_S) == [(1_800.0, 3_600.0), (7_200.0, 9_000.0)]


def test_patterns_that_never_meet_mean_never():
    """A loop would look for ever."""
    both = Present((Traced((((0.0, 10.0),),), 0, DAY_S), Traced((((50.0, 60.0),),), 0, DAY_S)), 0.0, 0)

    assert both.next_online_s(0, 0.0) == NEVER


def test_a_trace_is_played_again_after_its_length(tmp_path: Path):
    """Spans that touch or overlap are one, also over the seam: the last hour of a lap and the first of the next."""
    path = tmp_path / "trace.csv"
    path.write_text("person,from_h,to_h\na,0,1\na,10,12\na,10.5,11\na,12,13\na,23,24\n", "utf-8")
    pattern = traced(Trace(path=str(path), repeats_h=24.0), 0)

    hours = [(opens / HOUR_S, closes / HOUR_S) for opens, closes in spans(pattern, 7, 40 * HOUR_S)]
    assert hours == [(0, 1), (10, 13), (23, 25), (34, 37)]


def test_every_person_of_a_trace_is_played_about_as_often(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("person,from_h,to_h\na,1,2\nb,2,3\nc,3,4\n", "utf-8")
    pattern = present(Availability(trace=Trace(path=str(path))), 0)
    opens = [pattern.next_online_s(person, 0.0) / HOUR_S for person in range(900)]

    assert sorted(set(opens)) == [1, 2, 3]
    assert all(250 < opens.count(hour) < 350 for hour in (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("who,from_h,to_h\na,1,2\n", "is no trace: 'person'"),
        ("person,from_h,to_h\na,soon,2\n", "is no trace: could not convert"),
        ("person,from_h,to_h\na,1,2\nb,5,4\n", "line 3: a span from 5 to 4 hours"),
        ("person,from_h,to_h\na,1,30\n", "line 2: a span from 1 to 30 hours"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str, words: str):
    path = tmp_path / "trace.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(BadSetting, match=words):
        traced(Trace(path=str(path), repeats_h=24.0), 0)


def test_an_empty_trace_and_one_that_is_not_there_are_refused(tmp_path: Path):
    (tmp_path / "empty.csv").write_text("person,from_h,to_h\n", "utf-8")
    with pytest.raises(Impossible, match="ever online"):
        traced(Trace(path=str(tmp_path / "empty.csv")), 0)
    with pytest.raises(BadSetting, match="cannot be read"):
        traced(Trace(path=str(tmp_path / "none.csv")), 0)
