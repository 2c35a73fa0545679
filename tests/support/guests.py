"""Volunteers that say what a script says to a secure sum, over the real stubs and TLS."""

import secrets
from dataclasses import dataclass, field

from coordinators import Hosted
from potluck.wire.envelopes import Purpose
from potluck.wire.secure.messages import Opening, Step
from potluck.wire.secure.roster import entry
from potluck.wire.secure.signatures import sum_id
from potluck.wire.v1 import sums_pb2, sums_pb2_grpc
from potluck.wire.v1.envelope_pb2 import Envelope
from scripted import Volunteer, attempts, called


@dataclass
class Guest(Volunteer):
    """A member with a sealed update that waits for a sum."""

    lease_id: bytes = b""
    digest: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    sid: bytes = b""
    certificate: bytes = b""

    def meet(self, **changes: object) -> sums_pb2.MeetReply:
        request = sums_pb2.MeetRequest(**({"lease_id": self.lease_id, "digest": self.digest} | changes))
        return called(sums_pb2_grpc.SumsStub(self.channel()).Meet, self.signed(Purpose.MEET, request))

    def begin(self) -> None:
        """Meet until the sum begins."""
        for _ in attempts(20.0):
            reply = self.meet()
            if reply.verdict == sums_pb2.MEET_VERDICT_BEGIN:
                self.sid, self.certificate = sum_id(Opening.parse(reply.opening).parameters), reply.certificate
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


def guests(hosted: Hosted, count: int) -> list[Guest]:
    """Return members of a run, each with a lease."""
    token = hosted.invite()
    made = [Guest(token, seed=seed, name=f"guest {seed}") for seed in range(count)]
    hosted.volunteers.extend(made)
    for guest in made:
        guest.enroll()
        guest.lease_id = guest.lease().lease_id
    return made
