"""What a client agreed to is what is summed, to the last field; anything else is refused, and says which it is."""

from dataclasses import fields, replace

import pytest

from cohorts import COORDINATOR, TERMS, Cohort, client, cohort, key_of, proposal, public, register
from lying import refused
from potluck.client.secure.participation import Participation
from potluck.client.secure.phases import Phase
from potluck.coordinator.secure.sums import SecureSum, Site
from potluck.wire.secure.messages import Step
from potluck.wire.secure.parameters import MAX_DEADLINE_S, Parameters, Terms
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Entry, Roster

OTHERS: dict[str, object] = {
    "run_id": "another",
    "version": TERMS.version + 1,
    "base": b"\x01" * 32,
    "manifest": b"\x02" * 32,
    "size": TERMS.size + 1,
    "bits": 32,
    "clip": TERMS.clip * 2,
    "cohort_max": TERMS.cohort_max - 1,
    "cohort_min": TERMS.cohort_min + 1,
    "corrupt": "1/5",
    "max_weight": 2,
    "reports_loss": True,
    "privacy": "epsilon = 8",
}


def opened(parameters: Parameters) -> bytes:
    """Return the opening of a sum with these parameters, by the coordinator that everybody knows."""
    return SecureSum(parameters, Site(COORDINATOR, register())).message(Step.OPEN, b"") or b""


def offered(one: Participation, parameters: Parameters) -> Reason:
    reason = refused(lambda: one.take(Step.OPEN, opened(parameters)))
    assert one.phase is Phase.LEFT
    return reason


def test_there_is_another_value_for_every_term():
    assert set(OTHERS) == {field.name for field in fields(Terms)}


@pytest.mark.parametrize("name", OTHERS)
def test_a_term_that_is_not_as_agreed_is_refused_and_named(name: str):
    altered = proposal(replace(TERMS, **{name: OTHERS[name]}))

    with pytest.raises(SumRefusal, match=f"{name} = ") as caught:
        client(0).take(Step.OPEN, opened(altered))
    assert caught.value.reason is Reason.TERMS
    assert client(0).take(Step.OPEN, opened(proposal())) is not None


@pytest.mark.parametrize("deadlines_s", [(0, 20, 150, 15, 20), (60, 20, MAX_DEADLINE_S + 1, 15, 20)])
def test_a_deadline_out_of_bounds_is_refused(deadlines_s: tuple[int, ...]):
    assert offered(client(0), replace(proposal(), deadlines_s=deadlines_s)) is Reason.DEADLINE


def test_another_coordinator_than_that_of_the_invite_is_refused():
    theirs = SecureSum(proposal(), Site(key_of(7), register())).message(Step.OPEN, b"") or b""

    assert refused(lambda: client(0).take(Step.OPEN, theirs)) is Reason.BAD_SIGNATURE


def test_an_update_of_another_length_is_not_masked():
    """The terms agree and the vector does not: a defect of the client's own, seen before anything is said."""
    one = client(0)
    one._words = one._words[:-1]  # noqa: SLF001

    assert offered(one, proposal()) is Reason.WRONG_LENGTH


@pytest.mark.parametrize(("least", "small_groups"), [(5, False), (9, False), (4, True), (2, True)])
def test_a_minimum_below_the_owners_floor_is_refused(least: int, *, small_groups: bool):
    terms = replace(TERMS, cohort_min=least)

    assert offered(client(0, terms, small_groups=small_groups), proposal(terms)) is Reason.SMALL_COHORT


@pytest.mark.parametrize("members", [1, 4, 9])
def test_a_roster_below_the_floor_is_refused_although_the_terms_are_right(members: int):
    """A coordinator that keeps clients out until one honest one is left with its own."""
    floor = replace(TERMS, cohort_min=10)
    run = cohort(12, floor, small_groups=False)
    run.run(until=Step.ADVERTISE)
    lines = Roster.parse(run.sum.message(Step.ADVERTISE, public(key_of(0))) or b"").entries
    mine = next(one for one in lines if one.public_key == public(key_of(0)))
    kept = sorted([mine, *[one for one in lines if one != mine][: members - 1]], key=lambda one: one.node)

    assert refused(lambda: run.clients[0].take(Step.ADVERTISE, Roster(tuple(kept)).to_bytes())) is Reason.SMALL_COHORT


def halves(other: Parameters, terms: Terms) -> tuple[Cohort, Cohort]:
    """Return two sums of six, in which the clients agreed to what each is told, advertised to."""
    runs = []
    for parameters, numbers in ((proposal(), range(6)), (other, range(6, 12))):
        own = TERMS if parameters.terms == TERMS else terms
        run = Cohort(SecureSum(parameters, Site(COORDINATOR, register())), {n: client(n, own) for n in numbers})
        run.run(until=Step.ADVERTISE)
        runs.append(run)
    return runs[0], runs[1]


@pytest.mark.parametrize(
    ("name", "value"), [("base", b"\x01" * 32), ("manifest", b"\x02" * 32), ("clip", 2.0), ("privacy", "epsilon = 8")]
)
def test_clients_that_are_told_different_things_are_in_different_sums(name: str, value: object):
    """Handing one client another model is the attack: nobody's signature for it is good in the sum of the others.

    Source: Pasquini et al. 2022, arXiv:2111.07380.
    """
    terms = replace(TERMS, **{name: value})
    one, other = halves(proposal(terms), terms)
    mixed = [Entry.parse(sent.message) for run in (one, other) for sent in run.sent.values()]
    together = Roster(tuple(sorted(mixed, key=lambda line: line.node))).to_bytes()

    assert one.sum.sid != other.sum.sid
    for run, number in ((one, 0), (other, 6)):
        assert refused(lambda run=run, number=number: run.clients[number].take(Step.ADVERTISE, together)) is (
            Reason.BAD_SIGNATURE
        )


def test_two_that_are_told_the_same_but_for_the_nonce_are_in_different_sums_too():
    one, other = halves(proposal(nonce=1), TERMS)
    theirs = other.sent[Step.ADVERTISE, 6].message

    assert one.sum.sid != other.sum.sid
    fresh = SecureSum(proposal(), Site(COORDINATOR, register()))
    assert refused(lambda: fresh.take(Step.ADVERTISE, public(key_of(6)), theirs)) is Reason.BAD_SIGNATURE
