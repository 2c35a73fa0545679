"""An answer is given again only while it is true."""

from pathlib import Path

from coordinators import Hosted, hosting, refused
from potluck.coordinator.desk import Desk
from potluck.wire.v1 import work_pb2 as pb
from scripted import recipe


def test_waiting_costs_no_look_into_the_database(hosted: Hosted):
    """While nothing is written, the same question has the same answer; the numbers still grow."""
    volunteer = hosted.volunteer()
    volunteer.contribute()
    first = volunteer.check_in()
    before = hosted.coordinator.desk.site.store.changes

    again = [volunteer.check_in() for _ in range(5)]

    assert {reply.no_work.reason for reply in (first, *again)} == {pb.REASON_CONTRIBUTED}
    assert hosted.coordinator.desk.site.store.changes == before


def test_an_answer_changes_as_soon_as_the_round_does(hosted: Hosted):
    first, second, third = hosted.cohort(3)
    first.contribute()
    assert "1 of 3 are in" in first.check_in().no_work.human
    second.contribute()
    assert "2 of 3 are in" in first.check_in().no_work.human
    third.contribute()
    assert hosted.coordinator.wait_for_version(1, 10)

    assert first.check_in().lease.version == 1


def test_another_question_gets_another_answer(hosted: Hosted):
    volunteer = hosted.volunteer()

    assert volunteer.check_in(wants_work=False).no_work.reason == pb.REASON_UNWANTED
    assert volunteer.check_in(wants_work=True).lease.lease_id


def test_a_remembered_answer_does_not_let_a_copy_or_a_replay_through(hosted: Hosted):
    volunteer = hosted.volunteer()
    request = volunteer.check_in_request(wants_work=False)
    volunteer.send_check_in(request)
    volunteer.check_in(wants_work=False)

    with refused("bad_request"):
        volunteer.send_check_in(request)
    request.boot_id = b"x" * 16
    with refused("cloned_identity"):
        volunteer.send_check_in(request)


def test_what_another_process_did_is_noticed_within_a_moment(hosted: Hosted):
    volunteer = hosted.volunteer()
    volunteer.check_in(wants_work=False)
    desk = Desk.open(hosted.folder)
    desk.remove(volunteer.client_id)
    desk.close()

    hosted.coordinator.desk.site.bell.set()
    assert hosted.coordinator.wait_for_version(0, 10)
    hosted.coordinator.wait_for_version(1, 1.0)

    with refused("not_a_member"):
        volunteer.check_in(wants_work=False)


def test_a_full_round_is_asked_about_again_because_leases_run_out_by_themselves(tmp_path: Path):
    terms = {"mode": "synchronous", "cohort": 1, "over_selection": 1.0, "minimum": 1, "deadline_s": 1_000.0}
    with hosting(tmp_path / "run", recipe(aggregation=terms)) as hosted:
        first, second = hosted.cohort(2)
        first.lease()
        assert second.check_in().no_work.reason == pb.REASON_ROUND_FULL

        hosted.clock.time_s += 61

        assert second.lease()
