"""Joining: after the preflight and the owner's consent, ask to be let in."""

from potluck.client.consent import ConsentCard
from potluck.client.errors import NotReady
from potluck.client.identity import Identity
from potluck.client.link import ENROLL
from potluck.client.outbox.store import Outbox, joined
from potluck.client.preflight import Preflight
from potluck.client.records import Membership
from potluck.client.software import spoken
from potluck.client.tasks import MembershipState, Step
from potluck.wire.envelopes import Purpose, sign
from potluck.wire.refusals import Refusal
from potluck.wire.v1.enrollment_pb2 import MEMBERSHIP_PENDING, EnrollRequest


def enrol(preflight: Preflight, consented: ConsentCard, name: str, outbox: Outbox, identity: Identity) -> Membership:
    """Keep the owner's consent, then ask to be let in; call it again after a crash, and nothing counts twice.

    Raises:
        NotReady: the preflight found errors, or the recipe is another one than on the card.
        StillHolds: this home holds unfinished work of another run.
        Unreachable: the coordinator does not answer; the consent is kept.
        Refusal: the coordinator does not let this client in.
    """
    invitation, _, recipe = preflight.found()
    if consented.recipe_digest != recipe.digest():
        raise NotReady("the recipe changed while you read it", fix="read it again: run `potluck join` once more")
    wanted = Membership(
        state=MembershipState.ENROLLING,
        token=invitation.token,
        run_id=invitation.run_id,
        run_name=recipe.run.name,
        coordinator_id=invitation.coordinator_id,
        recipe_json=recipe.to_json(),
        recipe_digest=recipe.digest(),
        name=name,
        data_path=str(preflight.site.data.absolute()),
        examples=preflight.examples,
    )
    outbox.consent(wanted)
    request = EnrollRequest(invite=invitation.token, name=name, recipe_digest=wanted.recipe_digest, protocol=spoken())
    link = preflight.site.link(invitation)
    try:
        envelope = sign(identity.key, Purpose.ENROLL, invitation.coordinator_id, request)
        reply = link.patiently(ENROLL, envelope)
    except Refusal:
        outbox.step(Step.REFUSED)
        raise
    finally:
        outbox.count(*link.traffic())
        link.close()
    outbox.step(Step.ENROLLED, pending=reply.membership == MEMBERSHIP_PENDING)
    return joined(outbox)
