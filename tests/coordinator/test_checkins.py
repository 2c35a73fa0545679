"""A check-in puts right whatever got lost between client and coordinator."""

from pathlib import Path

from coordinators import FakeClock, Hosted, hosting, refused
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, recipe

TRAINING, SEALED = pb.TASK_STATE_TRAINING, pb.TASK_STATE_COMMITTING


def reason(reply: pb.CheckInReply) -> int:
    assert reply.WhichOneof("answer") == "no_work", reply
    assert reply.no_work.human
    return reply.no_work.reason


def test_a_lease_carries_all_that_a_client_needs(hosted: Hosted):
    reply = hosted.volunteer().check_in()

    assert (reply.lease.round, reply.lease.version, len(reply.lease.lease_id)) == (1, 0, 16)
    assert (reply.lease.recipe_digest, reply.lease.ttl_s) == (recipe().digest(), 60)
    assert reply.lease.max_update_bytes == recipe().limits.max_update_bytes
    assert 0.02 <= reply.poll_window.min_s < reply.poll_window.max_s <= 1.0
    assert reply.coordinator_time_ms == round(hosted.clock.time_s * 1000)


def test_every_lease_of_one_version_has_the_same_seed(hosted: Hosted):
    seeds = {volunteer.lease().seed for volunteer in hosted.cohort(3)}

    assert len(seeds) == 1


def test_a_lease_whose_delivery_was_lost_comes_again(hosted: Hosted):
    """Protocol, scenario 7: the client lists nothing, so it never got it."""
    volunteer = hosted.volunteer()
    first = volunteer.lease()

    hosted.clock.time_s += 30
    again = volunteer.lease()

    assert (again.lease_id, again.ttl_s) == (first.lease_id, 60)


def test_a_check_in_that_is_sent_twice_gets_the_same_lease(hosted: Hosted):
    volunteer = hosted.volunteer()
    request = volunteer.check_in_request()

    assert volunteer.send_check_in(request).lease.lease_id == volunteer.send_check_in(request).lease.lease_id


def test_a_lease_that_is_held_is_not_sent_again(hosted: Hosted):
    volunteer = hosted.volunteer()
    lease = volunteer.lease()

    reply = volunteer.check_in({lease.lease_id: TRAINING})

    assert reason(reply) == pb.REASON_UNWANTED
    assert not reply.cancel


def test_a_lease_that_nobody_gave_is_cancelled_and_work_is_given(hosted: Hosted):
    reply = hosted.volunteer().check_in({b"x" * 16: TRAINING})

    assert [(one.lease_id, one.human) for one in reply.cancel] == [
        (b"x" * 16, "the coordinator does not know this lease")
    ]
    assert reply.lease.lease_id


def test_the_lease_of_another_client_is_cancelled(hosted: Hosted):
    first, second = hosted.cohort(2)
    lease = first.lease()

    assert second.check_in({lease.lease_id: TRAINING}).cancel[0].lease_id == lease.lease_id
    with refused("unknown_lease"):
        second.offer(lease.lease_id, b"data")


def test_a_finished_lease_is_cancelled_unless_its_receipt_is_still_wanted(hosted: Hosted):
    volunteer = hosted.volunteer()
    lease = volunteer.lease()
    volunteer.deliver(lease)

    assert volunteer.check_in({lease.lease_id: TRAINING}).cancel
    assert not volunteer.check_in({lease.lease_id: SEALED}).cancel


def test_one_update_of_a_version_is_enough(hosted: Hosted):
    volunteer = hosted.volunteer()
    volunteer.contribute()

    assert reason(volunteer.check_in()) == pb.REASON_CONTRIBUTED


def test_nobody_works_who_does_not_want_to(hosted: Hosted):
    assert reason(hosted.volunteer().check_in(wants_work=False)) == pb.REASON_UNWANTED


def test_a_paused_run_gives_no_work_and_takes_what_is_under_way(hosted: Hosted):
    first, second = hosted.cohort(2)
    lease = first.lease()
    hosted.coordinator.pause()

    assert reason(second.check_in()) == pb.REASON_PAUSED
    assert first.deliver(lease).verdict == pb.VERDICT_ACCEPTED
    hosted.coordinator.resume()
    assert second.lease()


def test_a_lease_that_ran_out_still_counts_and_can_be_renewed(hosted: Hosted):
    """Protocol, scenario 2: a laptop slept past its lease; nobody took anything from it."""
    volunteer = hosted.volunteer()
    lease = volunteer.lease()
    hosted.clock.time_s += 3_600

    reply = volunteer.check_in({lease.lease_id: TRAINING})
    renewed = volunteer.renew(lease.lease_id)

    assert not reply.cancel
    assert (renewed.proceed, renewed.ttl_s, renewed.next_renew_s) == (True, 60, 20)
    assert volunteer.deliver(lease).verdict == pb.VERDICT_ACCEPTED


def test_work_on_a_start_that_is_too_old_is_cancelled(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 1, "max_staleness": 0})) as hosted:
        slow, quick = hosted.cohort(2)
        lease = slow.lease()
        quick.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)

        renewed = slow.renew(lease.lease_id)
        reply = slow.check_in({lease.lease_id: TRAINING})

    assert (renewed.proceed, renewed.human) == (False, "its round went on without it")
    assert reply.cancel[0].lease_id == lease.lease_id
    assert reply.lease.version == 1


def test_an_abort_ends_a_lease_and_has_no_effect_the_second_time(hosted: Hosted):
    volunteer = hosted.volunteer()
    lease = volunteer.lease()

    volunteer.abort(lease.lease_id)
    volunteer.abort(lease.lease_id)

    assert not volunteer.renew(lease.lease_id).proceed
    assert volunteer.lease().lease_id != lease.lease_id
    with refused("unknown_lease"):
        volunteer.offer(lease.lease_id, b"data")


def test_a_copied_identity_is_noticed_and_gets_no_work(hosted: Hosted):
    """Protocol, scenario 12: one folder on two machines."""
    original = hosted.volunteer()
    original.check_in()
    copy = Volunteer(original.token, key=original.key, seqno=original.seqno, recipe=original.recipe)
    hosted.volunteers.append(copy)
    original.check_in()

    with refused("cloned_identity"):
        copy.check_in()
    assert hosted.coordinator.status().members == 1


def test_a_copied_identity_is_noticed_after_a_restart_too(tmp_path: Path):
    clock = FakeClock()
    with hosting(tmp_path / "run", recipe(), clock=clock) as hosted:
        original = hosted.volunteer()
        for _ in range(3):
            original.check_in()
    with hosting(tmp_path / "run", recipe(), clock=clock) as hosted:
        copy = Volunteer(hosted.invite(), key=original.key, seqno=1, recipe=original.recipe)
        hosted.volunteers.append(copy)
        with refused("cloned_identity"):
            copy.check_in()


def test_a_captured_check_in_is_void(hosted: Hosted):
    volunteer = hosted.volunteer()
    captured = volunteer.check_in_request()
    volunteer.send_check_in(captured)
    volunteer.check_in()

    with refused("bad_request"):
        volunteer.send_check_in(captured)
    assert volunteer.check_in()


def test_a_client_of_another_protocol_is_told_what_is_spoken_here(hosted: Hosted):
    volunteer = hosted.volunteer()
    request = volunteer.check_in_request()
    request.protocol.oldest = request.protocol.newest = 9

    reply = volunteer.send_check_in(request)

    assert reply.upgrade_required.protocol.newest == 1
    assert reply.poll_window.max_s > 0


def test_a_client_that_consented_to_another_recipe_is_asked_again(tmp_path: Path):
    clock = FakeClock()
    with hosting(tmp_path / "run", recipe(), clock=clock) as hosted:
        volunteer = hosted.volunteer()
    changed = recipe(training={"steps": 7})
    with hosting(tmp_path / "run", changed, clock=clock) as hosted:
        same = Volunteer(hosted.invite(), key=volunteer.key, seqno=volunteer.seqno, recipe=volunteer.recipe)
        hosted.volunteers.append(same)

        reply = same.check_in()
        same.recipe = changed

        assert reply.consent_required.recipe_json == changed.to_json()
        assert same.lease().recipe_digest == changed.digest()


def test_a_run_that_reached_its_last_version_says_so(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(run={"versions": 1}, aggregation={"cohort": 1, "minimum": 1})) as hosted:
        volunteer = hosted.volunteer()
        volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)

        reply = volunteer.check_in()

        assert reply.run_done.version == 1
        assert reply.adapter.size > 0
        assert hosted.coordinator.status().done
        assert hosted.coordinator.status().round is None
