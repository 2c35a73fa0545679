"""Who gets work, what counts and when a round closes, decided without a store, a clock or a network."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.phases import Event, Phase
from potluck.coordinator.rounds import (
    Asker,
    Decline,
    Finished,
    Grant,
    Hold,
    Offer,
    Redeliver,
    Situation,
    Terms,
    Why,
    assignment,
    event,
    staleness,
    staleness_weight,
    useful,
    verdict,
)
from scripted import recipe

OPEN_RUN = Terms(
    synchronous=False,
    cohort=3,
    minimum=2,
    seats=4,
    deadline_s=60,
    max_staleness=2,
    last_version=0,
)
COHORT_RUN = replace(OPEN_RUN, synchronous=True)
FILLING = Situation(version=5, combining=0, round=6, phase=Phase.FILLING, received=1, leased=2, age_s=0.0, paused=False)
REPORTING = replace(FILLING, phase=Phase.REPORTING)
HERE = Asker(pending=False, contributed=False, wants_work=True, holds=(), listed=frozenset())
HOLD = Hold(b"lease", round=6, version=5, alive=True, open=True)


def test_the_terms_are_the_recipes():
    terms = Terms.of(recipe(aggregation={"mode": "synchronous", "cohort": 10, "over_selection": 1.1, "minimum": 4}))

    assert (terms.synchronous, terms.cohort, terms.minimum, terms.seats) == (True, 10, 4, 11)
    assert terms.opening is Phase.SELECTING


def test_a_client_that_is_here_gets_work():
    assert assignment(OPEN_RUN, FILLING, HERE) == Grant()


@pytest.mark.parametrize(
    ("now", "asker", "why"),
    [
        (FILLING, replace(HERE, pending=True), Why.PENDING),
        (FILLING, replace(HERE, contributed=True), Why.CONTRIBUTED),
        (FILLING, replace(HERE, wants_work=False), Why.UNWANTED),
        (FILLING, replace(HERE, holds=(HOLD,), listed=frozenset({b"lease"})), Why.BUSY),
        (replace(FILLING, paused=True), HERE, Why.PAUSED),
        (replace(FILLING, combining=1), HERE, Why.COMBINING),
        (replace(FILLING, round=None, phase=None), HERE, Why.COMBINING),
    ],
    ids=lambda x: x.name if isinstance(x, Why) else "",
)
def test_every_no_has_its_reason(now: Situation, asker: Asker, why: Why):
    assert assignment(OPEN_RUN, now, asker) == Decline(why)


def test_a_run_that_is_done_gives_no_work_ever():
    assert assignment(replace(OPEN_RUN, last_version=5), FILLING, HERE) == Finished()


@pytest.mark.parametrize("alive", [True, False])
def test_a_lease_that_the_client_lost_is_delivered_again(alive: bool):  # noqa: FBT001
    """Also one whose time ran out: a second lease for the same version would count one client twice."""
    asker = replace(HERE, holds=(replace(HOLD, alive=alive),))

    assert assignment(OPEN_RUN, FILLING, asker) == Redeliver(b"lease")


def test_a_lease_of_an_older_version_is_not_delivered_again():
    asker = replace(HERE, holds=(replace(HOLD, version=4),))

    assert assignment(OPEN_RUN, FILLING, asker) == Grant()


def test_a_synchronous_round_hands_out_its_seats_and_no_more():
    assert assignment(COHORT_RUN, replace(REPORTING, leased=2, received=1), HERE) == Grant()
    assert assignment(COHORT_RUN, replace(REPORTING, leased=3, received=1), HERE) == Decline(Why.ROUND_FULL)


@given(st.integers(0, 20), st.integers(0, 3), st.integers(0, 20))
def test_staleness_counts_the_versions_that_come_first(version: int, combining: int, start: int):
    now = replace(FILLING, version=version, combining=combining)

    assert staleness(now, start) == max(0, version + combining - start)


def test_the_staleness_weight_is_the_papers():
    assert [round(staleness_weight(tau), 10) for tau in range(4)] == [1, 0.7071067812, 0.5773502692, 0.5]


@pytest.mark.parametrize(("version", "offer"), [(5, Offer.WANTED), (4, Offer.WANTED_LATE), (3, Offer.WANTED_LATE)])
def test_late_work_counts_at_its_weight(version: int, offer: Offer):
    found = verdict(OPEN_RUN, FILLING, replace(HOLD, version=version, round=1, alive=False), contributed=False)

    assert found.offer is offer
    assert found.weight == pytest.approx((1 + 5 - version) ** -0.5, rel=1e-15)


@pytest.mark.parametrize(
    ("terms", "now", "hold", "contributed"),
    [
        (OPEN_RUN, FILLING, replace(HOLD, version=2), False),
        (OPEN_RUN, replace(FILLING, combining=1), replace(HOLD, version=3), False),
        (OPEN_RUN, FILLING, HOLD, True),
        (replace(OPEN_RUN, last_version=5), FILLING, HOLD, False),
        (COHORT_RUN, REPORTING, replace(HOLD, round=5), False),
        (OPEN_RUN, replace(FILLING, round=None, phase=None), HOLD, False),
    ],
    ids=["too stale", "too stale once combined", "counted already", "run done", "another round", "no round"],
)
def test_what_cannot_count_is_not_uploaded(terms: Terms, now: Situation, hold: Hold, contributed: bool):  # noqa: FBT001
    found = verdict(terms, now, hold, contributed=contributed)

    assert (found.offer, found.weight) == (Offer.NOT_WANTED, 0)
    assert found.human


@given(
    st.builds(
        Situation,
        version=st.integers(0, 6),
        combining=st.integers(0, 2),
        round=st.integers(1, 9),
        phase=st.sampled_from([Phase.FILLING, Phase.SELECTING, Phase.REPORTING]),
        received=st.integers(0, 4),
        leased=st.integers(0, 4),
        age_s=st.none() | st.floats(0, 100),
        paused=st.booleans(),
    ),
    st.builds(
        Hold,
        lease_id=st.just(b"x"),
        round=st.integers(1, 9),
        version=st.integers(0, 6),
        alive=st.booleans(),
        open=st.just(True),  # noqa: FBT003 - its only argument
    ),
    st.booleans(),
    st.integers(0, 7),
)
def test_work_is_never_continued_that_would_be_turned_away(now: Situation, hold: Hold, synchronous: bool, last: int):  # noqa: FBT001
    """What useful lets a client go on with, verdict accepts; otherwise hours of a laptop would go to waste."""
    terms = replace(OPEN_RUN, synchronous=synchronous, last_version=last)

    if useful(terms, now, hold):
        assert verdict(terms, now, hold, contributed=False).offer is not Offer.NOT_WANTED


def test_an_asynchronous_round_closes_at_its_number_and_has_no_deadline():
    assert event(OPEN_RUN, replace(FILLING, received=2, age_s=1e9)) is None
    assert event(OPEN_RUN, replace(FILLING, received=3, age_s=None)) is Event.GOAL


@pytest.mark.parametrize(
    ("received", "leased", "age_s", "expected"),
    [
        (0, 3, 0, None),
        (0, 4, 0, Event.SELECTED),
        (1, 3, 0, Event.SELECTED),
        (3, 0, 0, Event.GOAL),
        (1, 0, 60, Event.TOO_FEW),
        (2, 0, 60, Event.ENOUGH),
        (2, 0, 59.9, None),
        (0, 0, None, None),
    ],
)
def test_a_synchronous_round_closes_at_its_number_or_its_deadline(received, leased, age_s, expected):
    now = replace(FILLING, phase=Phase.SELECTING, received=received, leased=leased, age_s=age_s)

    assert event(COHORT_RUN, now) is expected


def test_a_round_that_is_closed_has_nothing_happen_to_it():
    assert event(COHORT_RUN, replace(FILLING, phase=Phase.AGGREGATING, received=9, age_s=99.0)) is None
