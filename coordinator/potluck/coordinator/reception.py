"""The door to secure sums: an update that can be in one is let in, one that cannot gets its receipt."""

from dataclasses import dataclass
from typing import final

from potluck.coordinator import rounds
from potluck.coordinator.checkins import own_lease
from potluck.coordinator.meeting import Guest
from potluck.coordinator.participation import resting
from potluck.coordinator.progress import hold, look, turn
from potluck.coordinator.receipts import conflict, cost_of, give, stored, too_late
from potluck.coordinator.site import Site
from potluck.coordinator.store.database import Books
from potluck.coordinator.summed import nominal
from potluck.coordinator.summing import Sums
from potluck.wire.chunks import DIGEST_BYTES
from potluck.wire.envelopes import Purpose, opened, peer_id
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import sums_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope


@final
@dataclass(frozen=True, slots=True)
class Reception:
    """Answers meet."""

    site: Site
    sums: Sums

    def meet(self, envelope: Envelope) -> pb.MeetReply:
        """Say whether there is a sum for a sealed update.

        One that can no longer be in any is credited all the same, and gets its receipt at once.

        Raises:
            Refusal: it is no member, the lease is not its own or has its receipt for another update; or this run
                does not sum.
        """
        request = opened(envelope, Purpose.MEET, self.site.keys.coordinator_id, pb.MeetRequest)
        if not self.site.plan.terms.summed or len(request.digest) != DIGEST_BYTES:
            raise Refusal("this run reads updates one by one", code="bad_request", fix="offer the update")
        client_id, cost = peer_id(envelope.signer), cost_of(self.site.plan.recipe, request)
        with self.site.store.reading() as books:
            reply = self._settled(books, client_id, request)
            late = reply is None and self._verdict(books, client_id, request).offer is rounds.Offer.NOT_WANTED
            version = own_lease(books, client_id, request.lease_id).version
            grew = cost is not None and cost.lines > books.intake.ledger_lines(client_id)
        if cost is not None and grew:  # before anything of it is revealed
            with self.site.store.writing(self.site.fence) as books:
                books.intake.witness(client_id, cost.lines)
        if late:
            reply = self._turned_away(client_id, request)
        if reply is not None:
            return reply
        return self.sums.place(Guest(client_id, envelope.signer, request.lease_id, request.digest, version, cost))

    def _settled(self, books: Books, client_id: str, request: pb.MeetRequest) -> pb.MeetReply | None:
        """Return the answer to an update of which it is settled what becomes of it."""
        lease = own_lease(books, client_id, request.lease_id)
        receipt = books.intake.receipt(lease.lease_id)
        if receipt is not None:
            if receipt.digest != request.digest:
                raise conflict(lease, receipt.digest, request.digest)
            return pb.MeetReply(verdict=pb.MEET_VERDICT_ANSWERED, receipt=stored(receipt), human="here is its receipt")
        if any(update.lease_id == lease.lease_id for update in books.intake.masked()):
            return self.sums.waiting("its sum is nearly done")
        return None

    def _verdict(self, books: Books, client_id: str, request: pb.MeetRequest) -> rounds.Verdict:
        lease, now_s = own_lease(books, client_id, request.lease_id), self.site.clock.now_s()
        now = look(books, now_s)
        contributed = books.intake.contributed(client_id, lease.version, now.round)
        tired = resting(self.site.plan.recipe, books, client_id, now.round)
        return rounds.verdict(self.site.plan.terms, now, hold(lease, now_s), contributed=contributed, resting=tired)

    def _turned_away(self, client_id: str, request: pb.MeetRequest) -> pb.MeetReply | None:
        """Give an update that can be in no sum its receipt; None where it can, now that nobody else writes."""
        with turn(self.site) as books:
            reply, verdict = self._settled(books, client_id, request), self._verdict(books, client_id, request)
            if reply is not None or verdict.offer is not rounds.Offer.NOT_WANTED:
                return reply
            now, lease = look(books, self.site.clock.now_s()), own_lease(books, client_id, request.lease_id)
            recipe = self.site.plan.recipe
            outcome = too_late(now, request.digest, nominal(recipe), cost_of(recipe, request))
            receipt = give(self.site, books, lease, outcome)
        return pb.MeetReply(verdict=pb.MEET_VERDICT_ANSWERED, receipt=receipt, human=verdict.human)
