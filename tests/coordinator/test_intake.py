"""An update is taken once, gets one receipt, and what cannot be used is refused with the reason."""

import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from coordinators import Hosted, hosting, refused
from potluck.aggregation import encode
from potluck.coordinator.store.records import UpdateRecord, UpdateState
from potluck.wire.audit import LOG_FILE
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, recipe

NAME = "model.layers.0.self_attn.q_proj"


def tensors(**changes: np.ndarray) -> dict[str, np.ndarray]:
    made = {}
    for layer in (0, 1):
        made[f"model.layers.{layer}.self_attn.q_proj.lora_A"] = np.full((2, 12), 0.5, np.float32)
        made[f"model.layers.{layer}.self_attn.q_proj.lora_B"] = np.full((16, 2), 0.25, np.float32)
    return made | {f"{NAME}.{key}": value for key, value in changes.items()}


def sent(volunteer: Volunteer, data: bytes) -> pb.Lease:
    """Offer and upload *data* for a new lease."""
    lease = volunteer.lease()
    volunteer.upload(volunteer.offer(lease.lease_id, data), data)
    return lease


def waiting(hosted: Hosted) -> tuple[UpdateRecord, ...]:
    with hosted.coordinator.desk.site.store.reading() as books:
        return books.intake.of_round(1, UpdateState.WAITING)


def credit(hosted: Hosted) -> dict[str, int]:
    return {one.client_id: one.credit for one in hosted.coordinator.history().contributions if one.credit}


def test_a_receipt_says_what_was_taken_and_is_signed(hosted: Hosted):
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    lease = sent(volunteer, data)

    receipt = volunteer.receipt(volunteer.submit(lease.lease_id, data))

    assert (receipt.client_id, receipt.lease_id, receipt.digest) == (
        volunteer.client_id,
        lease.lease_id,
        sha256(data).digest(),
    )
    assert (receipt.round, receipt.version, receipt.verdict) == (1, 0, pb.VERDICT_ACCEPTED)
    assert (receipt.examples, receipt.credit, receipt.staleness_weight, receipt.serial) == (8, 8, 1, 1)
    assert credit(hosted) == {volunteer.client_id: 8}


def test_the_same_submit_gets_the_same_receipt_byte_for_byte(hosted: Hosted):
    """Protocol, scenario 8."""
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    lease = sent(volunteer, data)

    first = volunteer.submit(lease.lease_id, data)
    again = [volunteer.submit(lease.lease_id, data) for _ in range(5)]

    assert first.verdict == pb.VERDICT_ACCEPTED
    assert {reply.verdict for reply in again} == {pb.VERDICT_ALREADY_ACCEPTED}
    assert {reply.receipt.SerializeToString() for reply in again} == {first.receipt.SerializeToString()}
    assert len(waiting(hosted)) == 1
    assert credit(hosted) == {volunteer.client_id: 8}


def test_submits_from_many_threads_are_one_update(hosted: Hosted):
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    lease = sent(volunteer, data)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: volunteer.submit(lease.lease_id, data), range(16)))

    assert sorted(reply.verdict for reply in replies) == [pb.VERDICT_ACCEPTED] + [pb.VERDICT_ALREADY_ACCEPTED] * 15
    assert len({reply.receipt.SerializeToString() for reply in replies}) == 1
    assert len(waiting(hosted)) == 1
    assert credit(hosted) == {volunteer.client_id: 8}


def test_other_bytes_for_the_same_lease_are_a_conflict_and_the_first_stay(hosted: Hosted):
    """Protocol, scenario 9; the operator finds it in the log, once: nobody can fill a disk with it."""
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    other = encode(tensors(lora_A=np.zeros((2, 12), np.float32)), "fp32")
    lease = sent(volunteer, data)
    first = volunteer.submit(lease.lease_id, data)

    for again in (other, other, encode(tensors(lora_B=np.ones((16, 2), np.float32)), "fp32")):
        with refused("conflict"):
            volunteer.submit(lease.lease_id, again)
    with refused("conflict"):
        volunteer.offer(lease.lease_id, other)

    assert volunteer.submit(lease.lease_id, data).receipt == first.receipt
    assert [one.digest for one in waiting(hosted)] == [sha256(data).digest()]
    hosted.coordinator.stop()
    entries = [json.loads(line)["entry"] for line in (hosted.folder / LOG_FILE).read_text().splitlines()]
    flagged = [entry for entry in entries if entry["kind"] == "conflict"]
    assert [(entry["client_id"], entry["second"]) for entry in flagged] == [
        (volunteer.client_id, sha256(other).hexdigest())
    ]


def test_two_clients_with_the_same_bytes_are_both_counted(hosted: Hosted):
    """Protocol, scenario 26: one blob, two leases."""
    data = encode(tensors(), "fp32")
    volunteers = hosted.cohort(3)

    for volunteer in volunteers:
        lease = sent(volunteer, data)
        assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED

    assert hosted.coordinator.wait_for_version(1, 10)
    assert credit(hosted) == {volunteer.client_id: 8 for volunteer in volunteers}
    assert hosted.coordinator.status().versions[0].contributors == 3


def test_bytes_that_another_sent_cannot_be_claimed(hosted: Hosted):
    """Knowing a digest is not having trained."""
    honest, thief = hosted.cohort(2)
    data = encode(tensors(), "fp32")
    lease = sent(honest, data)
    honest.submit(lease.lease_id, data)
    stolen = thief.lease()
    thief.offer(stolen.lease_id, data)

    with refused("unknown_upload"):
        thief.submit(stolen.lease_id, data)


def with_bad_value(value: float) -> bytes:
    good = encode(tensors(), "fp32")
    place = good.index(np.full(24, 0.5, np.float32).tobytes()) + 4 * 7
    return good[:place] + struct.pack("<f", value) + good[place + 4 :]


def missing() -> bytes:
    made = tensors()
    del made[f"{NAME}.lora_B"]
    return encode(made, "fp32")


BAD: dict[str, Callable[[], bytes]] = {
    "NaN": lambda: with_bad_value(float("nan")),
    "infinity": lambda: with_bad_value(float("-inf")),
    "wrong shape": lambda: encode(tensors(lora_A=np.zeros((3, 12), np.float32)), "fp32"),
    "transposed": lambda: encode(tensors(lora_A=np.zeros((12, 2), np.float32)), "fp32"),
    "extra tensor": lambda: encode(tensors(lora_C=np.zeros((1, 1), np.float32)), "fp32"),
    "missing tensor": missing,
    "path in a name": lambda: encode(tensors() | {"../../etc/passwd": np.zeros((1, 1), np.float32)}, "fp32"),
    "too large to multiply": lambda: encode(tensors(lora_A=np.full((2, 12), 3e38, np.float32)), "fp32"),
    "cut off": lambda: encode(tensors(), "fp32")[:-100],
    "pickle": lambda: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "header of a terabyte": lambda: struct.pack("<Q", 1 << 40) + b"{}",
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_an_update_that_cannot_be_used_is_rejected_with_the_reason(hosted: Hosted, make: Callable[[], bytes]):
    """Protocol, scenarios 18, 19, 22: nothing of it stays, and the same submit is answered the same."""
    volunteer = hosted.volunteer()
    data = make()
    lease = sent(volunteer, data)

    reply = volunteer.submit(lease.lease_id, data)
    again = volunteer.submit(lease.lease_id, data)

    assert reply.verdict == pb.VERDICT_REJECTED
    assert (reply.rejected.code, reply.rejected.retryable) == ("bad_tensor", False)
    assert reply.rejected.human
    assert reply.rejected.fix
    assert again == reply
    receipt = volunteer.receipt(reply)
    assert (receipt.verdict, receipt.credit) == (pb.VERDICT_REJECTED, 0)
    assert not waiting(hosted)
    assert not credit(hosted)
    assert not list((hosted.folder / "spool").iterdir())


def test_an_update_for_another_manifest_is_rejected(hosted: Hosted):
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    lease = sent(volunteer, data)
    request = volunteer.submit_request(lease.lease_id, data)
    request.manifest_digest = bytes(32)

    assert volunteer.send_submit(request).rejected.code == "wrong_manifest"


def test_an_update_of_no_examples_is_rejected(hosted: Hosted):
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    lease = sent(volunteer, data)

    assert volunteer.submit(lease.lease_id, data, examples=0).verdict == pb.VERDICT_REJECTED


def test_a_billion_claimed_examples_count_as_many_as_the_recipe_allows(tmp_path: Path):
    """Protocol, scenario 20."""
    with hosting(tmp_path / "run", recipe(admission={"max_examples": 100})) as hosted:
        volunteer = hosted.volunteer()
        data = encode(tensors(), "fp32")
        lease = sent(volunteer, data)

        receipt = volunteer.receipt(volunteer.submit(lease.lease_id, data, examples=10**9))

        assert (receipt.examples, receipt.credit) == (100, 100)
        assert [one.examples for one in waiting(hosted)] == [100]


def test_what_a_client_reports_about_itself_cannot_break_the_books(hosted: Hosted):
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    lease = sent(volunteer, data)
    request = volunteer.submit_request(lease.lease_id, data)
    request.tokens, request.steps = 2**64 - 1, 2**32 - 1
    request.loss_before, request.loss_after = float("nan"), float("inf")

    assert volunteer.send_submit(request).verdict == pb.VERDICT_ACCEPTED

    taken = waiting(hosted)[0]
    assert (taken.steps, taken.loss_before, taken.loss_after) == (recipe().training.steps, 0, 0)


def test_a_submit_before_all_bytes_are_here_is_refused_and_can_follow_later(hosted: Hosted):
    volunteer = hosted.volunteer()
    lease = volunteer.lease()
    data = encode(tensors(), "fp32")
    offered = volunteer.offer(lease.lease_id, data)
    volunteer.write(offered.upload_id, 0, data[:10])

    with refused("unknown_upload"):
        volunteer.submit(lease.lease_id, data)
    volunteer.upload(volunteer.offer(lease.lease_id, data), data)

    assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED


def test_bytes_that_the_coordinator_lost_are_sent_again_and_nobody_is_blamed(hosted: Hosted):
    volunteer = hosted.volunteer()
    data = encode(tensors(), "fp32")
    lease = sent(volunteer, data)
    next((hosted.folder / "spool").iterdir()).unlink()

    with refused("unknown_upload"):
        volunteer.submit(lease.lease_id, data)
    volunteer.upload(volunteer.offer(lease.lease_id, data), data)

    assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED


def test_a_stolen_submit_does_nothing_for_the_thief(hosted: Hosted):
    """The envelope is signed by the client; another client cannot send it as its own."""
    honest, thief = hosted.cohort(2)
    data = encode(tensors(), "fp32")
    lease = sent(honest, data)

    with refused("unknown_lease"):
        thief.submit(lease.lease_id, data)


def test_an_update_too_stale_to_count_is_credited_without_an_upload(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 1, "max_staleness": 0})) as hosted:
        slow, quick = hosted.cohort(2)
        lease = slow.lease()
        data = slow.train(lease)
        quick.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)

        offered = slow.offer(lease.lease_id, data)
        again = slow.offer(lease.lease_id, data)

        assert (offered.verdict, offered.receipt) == (pb.OFFER_VERDICT_NOT_WANTED, again.receipt)
        assert "1 versions behind" in offered.human
        receipt = slow.receipt(pb.SubmitReply(receipt=offered.receipt))
        assert (receipt.verdict, receipt.credit, receipt.staleness_weight) == (pb.VERDICT_TOO_LATE, 8, 0)
        assert slow.submit(lease.lease_id, data).verdict == pb.VERDICT_TOO_LATE
        assert credit(hosted) == {slow.client_id: 8, quick.client_id: 8}


def test_the_update_of_a_version_counts_once_for_each_client(hosted: Hosted):
    """It gave one lease back and got another; there is still only one update to give."""
    volunteer = hosted.volunteer()
    first = volunteer.lease()
    data = encode(tensors(), "fp32")
    volunteer.abort(first.lease_id)
    second = volunteer.lease()
    volunteer.deliver(second, data)

    assert volunteer.check_in().no_work.reason == pb.REASON_CONTRIBUTED
    assert len(waiting(hosted)) == 1
