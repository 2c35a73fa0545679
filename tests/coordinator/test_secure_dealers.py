"""Wrong shares are corrected where they are few; where they end a sum, their dealer is named if it can be told."""

from dataclasses import replace
from enum import Enum

import pytest

from cohorts import Cohort, cohort, key_of, public
from lying import refused
from potluck.client.secure.phases import Phase as ClientPhase
from potluck.coordinator.secure.phases import Phase
from potluck.wire.secure.messages import Openings, Shares, Step
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.signatures import Tag, signed


class Cheat(Enum):
    """What a client does to its shares."""

    ONE_WRONG = "one client's openings are wrong"
    DEALT_ONE_WRONG = "a share dealt to one client is wrong"
    DEALT_ALL_WRONG = "all shares dealt are of nothing"
    DEALT_OUTSIDE = "no share dealt is an element of the field"


def cheated(cheat: Cheat, size: int = 10) -> Cohort:
    """Return a cohort that has gone through, in which client 0 cheats."""
    run = cohort(size)
    run.run(until=Step.AGREE)
    mine = run.sum._roster.position_of(public(key_of(0)))  # noqa: SLF001
    for number, one in run.clients.items():
        key = public(key_of(number))
        shares = list(Openings.parse(one.take(Step.AGREE, run.sum.message(Step.AGREE, key)).message).shares)
        wrong = {
            Cheat.ONE_WRONG: range(size) if number == 0 else (),
            Cheat.DEALT_ONE_WRONG: (mine - 1,) if number == 3 else (),
            Cheat.DEALT_ALL_WRONG: (mine - 1,),
            Cheat.DEALT_OUTSIDE: (mine - 1,),
        }[cheat]
        for place in wrong:
            first = 255 if cheat is Cheat.DEALT_OUTSIDE else 0
            shares[place] = bytes([first]) + bytes(reversed(shares[place][1:]))
        run.sum.take(Step.UNMASK, key, Openings(tuple(shares)).to_bytes())
    run.sum.close()
    return run


def test_wrong_openings_are_corrected_and_their_sender_is_named():
    run = cheated(Cheat.ONE_WRONG)

    assert run.sum.phase is Phase.SUMMED
    assert {suspect.holder for suspect in run.sum.result().suspects} == {public(key_of(0))}
    assert len(run.sum.suspects) == 10


def test_one_wrong_share_is_corrected_and_both_who_may_be_at_fault_are_named():
    run = cheated(Cheat.DEALT_ONE_WRONG)

    assert run.sum.phase is Phase.SUMMED
    assert [(one.holder, one.dealer) for one in run.sum.suspects] == [(public(key_of(3)), public(key_of(0)))]


@pytest.mark.parametrize("cheat", [Cheat.DEALT_ALL_WRONG, Cheat.DEALT_OUTSIDE], ids=lambda cheat: cheat.name)
def test_a_dealer_whose_shares_do_not_fit_ends_the_sum_and_is_named(cheat: Cheat):
    """Not those who pass its shares on: were they refused, all would drop out and nobody would be named."""
    run = cheated(cheat)

    assert (run.sum.phase, run.sum.reason) == (Phase.ENDED, Reason.DEALER)
    assert [(one.dealer, one.proven) for one in run.sum.suspects] == [(public(key_of(0)), True)]
    assert refused(run.sum.result) is Reason.DEALER


def test_where_others_could_make_it_look_so_nothing_is_proven_against_a_dealer():
    """Of nine, three may lie by the terms, and with three wrong shares no seven are right: the dealer may be honest."""
    run = cheated(Cheat.DEALT_ALL_WRONG, 9)

    assert [(one.dealer, one.proven) for one in run.sum.suspects] == [(public(key_of(0)), False)]


def sealing_nothing(run: Cohort, receivers: int) -> None:
    """Let client 0 seal what nobody can open for so many others, and the others go on; it is signed as it should be."""
    run.run(until=Step.ADVERTISE)
    for number, one in run.clients.items():
        key = public(key_of(number))
        found = Shares.parse(one.take(Step.ADVERTISE, run.sum.message(Step.ADVERTISE, key)).message)
        if number == 0:
            boxes = (*[bytes(82)] * receivers, *found.sealed[receivers:])
            payload = Shares.payload(run.sum.sid, run.sum._roster_hash, boxes, found.commitment)  # noqa: SLF001
            found = replace(found, sealed=boxes, signature=signed(key_of(0), Tag.SHARE, payload))
        run.sum.take(Step.SHARE, key, found.to_bytes())
    run.sum.close()
    for step in (Step.MASK, Step.AGREE, Step.UNMASK):
        run.advance(step)


def test_what_cannot_be_opened_makes_nobody_leave_and_tells_of_its_dealer():
    """Were it a reason to leave, one member could keep a run from ever having a sum, and nobody would know which."""
    run = cohort(10)
    sealing_nothing(run, 9)

    assert (run.sum.phase, run.sum.reason) == (Phase.ENDED, Reason.DEALER)
    assert [(one.dealer, one.proven) for one in run.sum.suspects] == [(public(key_of(0)), True)]
    assert run.clients[3].notes == ("1 of 9 sealed shares did not open",)


def test_a_sum_goes_on_where_one_cannot_open_what_one_other_sealed():
    run = cohort(10)
    sealing_nothing(run, 1)

    assert run.sum.phase is Phase.SUMMED
    assert [one.dealer for one in run.sum.suspects] == [public(key_of(0))]
    assert sum(bool(one.notes) for one in run.clients.values()) == 1


@pytest.mark.parametrize(("shut", "phase"), [(3, ClientPhase.MASKED), (4, ClientPhase.LEFT)])
def test_a_client_leaves_where_fewer_than_the_threshold_could_be_opened(shut: int, phase: ClientPhase):
    """Of ten it takes seven, its own among them."""
    run = cohort(10)
    run.run(until=Step.SHARE)
    told = run.sum.message(Step.SHARE, public(key_of(0))) or b""
    try:
        run.clients[0].take(Step.SHARE, told[: -82 * shut] + bytes(82 * shut))
    except SumRefusal as refusal:
        reason = refusal.reason
    else:
        reason = None

    assert run.clients[0].phase is phase
    assert reason is (Reason.BAD_SHARE if phase is ClientPhase.LEFT else None)
