"""How clients become members of the run, and how they leave."""

from dataclasses import dataclass
from typing import Final, final

from potluck.coordinator.progress import turn
from potluck.coordinator.site import Site
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import InviteRecord, LeaseState, Member, Standing
from potluck.wire.channels import PROTOCOL
from potluck.wire.envelopes import Purpose, opened, peer_id
from potluck.wire.invites import Invitation, read
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import enrollment_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope, Protocol

SOFTWARE: Final = "potluck 0.1.0"
MAX_NAME: Final = 64
_ASK: Final = "ask whoever invited you for a new invite"


@final
@dataclass(frozen=True, slots=True)
class Membership:
    """Answers about, enroll and leave."""

    site: Site

    def about(self, request: pb.AboutRequest) -> pb.AboutReply:
        """Say what one would be joining; change nothing.

        A used-up or expired invite is answered too, with no uses left: it still works for a client that it let in
        once, and that may have crashed before it knew.

        Raises:
            Refusal: the invite is of no use any more, or never was of any here.
            BadInvite: it is damaged.
        """
        with self.site.store.reading() as books:
            invite = self._ours(books, read(request.invite))
            over = invite.expires_s <= self.site.clock.now_s()
            version = books.versions.find(books.run().version)
            return pb.AboutReply(
                recipe_json=self.site.plan.json,
                recipe_digest=self.site.plan.digest,
                version=books.run().version,
                members=books.members.active(),
                adapter_bytes=0 if version is None else version.adapter_size,
                uses_left=0 if over else max(0, invite.max_uses - invite.uses),
                protocol=spoken(),
            )

    def enroll(self, envelope: Envelope) -> pb.EnrollReply:
        """Let a client in; a repeated call gets the same answer, and the invite counts one use.

        Raises:
            Refusal: the invite is of no use, the run is full, the recipe is not the one consented to, or the
                protocol is another.
        """
        request = opened(envelope, Purpose.ENROLL, self.site.keys.coordinator_id, pb.EnrollRequest)
        invitation = read(request.invite)
        self._check_terms(request)
        client_id = peer_id(envelope.signer)
        with turn(self.site) as books:
            found = books.members.find(client_id)
            if found is not None and found.standing is Standing.REVOKED:
                raise Refusal("the operator ended this membership", code="not_a_member", fix="talk to the operator")
            if found is None or found.standing is not Standing.ACTIVE:
                self._admit(books, invitation, request, envelope.signer)
            elif found.recipe_digest != request.recipe_digest:  # the recipe changed, and its owner agreed again
                books.members.rejoin(
                    client_id, invite_id=found.invite_id, name=request.name, recipe_digest=request.recipe_digest
                )
        return pb.EnrollReply(client_id=client_id, membership=pb.MEMBERSHIP_ACTIVE)

    def leave(self, envelope: Envelope) -> pb.LeaveReply:
        """Take a client out of the run; no effect the second time.

        Its updates leave every round that still takes updates.  Those whose round has fixed its inputs stay: what is
        combined cannot be taken apart again.

        Raises:
            Refusal: it never was a member.
        """
        request = opened(envelope, Purpose.LEAVE, self.site.keys.coordinator_id, pb.LeaveRequest)
        client_id = peer_id(envelope.signer)
        with turn(self.site) as books:
            member = books.members.find(client_id)
            if member is None or request.run_id != self.site.run_id:
                raise Refusal(f"{client_id} is not a member of this run", code="not_a_member", fix="nothing to leave")
            if member.standing is Standing.ACTIVE:
                end_membership(self.site, books, client_id, Standing.LEFT)
            return pb.LeaveReply(counted=books.intake.counted(client_id))

    def _ours(self, books: Books, invitation: Invitation) -> InviteRecord:
        """Return the record of an invite that is ours and was not revoked."""
        if invitation.coordinator_key != self.site.keys.public or invitation.run_id != self.site.run_id:
            raise Refusal(
                f"the invite is for coordinator {invitation.coordinator_id}, run {invitation.run_id[:64]}",
                code="invite_foreign",
                fix="check the address, or " + _ASK,
            )
        invite = books.invites.find(invitation.invite_id)
        if invite is None:
            raise Refusal("the coordinator does not know this invite", code="invite_foreign", fix=_ASK)
        if invite.revoked:
            raise Refusal("the operator revoked this invite", code="invite_revoked", fix=_ASK)
        return invite

    def _check_terms(self, request: pb.EnrollRequest) -> None:
        """Refuse another protocol, and consent to another recipe."""
        if not speaks(request.protocol):
            raise Refusal(
                f"you speak protocols {request.protocol.oldest} to {request.protocol.newest}, this speaks {PROTOCOL}",
                code="upgrade_required",
                fix="update potluck",
            )
        if request.recipe_digest != self.site.plan.digest:
            raise Refusal(
                "the recipe is not the one that you consented to", code="wrong_consent", fix="read it again, then join"
            )
        if len(request.name) > MAX_NAME or not request.name.isprintable():
            raise Refusal(
                f"a name of {len(request.name)} characters", code="bad_request", fix=f"use up to {MAX_NAME}, printable"
            )

    def _admit(self, books: Books, invitation: Invitation, request: pb.EnrollRequest, key: bytes) -> None:
        """Count one use of the invite, and write the member down."""
        invite = self._ours(books, invitation)
        late_s = self.site.clock.now_s() - invite.expires_s
        if late_s >= 0:
            raise Refusal(f"the invite expired {late_s / 3600:.1f} hours ago", code="invite_expired", fix=_ASK)
        limit = self.site.plan.recipe.admission.max_members
        if books.members.active() >= limit:
            raise Refusal(f"the run has {limit} members, as many as it takes", code="run_full", fix="try another day")
        if not books.invites.use(invite.invite_id):
            raise spent(invite)
        client_id, name = peer_id(key), request.name
        if books.members.find(client_id) is None:
            now_s = self.site.clock.now_s()
            books.members.add(
                Member(
                    client_id=client_id,
                    public_key=key,
                    name=name,
                    standing=Standing.ACTIVE,
                    invite_id=invite.invite_id,
                    recipe_digest=request.recipe_digest,
                    joined_s=now_s,
                    boot_id=b"",
                    seqno=0,
                    seen_s=now_s,
                )
            )
        else:
            books.members.rejoin(client_id, invite_id=invite.invite_id, name=name, recipe_digest=request.recipe_digest)
        books.log.append("enrolled", client_id=client_id, invite_id=invite.invite_id)


def end_membership(site: Site, books: Books, client_id: str, standing: Standing) -> None:
    """Take a client out: no more work, and nothing of it in rounds that still take updates."""
    books.members.set_standing(client_id, standing)
    for lease in books.leases.open_of(client_id):
        books.leases.end(lease.lease_id, LeaseState.ABORTED)
    gave = {"withdrawn": books.intake.withdraw(client_id), "counted": books.intake.counted(client_id)}
    noised = site.plan.recipe.privacy.differential.by_user  # whose promise is that nobody can tell
    books.log.append(str(standing), client_id=client_id, **({} if noised else gave))


def member_of(books: Books, client_id: str) -> Member:
    """Return the active member called *client_id*.

    Raises:
        Refusal: it is none.
    """
    member = books.members.find(client_id)
    if member is None or member.standing is not Standing.ACTIVE:
        told = "is not a member of this run" if member is None else f"is no member any more: {member.standing}"
        raise Refusal(f"{client_id} {told}", code="not_a_member", fix="join with an invite")
    return member


def spent(invite: InviteRecord) -> Refusal:
    """Return the refusal of an invite that has no use left."""
    return Refusal(f"the invite was good for {invite.max_uses}, all used", code="invite_spent", fix=_ASK)


def spoken() -> Protocol:
    """Return what this coordinator speaks."""
    return Protocol(oldest=PROTOCOL, newest=PROTOCOL, software=SOFTWARE)


def speaks(protocol: Protocol) -> bool:
    """Whether a client that speaks *protocol* and this coordinator have a version in common."""
    return protocol.oldest <= PROTOCOL <= protocol.newest
