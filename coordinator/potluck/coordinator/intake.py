"""Submits: an update that is here whole becomes an input of a round, and its client gets a receipt."""

import logging
from dataclasses import dataclass
from typing import Final, final

from potluck.aggregation import Opened
from potluck.aggregation.errors import BadTensor
from potluck.coordinator import rounds
from potluck.coordinator.checkins import own_lease
from potluck.coordinator.participation import resting
from potluck.coordinator.progress import hold, look, turn
from potluck.coordinator.receipts import Outcome, conflict, cost_of, give, stored, too_late
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import LeaseRecord, LeaseState, ReceiptRecord, UpdateRecord, UpdateState
from potluck.coordinator.uploads import refuse_single
from potluck.wire.envelopes import Purpose, opened, peer_id
from potluck.wire.refusals import Refusal, detail
from potluck.wire.tensors import open_update
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope, ErrorDetail

LOG = logging.getLogger(__name__)
MAX_TOKENS: Final = 1 << 62
MAX_LOSS: Final = 1e4
MAX_CHANGE: Final = 100.0
"""Largest change of a single factor entry.  Trained ones stay below 1.  Factors can be huge and their product ordinary,
since (B·M, A/M) is the same matrix: a sketched sum in float32 then loses what all others changed."""


@final
@dataclass(frozen=True, slots=True)
class Intake:
    """Answers submit."""

    site: Site

    def submit(self, envelope: Envelope) -> pb.SubmitReply:
        """Take an update whose bytes are here; the same call again gets the same receipt, byte for byte.

        An update that cannot be used is answered with VERDICT_REJECTED, not with an error: the client is told why and
        is done with it.  What goes wrong on our side (a full disk, a lost blob) is an error that may be retried.

        Raises:
            Refusal: it is no member, the lease is not its own or was given back, the bytes are not here, or the lease
                has its receipt for other bytes.
        """
        request = opened(envelope, Purpose.SUBMIT, self.site.keys.coordinator_id, pb.SubmitRequest)
        refuse_single(self.site)
        client_id = peer_id(envelope.signer)
        with self.site.store.reading() as books:
            lease, receipt = self._lease(books, client_id, request)
        if receipt is not None:
            return self._again(lease, receipt, request)
        try:
            self._require_bytes(lease, request)
            rejected = self._rejection(lease, request)
        except Refusal:  # a second thread was first, and the bytes are done with
            with self.site.store.reading() as books:
                lease, receipt = self._lease(books, client_id, request)
            if receipt is None:
                raise
            return self._again(lease, receipt, request)
        self.site.on_step(Step.SPOOL, When.BEFORE)
        with turn(self.site) as books:
            lease, receipt = self._lease(books, client_id, request)
            if receipt is None:
                self._check_spool(books, lease, request)
                reply = self._settle(books, lease, request, rejected)
                self.site.on_step(Step.SPOOL, When.INSIDE)
        if receipt is not None:  # a second thread was first
            return self._again(lease, receipt, request)
        self.site.on_step(Step.SPOOL, When.AFTER)
        return reply

    def _lease(
        self, books: Books, client_id: str, request: pb.SubmitRequest
    ) -> tuple[LeaseRecord, ReceiptRecord | None]:
        """Return the client's lease, and its receipt if it has one."""
        lease = own_lease(books, client_id, request.lease_id)
        receipt = books.intake.receipt(lease.lease_id)
        if receipt is None and lease.state is LeaseState.ABORTED:
            raise Refusal("you gave this lease back", code="unknown_lease", fix="discard the update; check in")
        return lease, receipt

    def _again(self, lease: LeaseRecord, receipt: ReceiptRecord, request: pb.SubmitRequest) -> pb.SubmitReply:
        """Answer a repeated submit."""
        if receipt.digest != request.update.digest:
            if not receipt.flagged:
                self._flag(lease, receipt.digest, request.update.digest)
            raise conflict(lease, receipt.digest, request.update.digest)
        accepted = receipt.verdict == pb.VERDICT_ACCEPTED
        verdict = pb.VERDICT_ALREADY_ACCEPTED if accepted else pb.Verdict.Name(pb.Verdict.ValueType(receipt.verdict))
        reply = pb.SubmitReply(verdict=verdict, receipt=stored(receipt))
        if receipt.detail:
            reply.rejected.CopyFrom(ErrorDetail.FromString(receipt.detail))
        return reply

    def _flag(self, lease: LeaseRecord, first: bytes, second: bytes) -> None:
        """Note in the log that a client sent two different updates for one lease: once, however often it does.

        Where noise protects volunteers, whose they were and what they hash to is for the operator's terminal only.
        """
        facts = {"client_id": lease.client_id, "lease_id": lease.lease_id, "first": first, "second": second}
        with self.site.store.writing(self.site.fence) as books:
            if not books.intake.flag(lease.lease_id):
                return
            books.log.append("conflict", **({} if self.site.plan.recipe.privacy.differential.by_user else facts))
        LOG.warning("event=conflict client=%s first=%s second=%s", lease.client_id, first.hex(), second.hex())

    def _require_bytes(self, lease: LeaseRecord, request: pb.SubmitRequest) -> None:
        """Refuse unless the bytes are here; where we lost them, the client may send them again."""
        try:
            with self.site.store.reading() as books:
                self._check_spool(books, lease, request)
        except Refusal:
            with self.site.store.writing(self.site.fence) as books:
                upload = books.leases.upload_of(lease.lease_id)
                if upload is not None and upload.complete:
                    books.leases.forget_upload(lease.lease_id)
            raise

    def _check_spool(self, books: Books, lease: LeaseRecord, request: pb.SubmitRequest) -> None:
        """Refuse unless this client sent all the bytes of this very update, and they are here."""
        upload = books.leases.upload_of(lease.lease_id)
        digest = request.update.digest
        here = upload is not None and upload.complete and upload.digest == digest
        if not here or upload is None or self.site.folders.spool.size(digest) != upload.size:
            raise _not_here(digest)

    def _rejection(self, lease: LeaseRecord, request: pb.SubmitRequest) -> ErrorDetail | None:
        """Read the update; return why it cannot be used, or None."""
        plan = self.site.plan
        if request.manifest_digest != plan.manifest_digest(lease.version):
            words, fix = "made for another tensor manifest than the recipe's", "use its base model, rank and targets"
            return detail(Refusal(f"the update was {words}", code="wrong_manifest", fix=fix))
        if not request.examples:
            words, fix = "the update was made from 0 examples", "train on at least one"
            return detail(Refusal(words, code="bad_request", fix=fix))
        try:
            data = self.site.folders.spool.read(request.update.digest)
        except Refusal:
            raise _not_here(request.update.digest) from None
        try:
            message = open_update(data, plan.manifest(lease.version))
            plan.recipe.codec.check(message.facts)
            check_values(message)
        except BadTensor as error:
            return detail(error)
        return None

    def _settle(
        self, books: Books, lease: LeaseRecord, request: pb.SubmitRequest, rejected: ErrorDetail | None
    ) -> pb.SubmitReply:
        """Write the update down, or why not, with its receipt."""
        now_s = self.site.clock.now_s()
        now = look(books, now_s)
        digest, cost = request.update.digest, cost_of(self.site.plan.recipe, request)
        if rejected is not None:
            outcome = Outcome(digest, pb.VERDICT_REJECTED, request.examples, now.round or 0, 0.0, rejected, cost)
            receipt = give(self.site, books, lease, outcome)
            return pb.SubmitReply(verdict=pb.VERDICT_REJECTED, receipt=receipt, rejected=rejected)
        contributed = books.intake.contributed(lease.client_id, lease.version, now.round)
        tired = resting(self.site.plan.recipe, books, lease.client_id, now.round)
        verdict = rounds.verdict(self.site.plan.terms, now, hold(lease, now_s), contributed=contributed, resting=tired)
        if verdict.offer is rounds.Offer.NOT_WANTED or now.round is None:
            receipt = give(self.site, books, lease, too_late(now, digest, request.examples, cost))
            return pb.SubmitReply(verdict=pb.VERDICT_TOO_LATE, receipt=receipt)
        books.intake.accept(self._record(lease, request, now.round, verdict.staleness))
        outcome = Outcome(digest, pb.VERDICT_ACCEPTED, request.examples, now.round, verdict.weight, cost=cost)
        return pb.SubmitReply(verdict=pb.VERDICT_ACCEPTED, receipt=give(self.site, books, lease, outcome))

    def _record(self, lease: LeaseRecord, request: pb.SubmitRequest, number: int, tau: int) -> UpdateRecord:
        """Return the update as it counts: what it claims about itself is capped."""
        recipe = self.site.plan.recipe
        return UpdateRecord(
            lease_id=lease.lease_id,
            client_id=lease.client_id,
            round=number,
            version=lease.version,
            digest=request.update.digest,
            size=self.site.folders.spool.size(request.update.digest) or 0,
            examples=min(request.examples, recipe.admission.max_examples),
            steps=min(max(request.steps, 1), recipe.training.steps),
            staleness=tau,
            tokens=min(request.tokens, MAX_TOKENS),
            loss_before=_loss(request.loss_before),
            loss_after=_loss(request.loss_after),
            state=UpdateState.WAITING,
        )


def check_values(message: Opened) -> None:
    """Read every tensor, one at a time.  Raises BadTensor for one that is damaged or changed more than any can."""
    for name in message.shapes:
        largest = float(abs(message.tensor(name)).max(initial=0.0))
        if largest > MAX_CHANGE:
            raise BadTensor(
                f"{name} changed by {largest:.3g} and at most {MAX_CHANGE:.0e} is taken",
                fix="a training run that diverged has nothing to give; lower the learning rate",
            )


def _not_here(digest: bytes) -> Refusal:
    """Return the refusal of an update whose bytes are not here."""
    return Refusal(
        f"the bytes of update {digest.hex()[:16]}… are not here", code="unknown_upload", fix="offer it again"
    )


def _loss(value: float) -> float:
    """Return a reported loss, or 0 (unknown) for one that cannot be: uniform guessing costs under 20 nats."""
    return value if 0 < value <= MAX_LOSS else 0.0
