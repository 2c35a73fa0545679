"""Updates on their way in: offers, and the bytes that follow them."""

import secrets
from dataclasses import dataclass
from typing import Final, final

from potluck.coordinator import rounds
from potluck.coordinator.checkins import own_lease
from potluck.coordinator.participation import resting
from potluck.coordinator.progress import hold, look, turn
from potluck.coordinator.receipts import conflict, forget, give, stored, too_late
from potluck.coordinator.site import Site
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import LeaseRecord, LeaseState, Upload
from potluck.coordinator.traffic import Traffic
from potluck.wire.chunks import CHUNK_BYTES, DIGEST_BYTES, crc32
from potluck.wire.envelopes import Purpose, opened, peer_id
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import blobs_pb2
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope

UPLOAD_BYTES: Final = 16
WIDEST_BYTES: Final = 8
"""Bytes of one number in the widest codec."""
HEADER_BYTES: Final = 1 << 20
LINGER_S: Final = 86_400.0
"""So long after its lease ran out, what was sent of an update is kept."""


def refuse_single(site: Site) -> None:
    """Return quietly where updates are read one by one.

    Raises:
        Refusal: this run sums them unseen, so that one by itself is not even taken.
    """
    if site.plan.terms.summed:
        raise Refusal(
            "this run takes sums, no single update", code="sums_only", fix="update potluck, and meet for a sum"
        )


@final
@dataclass(frozen=True, slots=True)
class Uploads:
    """Answers offer, write and stat."""

    site: Site
    traffic: Traffic

    def offer(self, envelope: Envelope) -> pb.OfferReply:
        """Say whether a sealed update is still wanted, and where to go on sending it.

        One that can no longer count is credited all the same, and gets its receipt at once.

        Raises:
            Refusal: it is no member, the lease is not its own or was given back, the update is too large, the spool
                is full, or the lease has its receipt for other bytes.
        """
        request = opened(envelope, Purpose.OFFER, self.site.keys.coordinator_id, pb.OfferRequest)
        update, client_id = request.update, peer_id(envelope.signer)
        self._check_size(update.digest, update.size)
        refuse_single(self.site)
        with turn(self.site) as books:
            lease = own_lease(books, client_id, request.lease_id)
            receipt = books.intake.receipt(lease.lease_id)
            if receipt is not None:
                if receipt.digest != update.digest:
                    raise conflict(lease, receipt.digest, update.digest)
                return self._known(stored(receipt), receipt.verdict)
            if lease.state is LeaseState.ABORTED:
                raise Refusal("you gave this lease back", code="unknown_lease", fix="discard the update; check in")
            now = look(books, self.site.clock.now_s())
            verdict = self._verdict(books, lease, now)
            if verdict.offer is rounds.Offer.NOT_WANTED:
                given = give(self.site, books, lease, too_late(now, update.digest, request.examples))
                return self._known(given, pb.VERDICT_TOO_LATE, human=verdict.human)
            upload = self.allow(books, lease, update.digest, update.size)
        return self._wanted(upload, verdict)

    def write(self, request: blobs_pb2.WriteRequest) -> blobs_pb2.WriteReply:
        """Append one chunk; a chunk that is here already is answered, not written again.

        Raises:
            Refusal: the upload is unknown; the chunk is torn, too large or at another offset; all bytes are here and
                are not what was offered; the disk is full.
        """
        upload = self._find(request.upload_id)
        if not 0 < len(request.data) <= CHUNK_BYTES:
            raise Refusal(
                f"a chunk of {len(request.data)} bytes", code="too_large", fix=f"send 1 to {CHUNK_BYTES} bytes at once"
            )
        if crc32(request.data) != request.crc32:
            raise Refusal("the chunk was damaged on its way", code="wrong_chunk", fix="send it again")
        if upload.complete:
            return blobs_pb2.WriteReply(committed_size=upload.size, complete=True)
        committed = self.site.partials.append(upload.upload_id, request.offset, request.data, size=upload.size)
        self.traffic.received(len(request.data))
        return self._state(upload, committed)

    def stat(self, request: blobs_pb2.StatRequest) -> blobs_pb2.WriteReply:
        """Say how much of an upload is here.

        Raises:
            Refusal: the upload is unknown, or all bytes are here and are not what was offered.
        """
        upload = self._find(request.upload_id)
        return self._state(upload, self.site.partials.committed(upload.upload_id))

    def _state(self, upload: Upload, committed: int) -> blobs_pb2.WriteReply:
        """Answer with the committed size; where it is the whole, make it a blob first."""
        if not upload.complete and committed == upload.size:
            self.site.partials.complete(upload.upload_id, upload.digest, self.site.folders.spool)
            with self.site.store.writing(self.site.fence) as books:
                books.leases.complete_upload(upload.upload_id)
            return blobs_pb2.WriteReply(committed_size=upload.size, complete=True)
        if upload.complete:
            return blobs_pb2.WriteReply(committed_size=upload.size, complete=True)
        return blobs_pb2.WriteReply(committed_size=committed, complete=False)

    def _verdict(self, books: Books, lease: LeaseRecord, now: rounds.Situation) -> rounds.Verdict:
        contributed = books.intake.contributed(lease.client_id, lease.version, now.round)
        tired = resting(self.site.plan.recipe, books, lease.client_id, now.round)
        held = hold(lease, self.site.clock.now_s())
        return rounds.verdict(self.site.plan.terms, now, held, contributed=contributed, resting=tired)

    def _find(self, upload_id: bytes) -> Upload:
        with self.site.store.reading() as books:
            upload = books.leases.upload(upload_id)
        if upload is None:
            raise Refusal(
                f"there is no upload {upload_id.hex()[:32]}", code="unknown_upload", fix="offer the update again"
            )
        return upload

    def _check_size(self, digest: bytes, size: int) -> None:
        plan = self.site.plan
        needed = max(one.values for one in plan.manifests) * WIDEST_BYTES + HEADER_BYTES
        limit = min(plan.recipe.limits.max_update_bytes, needed)
        if len(digest) != DIGEST_BYTES:
            raise Refusal(f"a digest of {len(digest)} bytes", code="bad_request", fix="send a SHA-256")
        if not 0 < size <= limit:
            raise Refusal(
                f"an update of {size} bytes; the recipe takes 1 to {limit}", code="too_large", fix="use its codec"
            )

    def allow(self, books: Books, lease: LeaseRecord, digest: bytes, size: int) -> Upload:
        """Return the upload of *lease*; a new one where there is none, or one for other bytes.

        Raises:
            Refusal: the spool is full.
        """
        found = books.leases.upload_of(lease.lease_id)
        if found is not None and (found.digest, found.size) == (digest, size):
            return found
        before_s = self.site.clock.now_s() - LINGER_S
        idle = books.leases.idle_uploads(lease.client_id, lease.lease_id, before_s)
        for useless in idle if found is None else (found, *idle):
            forget(self.site, books, useless.lease_id, useless.digest)
        taken = books.leases.promised_bytes() + books.intake.spooled_bytes()
        limit = self.site.plan.recipe.limits.spool_bytes
        if taken + size > limit:
            raise Refusal(
                f"{taken} bytes of updates wait already and the coordinator takes {limit}",
                code="disk_full",
                fix="keep the update; it is offered again later",
                retry_in_s=30,
            )
        upload = Upload(secrets.token_bytes(UPLOAD_BYTES), lease.lease_id, digest, size, complete=False)
        books.leases.allow_upload(upload)
        return upload

    def _wanted(self, upload: Upload, verdict: rounds.Verdict) -> pb.OfferReply:
        kind = {
            rounds.Offer.WANTED: pb.OFFER_VERDICT_WANTED,
            rounds.Offer.WANTED_LATE: pb.OFFER_VERDICT_WANTED_LATE,
        }[verdict.offer]
        committed = upload.size if upload.complete else self.site.partials.committed(upload.upload_id)
        return pb.OfferReply(
            verdict=pb.OFFER_VERDICT_HAVE_IT if upload.complete else kind,
            upload_id=upload.upload_id,
            committed_size=committed,
            staleness_weight=verdict.weight,
            human=verdict.human,
        )

    def _known(self, receipt: Envelope, verdict: int, *, human: str = "its receipt was given") -> pb.OfferReply:
        """Answer for a lease that has its receipt: what cannot count is done with, the rest is submitted again."""
        if verdict == pb.VERDICT_TOO_LATE:
            return pb.OfferReply(verdict=pb.OFFER_VERDICT_NOT_WANTED, receipt=receipt, human=human)
        return pb.OfferReply(verdict=pb.OFFER_VERDICT_HAVE_IT, human=human)
