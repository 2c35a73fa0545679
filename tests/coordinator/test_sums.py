"""Whatever comes to a sum out of order, forged, replayed or too large is refused by name, and the sum goes on."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinators import FakeClock, Hosted, hosting, refused
from guests import Guest, guests
from potluck.coordinator.renewal import again
from potluck.wire.envelopes import Purpose, sign
from potluck.wire.secure.messages import Step
from potluck.wire.v1 import sums_pb2 as pb
from potluck.wire.v1 import work_pb2
from potluck.wire.v1.envelope_pb2 import Envelope
from scripted import recipe
from summing import COHORT, summed_recipe

RECIPE = summed_recipe(privacy={"rendezvous_s": 60.0, "answer_s": 20, "vector_s": 60})
FEW = 4


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    with hosting(tmp_path / "run", RECIPE) as made:
        yield made


@pytest.fixture
def begun(hosted: Hosted) -> list[Guest]:
    """Return the guests of a sum that has just begun."""
    made = guests(hosted, COHORT)
    for guest in made:
        guest.meet()
    for guest in made:
        guest.begin()
    return made


def forged(envelope: Envelope) -> Envelope:
    """Return *envelope* with one bit of its payload changed."""
    payload = bytearray(envelope.payload)
    payload[-1] ^= 1
    return Envelope(payload=bytes(payload), signer=envelope.signer, signature=envelope.signature)


def test_a_run_that_sums_takes_no_single_update(hosted: Hosted):
    volunteer = hosted.volunteer()
    lease = volunteer.lease()
    data = volunteer.train(lease)

    with refused("sums_only"):
        volunteer.offer(lease.lease_id, data)
    with refused("sums_only"):
        volunteer.submit(lease.lease_id, data)
    assert not list((hosted.folder / "spool").iterdir())


def test_a_run_that_reads_updates_has_no_sum(tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as hosted:
        (guest,) = guests(hosted, 1)
        with refused("bad_request"):
            guest.meet()


@pytest.mark.parametrize(("unit", "epsilon", "seen"), [("example", 1.5, 7), ("example", math.nan, 0), ("none", 1.5, 0)])
def test_how_long_a_ledger_is_is_remembered_before_anything_is_revealed(
    tmp_path: Path, unit: str, epsilon: float, seen: int
):
    """So a client that sets its ledger back after a sum that ended badly is found out, too."""
    run = summed_recipe(privacy={"differential": {"unit": unit}})
    with hosting(tmp_path / "run", run) as hosted:
        (guest,) = guests(hosted, 1)
        for lines in (7, 3):
            guest.meet(spent=work_pb2.Spent(unit=unit, epsilon=epsilon, delta=1e-5, lines=lines))

        assert guest.check_in().ledger_lines == seen


def test_who_meets_must_be_a_member_with_a_lease_of_its_own(hosted: Hosted):
    one, other = guests(hosted, 2)
    stranger = Guest(one.token, lease_id=one.lease_id)
    hosted.volunteers.append(stranger)

    with refused("not_a_member"):
        stranger.meet()
    with refused("unknown_lease"):
        one.meet(lease_id=other.lease_id)
    with refused("bad_request"):
        one.meet(digest=b"short")


def test_too_few_are_parked_until_one_moment_and_nothing_begins(tmp_path: Path):
    clock = FakeClock()
    with hosting(tmp_path / "run", RECIPE, clock=clock) as hosted:
        few = guests(hosted, FEW)
        for guest in few:
            reply = guest.meet()
        assert (reply.verdict, reply.present, reply.wanted) == (pb.MEET_VERDICT_WAIT, FEW, 5)

        for _ in range(30):
            clock.time_s += 2.0
            for guest in few:
                guest.meet()
        for _ in range(200):
            replies = [guest.meet() for guest in few]
            if all(reply.verdict == pb.MEET_VERDICT_PARK for reply in replies):
                break
        assert {reply.verdict for reply in replies} == {pb.MEET_VERDICT_PARK}
        assert len({round(reply.again_in_s, 3) for reply in replies}) == 1
        assert hosted.coordinator.status().version == 0


def test_a_sum_begins_for_those_who_met_and_nobody_else(hosted: Hosted, begun: list[Guest]):
    (late,) = guests(hosted, 1)

    assert late.meet().verdict == pb.MEET_VERDICT_WAIT
    with refused("sum_stranger"):
        late.step(Step.ADVERTISE, late.keys(begun[0].sid), sid=begun[0].sid)


def test_a_message_that_is_sent_again_changes_nothing(begun: list[Guest]):
    keys = begun[0].keys()

    first, again, asked = begun[0].step(1, keys), begun[0].step(1, keys), begun[0].step(1)

    assert [reply.WhichOneof("answer") for reply in (first, again, asked)] == ["wait_s"] * 3


def test_a_roster_comes_once_everybody_is_there(begun: list[Guest]):
    for guest in begun:
        guest.advertise()
    replies = [begun[0].step(Step.ADVERTISE) for _ in range(200)]

    assert replies[-1].WhichOneof("answer") == "message"


@pytest.mark.parametrize(
    ("code", "send"),
    [
        ("sum_contradicted", lambda one, _: (one.advertise(), one.advertise())),
        ("sum_out_of_order", lambda one, _: one.step(Step.SHARE, b"too early")),
        ("sum_out_of_order", lambda one, _: one.step(Step.UNMASK, b"far too early")),
        ("bad_request", lambda one, _: one.step(0, b"no stage")),
        ("bad_request", lambda one, _: one.step(6, b"no stage")),
        ("no_sum", lambda one, _: one.step(Step.ADVERTISE, one.keys(), sid=bytes(32))),
        ("sum_stranger", lambda one, other: one.step(Step.ADVERTISE, one.keys(), lease_id=other.lease_id)),
        ("sum_malformed", lambda one, _: one.step(Step.ADVERTISE, b"\xff" * 40)),
        ("sum_bad_signature", lambda one, _: one.step(Step.ADVERTISE, one.keys(sid=bytes(32)))),
        ("too_large", lambda one, _: one.step(Step.ADVERTISE, bytes(70_000))),
        (
            "bad_signature",
            lambda one, _: one.send_step(forged(one.signed(Purpose.STEP, one.request(1, one.keys())))),
        ),
        (
            "bad_signature",
            lambda one, _: one.send_step(one.signed(Purpose.MEET, one.request(1, one.keys()))),
        ),
        (
            "bad_signature",
            lambda one, _: one.send_step(sign(one.key, Purpose.STEP, "another coordinator", one.request(1))),
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_the_sum_goes_on(begun: list[Guest], code: str, send):
    one, other = begun[:2]

    with refused(code):
        send(one, other)

    assert other.advertise().WhichOneof("answer") == "wait_s"


def test_somebody_elses_keys_cannot_be_sent_on(begun: list[Guest]):
    """An entry is signed by its owner; whoever sends it must be that owner."""
    one, other = begun[:2]

    with refused("sum_stranger"):
        one.step(Step.ADVERTISE, other.keys())


def test_an_update_that_can_no_longer_be_in_a_sum_gets_its_receipt_at_once(hosted: Hosted):
    one = guests(hosted, 1)[0]
    with hosted.coordinator.desk.site.store.writing() as books:
        version = books.versions.find(0)
        assert version is not None
        again(hosted.coordinator.desk.site, books, version, "version_renewed")

    reply = one.meet()

    assert reply.verdict == pb.MEET_VERDICT_ANSWERED
    assert reply.HasField("receipt")
    assert one.meet().receipt == reply.receipt
    with refused("conflict"):
        one.meet(digest=bytes(32))
