"""What a member, or a disk, can do to a sum, and why it cannot do so for ever."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from coordinators import hosting, refused
from guests import Guest, guests, play_sum
from potluck.client.secure.participation import Outgoing
from potluck.coordinator.steps import Step as Point
from potluck.coordinator.steps import When
from potluck.wire.refusals import Refusal
from potluck.wire.secure.messages import Openings, Step
from potluck.wire.secure.signatures import node_id
from potluck.wire.v1 import sums_pb2, work_pb2
from summing import COHORT, entries, summed_recipe

RECIPE = summed_recipe(run={"versions": 9})


def node(guest: Guest) -> bytes:
    return node_id(guest.key.public_key().public_bytes_raw())


def met(made: list[Guest]) -> None:
    """Let all of them meet until their sum begins."""
    for guest in made:
        guest.lease_id = guest.lease().lease_id
        guest.meet()
    for guest in made:
        guest.begin()


def spoilt_by(dealer: Guest, made: list[Guest]):
    """Return what makes the sum of *made* as if *dealer* had dealt everybody shares of nothing."""
    mine = sorted(map(node, made)).index(node(dealer))  # as the roster has them

    def spoil(_: Guest, said: Outgoing) -> Outgoing:
        if said.step is not Step.UNMASK:
            return said
        shares = list(Openings.parse(said.message).shares)
        shares[mine] = bytes([0]) + bytes(reversed(shares[mine][1:]))
        return replace(said, message=Openings(tuple(shares)).to_bytes())

    return spoil


def test_who_spoils_a_sum_is_named_and_in_none_of_the_next_version(tmp_path: Path, caplog):
    with hosting(tmp_path / "run", RECIPE) as hosted, caplog.at_level(logging.WARNING):
        made = guests(hosted, COHORT + 1)
        first, dealer = made[:COHORT], made[3]
        met(first)
        play_sum(first, spoilt_by(dealer, first))

        assert hosted.coordinator.status().version == 1  # the same adapter, for which all but one may try again
        (told,) = [one for one in entries(tmp_path / "run") if one["kind"] == "share_did_not_fit"]
        assert (told["dealer"], told["holder"]) == (dealer.key.public_key().public_bytes_raw().hex(), "")
        assert f"dealer={dealer.client_id} holder=all proven=True" in caplog.text

        dealer.lease_id = dealer.lease().lease_id
        with refused("sum_dealer"):
            dealer.meet()
        others = [guest for guest in made if guest is not dealer]
        met(others)
        play_sum(others)
        assert hosted.coordinator.wait_for_version(2, 20.0)
        assert hosted.coordinator.history().versions[0].contributors == COHORT

        dealer.lease_id = dealer.lease().lease_id
        assert dealer.meet().verdict == sums_pb2.MEET_VERDICT_WAIT


@pytest.mark.parametrize("when", [When.BEFORE, When.INSIDE])
def test_a_disk_that_is_full_when_a_sums_members_are_written_down_does_not_end_the_sum(tmp_path: Path, when: When):
    failed = []

    def on_step(point: Point, at: When) -> None:
        if (point, at) == (Point.REVEAL, when) and len(failed) < 2:
            failed.append(point)
            raise Refusal("the disk is full", code="disk_full", fix="make room")

    with hosting(tmp_path / "run", RECIPE, on_step=on_step) as hosted:
        made = guests(hosted, COHORT)
        met(made)
        play_sum(made)

        assert hosted.coordinator.wait_for_version(1, 20.0)
        assert hosted.coordinator.history().versions[0].contributors == COHORT
    assert len(failed) == 2
    kinds = [one["kind"] for one in entries(tmp_path / "run")]
    assert (kinds.count("sum_revealed"), kinds.count("sum_lost")) == (1, 0)


@pytest.mark.parametrize(("point", "when"), [(Point.SPOOL, When.INSIDE), (Point.SPOOL, When.AFTER)])
def test_what_fails_around_the_keeping_of_a_sum_does_not_make_it_a_lost_one(tmp_path: Path, point: Point, when: When):
    """After it, as where the disk is full when its uploads are forgotten, all is done again and finds the sum kept."""
    failed = []

    def on_step(at: Point, which: When) -> None:
        if (at, which) == (point, when) and not failed:
            failed.append(at)
            raise Refusal("the disk is full", code="disk_full", fix="make room")

    with hosting(tmp_path / "run", RECIPE, on_step=on_step) as hosted:
        made = guests(hosted, COHORT)
        met(made)
        play_sum(made)

        assert hosted.coordinator.wait_for_version(1, 20.0)
        assert hosted.coordinator.history().versions[0].contributors == COHORT
        assert {guest.receipt(guest.meet()).verdict for guest in made} == {work_pb2.VERDICT_ACCEPTED}
    assert failed
    kinds = [one["kind"] for one in entries(tmp_path / "run")]
    assert (kinds.count("sum_revealed"), kinds.count("sum_lost")) == (1, 0)


def test_the_receipt_of_a_lost_sum_says_what_its_member_told_that_it_cost(tmp_path: Path):
    """A record's privacy is spent whether the sum comes to something or not."""
    run = summed_recipe(run={"versions": 9}, privacy={"differential": {"unit": "example"}})
    with hosting(tmp_path / "run", run) as hosted:
        made = guests(hosted, COHORT)
        for number, guest in enumerate(made):
            guest.spent = work_pb2.Spent(unit="example", epsilon=1.0 + number, delta=1e-5, lines=3 + number)
        met(made)
        play_sum(made, spoilt_by(made[3], made))
        told = [guest.receipt(guest.meet()) for guest in made]

        assert hosted.coordinator.status().version == 1
    assert {one.verdict for one in told} == {work_pb2.VERDICT_TOO_LATE}
    assert [(one.spent.epsilon, one.spent.lines) for one in told] == [(1.0 + n, 3 + n) for n in range(COHORT)]
