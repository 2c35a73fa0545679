"""What one member, or two, could do to everybody, and cannot."""

from pathlib import Path

import pytest

from coordinators import hosting, refused
from potluck.wire.audit import verify_log
from potluck.wire.v1 import work_pb2 as pb
from scripted import recipe

DAY_S = 86_400.0


def test_a_loss_beyond_belief_stops_neither_log_nor_release(tmp_path: Path):
    """Two losses of 1.7e308 once added up to infinity, which no JSON holds: no release, and no log, ever again."""
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 2})) as host:
        for volunteer in host.cohort(2):
            lease = volunteer.lease()
            data = volunteer.train(lease)
            volunteer.upload(volunteer.offer(lease.lease_id, data), data)
            request = volunteer.submit_request(lease.lease_id, data)
            request.loss_before = request.loss_after = 1.7e308
            assert volunteer.send_submit(request).verdict == pb.VERDICT_ACCEPTED

        assert host.coordinator.wait_for_version(1, 30)
        assert host.coordinator.trouble == ""
        assert host.coordinator.history().versions[0].loss_before == 0
    assert verify_log(tmp_path / "run").version == 1


@pytest.mark.parametrize("gives_back", [True, False], ids=["aborting", "walking away"])
def test_offers_that_come_to_nothing_leave_room_for_others(tmp_path: Path, *, gives_back: bool):
    """A lease, an offer, and the lease given back: a loop of these once filled the spool for ever."""
    small = recipe(aggregation={"cohort": 1}, limits={"spool_bytes": 1_000_000, "lease_s": 60.0})
    with hosting(tmp_path / "run", small) as host:
        greedy, honest = host.cohort(2)
        for _ in range(5):
            lease = greedy.lease()
            greedy.offer(lease.lease_id, b"x", size=900_000)
            if gives_back:
                greedy.abort(lease.lease_id)
        host.clock.time_s += 2 * DAY_S

        lease = honest.lease()

        assert honest.offer(lease.lease_id, honest.train(lease)).verdict == pb.OFFER_VERDICT_WANTED


def test_an_offer_larger_than_any_codec_makes_it_is_refused(tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as host:
        volunteer = host.volunteer()
        lease = volunteer.lease()

        with refused("too_large"):
            volunteer.offer(lease.lease_id, b"x", size=20_000_000)


def test_a_used_up_invite_still_tells_those_it_let_in_what_they_joined(tmp_path: Path):
    """Its client may have crashed between being let in and knowing it; with one use, it could never come back."""
    with hosting(tmp_path / "run", recipe()) as host:
        token = host.invite(uses=1)
        volunteer = host.volunteer(token=token)

        assert volunteer.about().uses_left == 0
        assert volunteer.enroll().client_id == volunteer.client_id
        with refused("invite_spent"):
            host.volunteer(1, token=token)


def test_an_expired_invite_lets_nobody_new_in(tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as host:
        token = host.invite(expires_s=60)
        volunteer = host.volunteer(token=token)
        host.clock.time_s += 61

        assert volunteer.about().uses_left == 0
        assert volunteer.enroll().client_id == volunteer.client_id
        with refused("invite_expired"):
            host.volunteer(1, token=token)


def test_leases_hoarded_over_versions_make_no_round_of_one_client(tmp_path: Path):
    """A lease for each version, all delivered at once, once filled whole rounds with one client."""
    settings = {"cohort": 2, "max_staleness": 5}
    with hosting(tmp_path / "run", recipe(aggregation=settings)) as host:
        hoarder, first, second = host.cohort(3)
        hoard = []
        for version in range(1, 4):
            lease = hoarder.lease()
            hoard.append((lease, hoarder.train(lease)))
            for honest in (first, second):
                honest.contribute()
            assert host.coordinator.wait_for_version(version, 30)

        verdicts = [hoarder.deliver(lease, data).verdict for lease, data in hoard[:2]]

        assert verdicts[0] == pb.VERDICT_ACCEPTED
        assert verdicts[1] == pb.VERDICT_TOO_LATE
        assert host.coordinator.status().received == 1


def test_a_given_back_update_leaves_no_bytes(tmp_path: Path):
    """Sent whole, then the lease given back: the next offer of anybody clears it away."""
    with hosting(tmp_path / "run", recipe()) as host:
        greedy, honest = host.cohort(2)
        lease = greedy.lease()
        data = greedy.train(lease)
        greedy.upload(greedy.offer(lease.lease_id, data), data)
        greedy.abort(lease.lease_id)
        assert len(list((tmp_path / "run" / "spool").iterdir())) == 1

        lease = honest.lease()
        honest.offer(lease.lease_id, honest.train(lease))

        assert not list((tmp_path / "run" / "spool").iterdir())
