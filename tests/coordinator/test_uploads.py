"""An upload goes on where it stopped, and nothing that was not offered gets in."""

import hashlib
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coordinators import Hosted, hosting, refused
from potluck.wire.channels import client_options
from potluck.wire.chunks import crc32
from potluck.wire.v1 import blobs_pb2, blobs_pb2_grpc
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, recipe


@pytest.fixture
def volunteer(hosted: Hosted) -> Volunteer:
    return hosted.volunteer()


def partial_files(hosted: Hosted) -> list[Path]:
    return list((hosted.folder / "partial").iterdir())


def spooled(hosted: Hosted) -> list[Path]:
    return list((hosted.folder / "spool").iterdir())


def test_a_connection_that_breaks_costs_one_chunk(volunteer: Volunteer):
    """Protocol, scenario 1: offered again, the answer is the offset to go on from."""
    lease = volunteer.lease()
    data = volunteer.train(lease)
    first = volunteer.offer(lease.lease_id, data)
    volunteer.write(first.upload_id, 0, data[:300])
    volunteer.close()

    again = volunteer.offer(lease.lease_id, data)
    assert (again.upload_id, again.committed_size, again.verdict) == (first.upload_id, 300, pb.OFFER_VERDICT_WANTED)
    volunteer.upload(again, data, chunk=100)

    assert volunteer.stat(first.upload_id).complete
    assert volunteer.offer(lease.lease_id, data).verdict == pb.OFFER_VERDICT_HAVE_IT
    assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED


def test_a_chunk_whose_answer_was_lost_is_written_once(hosted: Hosted, volunteer: Volunteer):
    lease = volunteer.lease()
    data = volunteer.train(lease)
    upload_id = volunteer.offer(lease.lease_id, data).upload_id

    for _ in range(3):
        assert volunteer.write(upload_id, 0, data[:100]).committed_size == 100

    assert partial_files(hosted)[0].read_bytes() == data[:100]


def test_the_last_chunk_may_be_sent_again_after_all_is_here(volunteer: Volunteer):
    lease = volunteer.lease()
    data = volunteer.train(lease)
    offered = volunteer.offer(lease.lease_id, data)
    volunteer.upload(offered, data)

    again = volunteer.write(offered.upload_id, 0, data)

    assert (again.committed_size, again.complete) == (len(data), True)


@pytest.mark.parametrize(
    ("offset", "size", "torn", "code"),
    [
        (101, 10, False, "wrong_offset"),
        (50, 100, False, "wrong_offset"),
        (100, 10, True, "wrong_chunk"),
        (100, 0, False, "too_large"),
        (100, 1024 * 1024 + 1, False, "too_large"),
        (100, 5_000, False, "too_large"),
    ],
    ids=["gap", "overlap", "torn", "empty", "over 1 MiB", "beyond the ticket"],
)
def test_a_chunk_that_does_not_fit_is_refused_and_changes_nothing(
    hosted: Hosted,
    volunteer: Volunteer,
    offset: int,
    size: int,
    torn: bool,  # noqa: FBT001
    code: str,
):
    lease = volunteer.lease()
    data = volunteer.train(lease)
    upload_id = volunteer.offer(lease.lease_id, data).upload_id
    volunteer.write(upload_id, 0, data[:100])
    chunk = bytes(size)

    with refused(code):
        volunteer.write(upload_id, offset, chunk, crc=crc32(chunk) ^ torn)

    assert volunteer.stat(upload_id).committed_size == 100
    assert partial_files(hosted)[0].read_bytes() == data[:100]


def test_a_message_over_four_megabytes_is_turned_away_by_the_transport(hosted: Hosted, volunteer: Volunteer):
    lease = volunteer.lease()
    upload_id = volunteer.offer(lease.lease_id, volunteer.train(lease)).upload_id
    invitation = volunteer.invitation
    options = [
        option for option in client_options(invitation.server_name) if option[0] != "grpc.max_send_message_length"
    ]
    pem = x509.load_der_x509_certificate(invitation.ca_der).public_bytes(Encoding.PEM)
    credentials = grpc.ssl_channel_credentials(pem)
    with grpc.secure_channel(hosted.address, credentials, [*options, ("grpc.max_send_message_length", -1)]) as channel:
        request = blobs_pb2.WriteRequest(upload_id=upload_id, data=bytes(5 * 1024 * 1024))
        with pytest.raises(grpc.RpcError) as caught:
            blobs_pb2_grpc.BlobsStub(channel).Write(request, timeout=10)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert volunteer.stat(upload_id).committed_size == 0


def test_a_control_message_of_megabytes_is_refused(volunteer: Volunteer):
    request = volunteer.check_in_request()
    request.run_id = "x" * 100_000

    with refused("too_large"):
        volunteer.send_check_in(request)


def test_bytes_that_are_not_what_was_offered_are_dropped_and_may_be_sent_again(hosted: Hosted, volunteer: Volunteer):
    lease = volunteer.lease()
    data = volunteer.train(lease)
    offered = volunteer.offer(lease.lease_id, data)

    with refused("wrong_digest"):
        volunteer.write(offered.upload_id, 0, bytes(len(data)))
    assert not partial_files(hosted)
    assert not spooled(hosted)

    volunteer.upload(offered, data)
    assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED


@pytest.mark.parametrize("size", [0, 1 << 40])
def test_an_update_of_a_size_that_the_recipe_does_not_take_is_refused_before_it_is_sent(
    volunteer: Volunteer, size: int
):
    with refused("too_large"):
        volunteer.offer(volunteer.lease().lease_id, b"data", size=size)


def test_an_upload_that_nobody_was_allowed_is_unknown(volunteer: Volunteer):
    with refused("unknown_upload"):
        volunteer.write(b"x" * 16, 0, b"data")
    with refused("unknown_upload"):
        volunteer.stat(b"")


def test_an_update_that_was_sealed_again_takes_the_place_of_the_first(volunteer: Volunteer):
    """The client crashed while sealing and trained once more; nothing was submitted yet."""
    lease = volunteer.lease()
    data = volunteer.train(lease)
    first = volunteer.offer(lease.lease_id, b"x" * 1000)
    volunteer.write(first.upload_id, 0, b"x" * 100)

    second = volunteer.offer(lease.lease_id, data)

    assert second.committed_size == 0
    with refused("unknown_upload"):
        volunteer.write(first.upload_id, 100, b"x")
    volunteer.upload(second, data)
    assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED


def test_the_spool_takes_as_much_as_the_recipe_says(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(limits={"spool_bytes": 1_100})) as hosted:
        first, second = hosted.cohort(2)
        data = first.train(lease := first.lease())
        assert 550 < len(data) <= 1_100
        offered = first.offer(lease.lease_id, data)

        lease = second.lease()
        with refused("disk_full"):
            second.offer(lease.lease_id, second.train(lease))
        first.upload(offered, data)


def test_a_member_reads_adapters_and_nothing_else(hosted: Hosted):
    """Least of all the updates of others."""
    volunteers = hosted.cohort(3)
    data = volunteers[0].train(lease := volunteers[0].lease())
    volunteers[0].deliver(lease, data)
    assert len(spooled(hosted)) == 1
    with refused("no_blob"):
        volunteers[1].read(hashlib.sha256(data).digest())
    for volunteer in volunteers[1:]:
        volunteer.contribute()
    assert hosted.coordinator.wait_for_version(1, 10)

    reply = volunteers[0].check_in()

    assert len(volunteers[0].fetch(reply.adapter)) == reply.adapter.size
    version = hosted.coordinator.status().versions[0]
    assert version.checkpoint_digest != version.adapter_digest
    with refused("no_blob"):
        volunteers[0].read(version.checkpoint_digest)
    with refused("no_blob"):
        volunteers[0].read(b"")
    with refused("wrong_offset"):
        volunteers[0].read(reply.adapter.digest, reply.adapter.size)


def test_a_download_goes_on_at_any_offset(hosted: Hosted):
    for volunteer in hosted.cohort(3):
        volunteer.contribute()
    assert hosted.coordinator.wait_for_version(1, 10)
    blob = volunteer.check_in().adapter

    parts = [volunteer.read(blob.digest, offset, 500).data for offset in range(0, blob.size, 500)]

    assert hashlib.sha256(b"".join(parts)).digest() == blob.digest
    assert {len(part) for part in parts[:-1]} == {500}
