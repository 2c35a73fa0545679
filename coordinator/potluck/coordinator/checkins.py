"""Check-ins: who gets work, what is sent again, what is cancelled, and when to come back."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

from potluck.coordinator import rounds
from potluck.coordinator.answers import Answer, Recent
from potluck.coordinator.membership import member_of, speaks, spoken
from potluck.coordinator.pacing import Window, poll_window
from potluck.coordinator.participation import resting
from potluck.coordinator.presence import Presence
from potluck.coordinator.progress import hold, look, turn
from potluck.coordinator.site import Site
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import LeaseRecord, LeaseState, Member, Version
from potluck.wire.channels import PROTOCOL
from potluck.wire.codecs import codecs_in
from potluck.wire.envelopes import Purpose, opened, peer_id
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Blob, Envelope

LEASE_BYTES: Final = 16
MAX_HELD: Final = 64
RENEWALS: Final = 3
"""A lease is renewed so many times before it would run out."""
_SEALED: Final = frozenset(
    {pb.TASK_STATE_SEALING, pb.TASK_STATE_OFFERING, pb.TASK_STATE_UPLOADING, pb.TASK_STATE_COMMITTING}
)
_REASONS: Final[Mapping[rounds.Why, pb.Reason]] = {
    rounds.Why.ROUND_FULL: pb.REASON_ROUND_FULL,
    rounds.Why.CONTRIBUTED: pb.REASON_CONTRIBUTED,
    rounds.Why.PENDING: pb.REASON_PENDING,
    rounds.Why.PAUSED: pb.REASON_PAUSED,
    rounds.Why.COMBINING: pb.REASON_COMBINING,
    rounds.Why.UNWANTED: pb.REASON_UNWANTED,
    rounds.Why.RESTING: pb.REASON_CONTRIBUTED,
    rounds.Why.OVER: pb.REASON_CONTRIBUTED,
    rounds.Why.BUSY: pb.REASON_UNWANTED,
}


@final
@dataclass(frozen=True, slots=True)
class CheckIns:
    """Answers check_in, renew and abort."""

    site: Site
    presence: Presence
    recent: Recent = field(default_factory=Recent)

    def check_in(self, envelope: Envelope) -> pb.CheckInReply:
        """Reconcile what the client holds with what it should, and give it work where there is some.

        Raises:
            Refusal: it is no member, a replay, or one of two programs with the same key.
        """
        request = opened(envelope, Purpose.CHECKIN, self.site.keys.coordinator_id, pb.CheckInRequest)
        if request.run_id != self.site.run_id or len(request.held) > MAX_HELD:
            raise Refusal(
                f"run {request.run_id[:64]!r}, {len(request.held)} held leases", code="bad_request", fix="join again"
            )
        now_s = self.site.clock.now_s()
        answer = self._answer(peer_id(envelope.signer), request, now_s)
        reply = self._unable(request)
        if reply is None:
            reply = pb.CheckInReply()
            if answer.quiet:
                self._say(reply, answer)
            else:
                answer = self._act(reply, answer.member, request, now_s)
        return self._finish(reply, answer, now_s)

    def renew(self, envelope: Envelope) -> pb.RenewReply:
        """Give a lease its full time again, or say that nobody needs the work any more.

        Raises:
            Refusal: it is no member, or the lease is not its own.
        """
        request = opened(envelope, Purpose.RENEW, self.site.keys.coordinator_id, pb.RenewRequest)
        now_s, ttl_s = self.site.clock.now_s(), self.site.plan.recipe.limits.lease_s
        with turn(self.site) as books:
            lease = own_lease(books, peer_id(envelope.signer), request.lease_id)
            if lease.state is not LeaseState.OPEN:
                return pb.RenewReply(proceed=False, human=f"the lease is {lease.state}")
            if not rounds.useful(self.site.plan.terms, look(books, now_s), hold(lease, now_s)):
                books.leases.end(lease.lease_id, LeaseState.CANCELLED)
                return pb.RenewReply(proceed=False, human="its round went on without it")
            books.leases.extend(lease.lease_id, started_s=now_s, ttl_s=ttl_s)
        return pb.RenewReply(proceed=True, human="go on", ttl_s=ttl_s, next_renew_s=ttl_s / RENEWALS)

    def abort(self, envelope: Envelope) -> pb.AbortReply:
        """Take a lease back; no effect the second time.

        Raises:
            Refusal: it is no member, or the lease is not its own.
        """
        request = opened(envelope, Purpose.ABORT, self.site.keys.coordinator_id, pb.AbortRequest)
        with turn(self.site) as books:
            lease = own_lease(books, peer_id(envelope.signer), request.lease_id)
            books.leases.end(lease.lease_id, LeaseState.ABORTED)
        return pb.AbortReply()

    def _answer(self, client_id: str, request: pb.CheckInRequest, now_s: float) -> Answer:
        """Return the answer to a client that shows itself to be one and no copy of one."""
        changes = self.site.store.changes  # before the look: what is kept may be newer than its number, never older
        answer = self.recent.find(changes, client_id, request)
        if answer is not None:
            self.presence.witness(answer.member, boot_id=request.boot_id, seqno=request.seqno, now_s=now_s)
            return answer
        with self.site.store.reading() as books:
            member = member_of(books, client_id)
            self.presence.witness(member, boot_id=request.boot_id, seqno=request.seqno, now_s=now_s)
            answer = self._decide(books, member, request, now_s)
        if answer.lasting(self.site.plan.terms):
            self.recent.keep(changes, request, answer)
        return answer

    def _unable(self, request: pb.CheckInRequest) -> pb.CheckInReply | None:
        """Return the answer to a client that cannot work here as it is, or None."""
        if not speaks(request.protocol):
            told = f"you speak protocols {request.protocol.oldest} to {request.protocol.newest}, this speaks {PROTOCOL}"
            return pb.CheckInReply(upgrade_required=pb.UpgradeRequired(protocol=spoken(), human=told))
        plan = self.site.plan
        able, taken = codecs_in(request.protocol.capabilities), plan.recipe.codec.accepted
        if able and not set(able) & set(taken):  # a client that names none is believed: its update will tell
            told = f"this run takes updates as {', '.join(taken)}, and your program writes none of these"
            return pb.CheckInReply(upgrade_required=pb.UpgradeRequired(protocol=spoken(), human=told))
        if request.recipe_digest != plan.digest:
            return pb.CheckInReply(
                consent_required=pb.ConsentRequired(recipe_json=plan.json, recipe_digest=plan.digest)
            )
        return None

    def _decide(self, books: Books, member: Member, request: pb.CheckInRequest, now_s: float) -> Answer:
        """Work out the answer from one look at the store."""
        now, terms = look(books, now_s), self.site.plan.terms
        holds = {one.lease_id: hold(one, now_s) for one in books.leases.open_of(member.client_id)}
        kept = {lease_id for lease_id, one in holds.items() if rounds.useful(terms, now, one)}
        asker = rounds.Asker(
            pending=False,
            contributed=books.intake.contributed(member.client_id, now.version, now.round),
            resting=resting(self.site.plan.recipe, books, member.client_id, now.round),
            wants_work=request.wants_work,
            holds=tuple(holds.values()),
            listed=frozenset(held.lease_id for held in request.held),
        )
        cancel = {
            held.lease_id: self._why_not(books, member, held.lease_id)
            for held in request.held
            if held.lease_id not in kept
            # Its owner made an update for it and needs the receipt, whatever became of the lease.
            and not (held.state in _SEALED and books.leases.find(held.lease_id) is not None)
        }
        version = books.versions.find(now.version)
        if version is None:
            raise Refusal(f"version {now.version} is missing in the database", fix="the operator has to restore it")
        stale = tuple(lease_id for lease_id in holds if lease_id not in kept)
        return Answer(
            member=member,
            assignment=rounds.assignment(terms, now, asker),
            cancel=cancel,
            stale=stale,
            holds=len(holds),
            now=now,
            version=version,
            due=rounds.event(terms, now) is not None,
            ledger_lines=books.intake.ledger_lines(member.client_id),
        )

    def _why_not(self, books: Books, member: Member, lease_id: bytes) -> str:
        """Say why a client should drop a lease."""
        lease = books.leases.find(lease_id)
        if lease is None or lease.client_id != member.client_id:
            return "the coordinator does not know this lease"
        return "its round went on without it" if lease.state is LeaseState.OPEN else f"the lease is {lease.state}"

    def _act(self, reply: pb.CheckInReply, member: Member, request: pb.CheckInRequest, now_s: float) -> Answer:
        """Decide again with nobody else writing, and write what was decided."""
        ttl_s = self.site.plan.recipe.limits.lease_s
        with turn(self.site) as books:
            answer = self._decide(books, member_of(books, member.client_id), request, now_s)
            for lease_id in answer.stale:
                books.leases.end(lease_id, LeaseState.CANCELLED)
            what = answer.assignment
            if isinstance(what, rounds.Redeliver):
                books.leases.extend(what.lease_id, started_s=now_s, ttl_s=ttl_s)
                lease = books.leases.find(what.lease_id)
            elif isinstance(what, rounds.Grant):
                lease = self._grant(books, member, answer, now_s)
            else:
                lease = None
            self.presence.save(books)
        if lease is None:
            self._say(reply, answer)
        else:
            reply.lease.CopyFrom(self._lease(lease, answer.version))
        return answer

    def _grant(self, books: Books, member: Member, answer: Answer, now_s: float) -> LeaseRecord:
        """Write down a new lease in the open round."""
        if answer.now.round is None:
            raise Refusal("no round takes updates", code="unavailable", fix="check in again")
        lease = LeaseRecord(
            lease_id=secrets.token_bytes(LEASE_BYTES),
            client_id=member.client_id,
            round=answer.now.round,
            version=answer.version.version,
            state=LeaseState.OPEN,
            started_s=now_s,
            ttl_s=self.site.plan.recipe.limits.lease_s,
        )
        books.leases.grant(lease)
        books.rounds.start(lease.round, now_s)
        return lease

    def _lease(self, lease: LeaseRecord, version: Version) -> pb.Lease:
        """Return *lease* as it travels."""
        plan = self.site.plan
        return pb.Lease(
            lease_id=lease.lease_id,
            run_id=self.site.run_id,
            round=lease.round,
            version=version.version,
            adapter=adapter_of(version),
            seed=version.seed,
            recipe_digest=plan.digest,
            manifest_digest=plan.manifest_digest(version.version),
            ttl_s=lease.ttl_s,
            max_update_bytes=plan.recipe.limits.max_update_bytes,
        )

    def _say(self, reply: pb.CheckInReply, answer: Answer) -> None:
        """Write an answer that is no lease into *reply*."""
        if isinstance(answer.assignment, rounds.Finished):
            reply.run_done.version = answer.version.version
        elif isinstance(answer.assignment, rounds.Decline):
            why = answer.assignment.why
            human = why.value
            if answer.now.round is not None:
                plan = self.site.plan
                came = "" if plan.recipe.privacy.differential.by_user else f"{answer.now.received} of "
                human += f" (round {answer.now.round}: {came}{plan.terms.cohort} {'are in' if came else 'are wanted'})"
            reply.no_work.CopyFrom(pb.NoWork(reason=_REASONS[why], human=human))

    def _finish(self, reply: pb.CheckInReply, answer: Answer, now_s: float) -> pb.CheckInReply:
        """Add what every reply says."""
        window = self._window(answer, now_s)
        reply.poll_window.CopyFrom(pb.PollWindow(min_s=window.min_s, max_s=window.max_s))
        reply.cancel.extend(pb.Cancel(lease_id=key, human=human) for key, human in answer.cancel.items())
        reply.coordinator_time_ms = round(now_s * 1_000)
        reply.version = answer.version.version
        reply.ledger_lines = answer.ledger_lines
        reply.adapter.CopyFrom(adapter_of(answer.version))
        return reply

    def _window(self, answer: Answer, now_s: float) -> Window:
        limits = self.site.plan.recipe.limits
        return poll_window(
            self.presence.waiting(now_s),
            check_ins_per_s=limits.check_ins_per_s,
            poll_min_s=limits.poll_min_s,
            poll_max_s=limits.poll_max_s,
        )


def own_lease(books: Books, client_id: str, lease_id: bytes) -> LeaseRecord:
    """Return the lease with that id, which must be of the active member called *client_id*.

    Raises:
        Refusal: it is no member, or the lease is unknown or another's.
    """
    member_of(books, client_id)
    lease = books.leases.find(lease_id)
    if lease is None or lease.client_id != client_id:
        raise Refusal(
            f"lease {lease_id.hex()[:32]} is not one of {client_id}", code="unknown_lease", fix="check in for work"
        )
    return lease


def adapter_of(version: Version) -> Blob:
    """Return the adapter's name and size as they travel; both empty at version 0."""
    return Blob(digest=version.adapter_digest, size=version.adapter_size)
