"""From a sealed update to a receipt: offer, upload, submit.  Needs the network and nothing else."""

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from potluck.client.errors import BadReceipt
from potluck.client.events import Phase, Progressed, Received
from potluck.client.link import OFFER, SUBMIT
from potluck.client.records import KeptReceipt, Sealed, Task
from potluck.client.sane import integer
from potluck.client.station import Station
from potluck.client.tasks import Event, TaskState
from potluck.wire.envelopes import Purpose, opened
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Blob, Envelope

FORGOTTEN: Final = frozenset({"unknown_upload", "wrong_digest", "no_blob"})
"""Refusals after which the update is offered again."""


def deliver(station: Station, task: Task, sealed: Sealed) -> None:
    """Take *task* one state nearer to its receipt.

    Raises:
        Refusal: the network broke, or it cannot be taken now; the task is where it was, or at OFFERING.
        BadReceipt: the coordinator's answer is not for this update.
    """
    try:
        DELIVERIES[task.state](station, task, sealed)
    except Refusal as refusal:
        if refusal.code in FORGOTTEN and task.state is not TaskState.OFFERING:
            _check_own(station, task, sealed)
            station.move(task, Event.FORGOTTEN)
            raise Refusal(str(refusal), code="wrong_digest", fix=refusal.fix) from None  # try again, after a while
        if not refusal.retryable:
            station.drop(task, f"{refusal.code}: {refusal}", give_back=False)
        raise


def _offer(station: Station, task: Task, sealed: Sealed) -> None:
    """Ask whether the update is still wanted."""
    request = pb.OfferRequest(lease_id=task.lease_id, update=_blob(sealed), examples=sealed.examples)
    reply = station.link.call(OFFER, station.signed(Purpose.OFFER, request))
    match reply.verdict:
        case pb.OFFER_VERDICT_WANTED | pb.OFFER_VERDICT_WANTED_LATE:
            station.move(task, Event.WANTED, upload_id=reply.upload_id)
        case pb.OFFER_VERDICT_HAVE_IT:
            station.move(task, Event.HELD_THERE)
        case pb.OFFER_VERDICT_NOT_WANTED if reply.HasField("receipt"):
            keep(station, task, reply.receipt)
        case pb.OFFER_VERDICT_NOT_WANTED:
            station.drop(task, reply.human or "not wanted any more", give_back=False)
        case _:  # a newer coordinator's word: ask again later, lose nothing
            raise Refusal(f"the coordinator answered the offer with {reply.verdict}", code="internal")


def _upload(station: Station, task: Task, sealed: Sealed) -> None:
    """Send what is missing."""

    def on_bytes(done: int, total: int) -> None:
        station.tell(Progressed(Phase.UPLOAD, done, total))
        station.lookout.pulse()

    path = station.home.blob(sealed.digest)
    if not path.exists():
        station.drop(task, "the sealed update is gone from this disk", give_back=True)
        return
    station.transfers.upload(task.upload_id, path, on_bytes)
    station.move(task, Event.SENT)


def _submit(station: Station, task: Task, sealed: Sealed) -> None:
    """Ask for the receipt; asking twice gives the same one."""
    request = pb.SubmitRequest(
        lease_id=task.lease_id,
        update=_blob(sealed),
        manifest_digest=task.terms.manifest_digest,
        examples=sealed.examples,
        steps=sealed.steps,
        tokens=sealed.tokens,
        loss_before=sealed.loss_before,
        loss_after=sealed.loss_after,
        spent=station.spent(),
    )
    reply = station.link.call(SUBMIT, station.signed(Purpose.SUBMIT, request))
    if reply.verdict == pb.VERDICT_UNSPECIFIED or not reply.HasField("receipt"):
        raise Refusal("the coordinator answered without a receipt", code="internal")
    reason = f"{reply.rejected.code}: {reply.rejected.human}" if reply.HasField("rejected") else ""
    keep(station, task, reply.receipt, reason)


def keep(station: Station, task: Task, envelope: Envelope, reason: str = "") -> None:
    """Verify the receipt, keep it for good, end the task."""
    receipt = kept(station, task, envelope)
    with station.entering(task.terms, TaskState.RECEIPTED, reason):
        station.outbox.answer(task.lease_id, receipt)
    station.clean(task)
    station.tell(Received(receipt))


def kept(station: Station, task: Task, envelope: Envelope) -> KeptReceipt:
    """Return the receipt in *envelope*, once it is sure that it is the coordinator's, and for this update.

    Raises:
        BadSignature: the coordinator did not sign it.
        BadReceipt: it is for something else.
    """
    audience, signer = station.membership.coordinator_id, station.link.invitation.coordinator_key
    receipt = opened(envelope, Purpose.RECEIPT, audience, pb.Receipt, signer=signer)
    wanted = (station.membership.run_id, station.identity.client_id, task.lease_id, task.sealed and task.sealed.digest)
    if (receipt.run_id, receipt.client_id, receipt.lease_id, receipt.digest) != wanted:
        raise BadReceipt(
            f"the receipt is for update {receipt.digest.hex()[:12]}… of {receipt.client_id[:12]}…, not for this one",
            fix="the update is kept; tell the operator",
        )
    return KeptReceipt(
        envelope=envelope.SerializeToString(deterministic=True),
        coordinator_id=station.membership.coordinator_id,
        run_id=receipt.run_id,
        lease_id=receipt.lease_id,
        round=integer(receipt.round),
        version=integer(receipt.version),
        digest=receipt.digest,
        verdict=verdict_name(receipt.verdict),
        examples=receipt.examples,
        staleness_weight=receipt.staleness_weight,
        credit=receipt.credit,
        serial=integer(receipt.serial),
        received_unix_s=station.clock.wall_s(),
    )


def verdict_name(verdict: int) -> str:
    """Return the name of *verdict*; one that a newer coordinator invented is kept as its number."""
    known = {number: name.removeprefix("VERDICT_") for name, number in pb.Verdict.items()}
    return known.get(verdict, f"VERDICT {verdict}")


def _check_own(station: Station, task: Task, sealed: Sealed) -> None:
    """Drop the task where the file on this disk is not what was sealed; nobody could ever accept it."""
    path = station.home.blob(sealed.digest)
    if not path.exists() or hashlib.sha256(path.read_bytes()).digest() != sealed.digest:
        station.drop(task, "the sealed update was damaged on this disk", give_back=True)
        raise Refusal("the sealed update was damaged on this disk; it was dropped", code="wrong_digest")


def _blob(sealed: Sealed) -> Blob:
    return Blob(digest=sealed.digest, size=sealed.size)


DELIVERIES: Final[Mapping[TaskState, Callable[[Station, Task, Sealed], None]]] = MappingProxyType(
    {TaskState.OFFERING: _offer, TaskState.UPLOADING: _upload, TaskState.COMMITTING: _submit}
)
