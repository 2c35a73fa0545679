"""Volunteers that say what a script says to a secure sum, over the real stubs and TLS."""

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cohorts import Remembered, words_of
from coordinators import Hosted
from potluck.client.secure.participation import Outgoing, Participation, Standing
from potluck.client.secure.policy import Policy
from potluck.wire.envelopes import Purpose
from potluck.wire.secure.messages import Opening, Step
from potluck.wire.secure.parameters import Parameters
from potluck.wire.secure.registers import Certified
from potluck.wire.secure.roster import entry
from potluck.wire.secure.signatures import sum_id
from potluck.wire.sums import adapter_name, terms_of
from potluck.wire.v1 import sums_pb2, sums_pb2_grpc, work_pb2
from potluck.wire.v1.envelope_pb2 import Envelope
from scripted import Volunteer, attempts, called


@dataclass
class Guest(Volunteer):
    """A member with a sealed update that waits for a sum."""

    lease_id: bytes = b""
    digest: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    sid: bytes = b""
    certificate: bytes = b""
    opening: bytes = b""
    spent: work_pb2.Spent | None = None
    """What it says that its private rounds cost."""

    def meet(self, **changes: object) -> sums_pb2.MeetReply:
        request = sums_pb2.MeetRequest(
            **({"lease_id": self.lease_id, "digest": self.digest, "spent": self.spent} | changes)
        )
        return called(sums_pb2_grpc.SumsStub(self.channel()).Meet, self.signed(Purpose.MEET, request))

    def begin(self) -> None:
        """Meet until the sum begins."""
        for _ in attempts(20.0):
            reply = self.meet()
            if reply.verdict == sums_pb2.MEET_VERDICT_BEGIN:
                self.sid, self.certificate = sum_id(Opening.parse(reply.opening).parameters), reply.certificate
                self.opening = reply.opening
                return
        raise TimeoutError(reply)

    def request(self, step: int, message: bytes = b"", **changes: object) -> sums_pb2.StepRequest:
        facts = {"lease_id": self.lease_id, "sid": self.sid, "stage": step, "message": message}
        return sums_pb2.StepRequest(**(facts | changes))

    def step(self, step: int, message: bytes = b"", **changes: object) -> sums_pb2.StepReply:
        return self.send_step(self.signed(Purpose.STEP, self.request(step, message, **changes)))

    def send_step(self, envelope: Envelope) -> sums_pb2.StepReply:
        return called(sums_pb2_grpc.SumsStub(self.channel()).Step, envelope)

    def keys(self, sid: bytes | None = None) -> bytes:
        """Return a good message of ADVERTISE for the sum *sid*, with keys that nobody has the secrets of."""
        points = (secrets.token_bytes(32), secrets.token_bytes(32))
        return entry(self.key, self.sid if sid is None else sid, self.certificate, *points).to_bytes()

    def advertise(self) -> sums_pb2.StepReply:
        return self.step(Step.ADVERTISE, self.keys())

    def participation(self) -> Participation:
        """Return the client's half of the sum that has begun, with an update of small numbers."""
        assert self.recipe is not None
        invitation, version = self.invitation, Parameters.parse(Opening.parse(self.opening).parameters).terms.version
        terms = terms_of(self.recipe, invitation.run_id, version)
        standing = Standing(
            self.key, self.certificate, Certified(invitation.coordinator_key, invitation.run_id), Remembered()
        )
        policy = Policy(terms, adapter_name(b""), invitation.coordinator_key, small_groups=True)
        return Participation(standing, policy, words_of(self.seed, terms), self.digest)

    def said(self, outgoing: Outgoing) -> bytes:
        """Say what a participation has to say; return the coordinator's message, empty once the sum is over."""
        for _ in attempts(20.0):
            reply = self.step(outgoing.step, outgoing.message)
            if reply.HasField("ticket"):
                self.upload(reply.ticket, outgoing.vector.tobytes())  # type: ignore[arg-type, union-attr]
            elif reply.WhichOneof("answer") != "wait_s":
                return reply.message
        raise TimeoutError(reply)


def play_sum(made: Sequence[Guest], spoil: Callable[[Guest, Outgoing], Outgoing] = lambda _, said: said) -> None:
    """Let guests who all met go through a sum side by side; *spoil* changes what one of them says."""

    def play(guest: Guest) -> None:
        part, heard = guest.participation(), guest.opening
        for before in list(Step)[:-1]:
            outgoing = part.take(before, heard)
            assert outgoing is not None
            heard = guest.said(spoil(guest, outgoing))

    with ThreadPoolExecutor(len(made)) as pool:
        list(pool.map(play, made))


def guests(hosted: Hosted, count: int) -> list[Guest]:
    """Return members of a run, each with a lease."""
    token = hosted.invite()
    made = [Guest(token, seed=seed, name=f"guest {seed}") for seed in range(count)]
    hosted.volunteers.extend(made)
    for guest in made:
        guest.enroll()
        guest.lease_id = guest.lease().lease_id
    return made
