"""Whole rounds of both kinds over real gRPC, and what the operator can do meanwhile."""

import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from coordinators import FakeClock, Hosted, hosting, refused
from potluck.coordinator.desk import BadCommand, Desk
from potluck.coordinator.phases import Phase
from potluck.coordinator.server import CannotListen, Coordinator
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import NoRun
from potluck.wire.audit import verify_log
from potluck.wire.releases import verify_release
from potluck.wire.v1 import work_pb2 as pb
from scripted import recipe


def test_a_run_goes_from_version_to_version(hosted: Hosted):
    volunteers = hosted.cohort(3)

    for version in (1, 2, 3):
        verdicts = {volunteer.contribute().verdict for volunteer in volunteers}
        assert verdicts == {pb.VERDICT_ACCEPTED}
        assert hosted.coordinator.wait_for_version(version, 10)

    status = hosted.coordinator.status()
    assert (status.version, status.round, status.phase, status.received, status.cohort) == (3, 4, Phase.FILLING, 0, 3)
    assert (status.members, status.leases, status.combining, status.paused) == (3, 0, 0, False)
    assert [(v.version, v.contributors, v.examples) for v in status.versions] == [
        (3, 3, 24),
        (2, 3, 24),
        (1, 3, 24),
        (0, 0, 0),
    ]
    assert (status.versions[0].loss_before, status.versions[0].loss_after) == (2.0, 1.5)
    assert {one.credit for one in hosted.coordinator.history().contributions} == {24}


def test_a_version_comes_with_the_bytes_that_made_it(hosted: Hosted):
    """Another process that reads the books right after a run has ended must not be told too little.

    The seconds for which counts may wait are far longer than a small round takes.
    """
    told = []
    for number in (1, 2, 3):
        sizes = []
        for volunteer in hosted.volunteers or hosted.cohort(3):
            lease = volunteer.lease()
            data = volunteer.train(lease)
            volunteer.deliver(lease, data, examples=8)
            sizes.append(len(data))
        assert hosted.coordinator.wait_for_version(number, 10)
        told.append((hosted.coordinator.desk.status().bytes_in, sum(sizes)))

    assert [seen for seen, _ in told] == [sum(size for _, size in told[: number + 1]) for number in range(3)]


def test_bytes_in_and_out_are_counted(hosted: Hosted):
    volunteers = hosted.cohort(3)
    sent = 0
    for volunteer in volunteers:
        lease = volunteer.lease()
        data = volunteer.train(lease)
        volunteer.deliver(lease, data)
        sent += len(data)
    assert hosted.coordinator.wait_for_version(1, 10)
    blob = volunteers[0].check_in().adapter
    volunteers[0].fetch(blob)
    hosted.coordinator.stop()

    desk = Desk.open(hosted.folder)
    status = desk.status()
    desk.close()
    assert status.bytes_out == blob.size
    assert status.bytes_in == sent > 0


def test_a_synchronous_round_selects_reports_and_commits(cohort_run: Hosted):
    """Protocol, scenario 27: four seats for three updates; the fourth is credited and does not count."""
    volunteers = cohort_run.cohort(5)
    leases = [volunteer.lease() for volunteer in volunteers[:3]]
    assert cohort_run.coordinator.status().phase is Phase.SELECTING
    leases.append(volunteers[3].lease())
    assert cohort_run.coordinator.status().phase is Phase.REPORTING

    assert volunteers[4].check_in().no_work.reason == pb.REASON_ROUND_FULL
    late = volunteers[3].train(leases[3])
    for volunteer, lease in zip(volunteers[:3], leases, strict=False):
        assert volunteer.deliver(lease).verdict == pb.VERDICT_ACCEPTED
    assert cohort_run.coordinator.wait_for_version(1, 10)

    receipt = volunteers[3].receipt(volunteers[3].deliver(leases[3], late))
    assert (receipt.verdict, receipt.credit) == (pb.VERDICT_TOO_LATE, 8)
    assert cohort_run.coordinator.status().versions[0].contributors == 3
    assert volunteers[4].lease().version == 1


def test_a_seat_whose_lease_ran_out_goes_to_another(cohort_run: Hosted):
    volunteers = cohort_run.cohort(5)
    leases = [volunteer.lease() for volunteer in volunteers[:4]]
    cohort_run.clock.time_s += 30
    for volunteer, lease in zip(volunteers[:2], leases, strict=False):
        volunteer.renew(lease.lease_id)
    cohort_run.clock.time_s += 29
    assert volunteers[4].check_in().no_work.reason == pb.REASON_ROUND_FULL

    cohort_run.clock.time_s += 0.5
    volunteers[3].abort(leases[3].lease_id)

    assert volunteers[4].lease().round == 1


@pytest.mark.parametrize("delivered", [2, 1])
def test_a_deadline_closes_a_round_with_the_minimum_and_abandons_one_with_less(cohort_run: Hosted, delivered: int):
    """Protocol, scenario 28: credit is given either way, and a new round opens."""
    volunteers = cohort_run.cohort(4)
    leases = [volunteer.lease() for volunteer in volunteers]
    for volunteer, lease in zip(volunteers[:delivered], leases, strict=False):
        volunteer.deliver(lease)

    cohort_run.clock.time_s += 61
    reply = volunteers[3].check_in({leases[3].lease_id: pb.TASK_STATE_TRAINING})

    credit = {one.client_id: one.credit for one in cohort_run.coordinator.history().contributions}
    assert sorted(credit.values()) == [0] * (4 - delivered) + [8] * delivered
    if delivered == 2:
        assert cohort_run.coordinator.wait_for_version(1, 10)
        assert cohort_run.coordinator.status().versions[0].contributors == 2
    else:
        assert reply.cancel[0].lease_id == leases[3].lease_id
        first = cohort_run.coordinator.history().rounds[-1]
        assert (first.phase, first.reason) == (Phase.ABANDONED, "time ran out with less than the minimum in")
        again = volunteers[0].lease()
        assert (again.round, again.version) == (2, 0)


def test_a_deadline_is_noticed_without_anybody_calling(cohort_run: Hosted):
    volunteers = cohort_run.cohort(2)
    for volunteer in volunteers:
        volunteer.contribute()

    cohort_run.clock.time_s += 61

    assert cohort_run.coordinator.wait_for_version(1, 10)


def test_going_back_makes_a_new_version_of_an_old_master(hosted: Hosted):
    volunteers = hosted.cohort(3)
    for version in (1, 2):
        for volunteer in volunteers:
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(version, 10)
    lease = volunteers[0].lease()

    made = hosted.coordinator.rollback(1)

    first = hosted.coordinator.history().versions[2]
    assert (made.version, made.parent, made.rolled_back_to) == (3, 2, 1)
    assert (made.adapter_digest, made.checkpoint_digest) == (first.adapter_digest, first.checkpoint_digest)
    receipt = volunteers[0].receipt(volunteers[0].deliver(lease))
    assert receipt.staleness_weight == pytest.approx(2**-0.5)
    assert volunteers[1].lease().version == 3
    assert hosted.coordinator.wait_for_version(3, 10)
    assert verify_release(hosted.folder / "releases" / "v0003").facts["rolled_back_to"] == 1
    assert verify_log(hosted.folder).version == 3


def test_another_process_goes_back_and_the_coordinator_notices(hosted: Hosted):
    volunteers = hosted.cohort(3)
    for volunteer in volunteers:
        volunteer.contribute()
    assert hosted.coordinator.wait_for_version(1, 10)

    code = (
        f"from pathlib import Path; from potluck.coordinator.desk import Desk; Desk.open(Path({str(hosted.folder)!r}))"
    )
    subprocess.run([sys.executable, "-c", code + ".rollback(0)"], check=True, timeout=60)

    assert hosted.coordinator.wait_for_version(2, 10)
    reply = volunteers[0].check_in()
    assert (reply.lease.version, reply.adapter.size) == (2, 0)


def test_going_back_abandons_a_synchronous_round(cohort_run: Hosted):
    volunteers = cohort_run.cohort(3)
    for volunteer in volunteers:
        volunteer.contribute()
    assert cohort_run.coordinator.wait_for_version(1, 10)
    lease = volunteers[0].lease()
    volunteers[1].contribute()

    cohort_run.coordinator.rollback(0)

    assert cohort_run.coordinator.history().rounds[1].phase is Phase.ABANDONED
    assert volunteers[0].deliver(lease).verdict == pb.VERDICT_TOO_LATE
    assert volunteers[1].lease().version == 2


@pytest.mark.parametrize(("version", "words"), [(7, "does not exist"), (0, "is the present one")])
def test_one_cannot_go_back_to_nowhere(hosted: Hosted, version: int, words: str):
    with pytest.raises(BadCommand, match=words):
        hosted.coordinator.rollback(version)


def test_stopping_waits_for_the_round_that_is_being_combined(tmp_path: Path):
    inside, go_on = threading.Event(), threading.Event()

    def on_step(step: Step, when: When) -> None:
        if (step, when) == (Step.COMPUTE, When.AFTER):
            inside.set()
            assert go_on.wait(10)

    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 1}), on_step=on_step) as hosted:
        hosted.volunteer().contribute()
        assert inside.wait(10)
        stopping = threading.Thread(target=hosted.coordinator.stop)
        stopping.start()
        go_on.set()
        stopping.join(10)

    desk = Desk.open(hosted.folder)
    assert desk.status().version == 1
    desk.close()
    assert verify_release(hosted.folder / "releases" / "v0001").version == 1


def test_an_address_in_use_is_an_error_with_a_fix(hosted: Hosted, tmp_path: Path):
    other = Coordinator.open(tmp_path / "other", recipe())
    try:
        with pytest.raises(CannotListen):
            other.listen(hosted.address)
    finally:
        other.stop()


def test_a_probe_learns_that_the_coordinator_is_well(hosted: Hosted):
    """grpc.health.v1.Check, as any probe sends it: field 1 is the service's name."""
    volunteer = hosted.volunteer()
    check = volunteer.channel().unary_unary("/grpc.health.v1.Health/Check")

    assert check(b"", timeout=10) == b"\x08\x01"
    assert check(b"\x0a\x14potluck.wire.v1.Work", timeout=10) == b"\x08\x01"
    with pytest.raises(grpc.RpcError) as caught:
        check(b"\x0a\x04none", timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_there_is_no_desk_without_a_run(tmp_path: Path):
    with pytest.raises(NoRun, match="holds no run"):
        Desk.open(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_defect_of_ours_is_told_as_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """No stack trace, no blame, and the client may try again."""

    def on_step(step: Step, when: When) -> None:
        if (step, when) == (Step.SPOOL, When.INSIDE):
            raise ZeroDivisionError("a secret detail")

    with hosting(tmp_path / "run", recipe(), on_step=on_step) as hosted:
        volunteer = hosted.volunteer()
        lease = volunteer.lease()
        with refused("internal"):
            volunteer.deliver(lease)
        assert "a secret detail" in caplog.text
        assert hosted.coordinator.status().received == 0


def test_a_coordinator_needs_no_torch():
    code = (
        "import sys, potluck.coordinator.server, potluck.coordinator.desk;"
        "print(sorted({'torch', 'peft', 'transformers', 'safetensors', 'ray', 'typer', 'rich'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert told.stdout.strip() == "[]"


def test_a_certificate_is_renewed_while_it_serves(tmp_path: Path):
    """After 90 days without a restart all clients would be lost at once."""
    with hosting(tmp_path / "run", recipe(), clock=FakeClock(time.time() - 80 * 86_400)) as host:
        before = shown(host.port)
        host.volunteer().check_in()

        host.clock.time_s += 80 * 86_400

        after = shown(host.port)
        host.volunteer(1).check_in()
        assert before.not_valid_after_utc < after.not_valid_after_utc
        assert before.issuer == after.issuer


def shown(port: int) -> x509.Certificate:
    """Return the certificate that a new connection is shown."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode())
