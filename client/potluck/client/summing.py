"""From a sealed update to a receipt where updates are summed unseen: meet the others, take part, ask what became of it.

What a client does in a sum is potluck.client.secure, which has no socket, clock or disk; here is what carries its
messages.  The states of a task mean the same as on the plain way: OFFERING until a sum begins, UPLOADING while it goes
on, COMMITTING once the update may be revealed.  From there it is spent: it never goes into another sum.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from potluck.client.delivery import FORGOTTEN, keep
from potluck.client.errors import fix_of
from potluck.client.events import Phase, Progressed, Trouble, Waiting
from potluck.client.link import MEET, STEP
from potluck.client.masking import participation
from potluck.client.records import Sealed, Task
from potluck.client.sane import span_s
from potluck.client.secure.participation import Outgoing, Participation
from potluck.client.station import Station
from potluck.client.tasks import Event, TaskState
from potluck.wire.envelopes import Purpose
from potluck.wire.refusals import Refusal
from potluck.wire.secure.messages import Step
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.v1 import sums_pb2 as pb

AGAIN_S: Final = 1.0
"""Between two questions, where the coordinator names no time that is one."""
UPLOADS: Final = 3
"""Times that one masked update is sent, at the most; an upload that a break ended is gone on with, and is no other."""
NOTED: Final = "nothing now; it was allowed, and docs/threat-model.md says what such sums hide and what they do not"
LATER: Final = "nothing now; the coordinator is asked again later"


def contribute(station: Station, task: Task, sealed: Sealed) -> None:
    """Take *task* nearer to its receipt.

    Raises:
        Refusal: the network broke, or the coordinator will not have this update; the task is where it was, at
            OFFERING, or dropped.
        BadReceipt: the coordinator's answer is not for this update.
    """
    STAGES[task.state](station, task, sealed)


def _meet(station: Station, task: Task, sealed: Sealed) -> None:
    """Wait for the others, and take part once a sum begins."""
    reply = _asked(station, task, sealed)
    match reply.verdict:
        case pb.MEET_VERDICT_WAIT | pb.MEET_VERDICT_PARK:
            _wait(station, task, reply.human, reply.again_in_s)
        case pb.MEET_VERDICT_BEGIN:
            _take_part(station, task, sealed, reply)
        case _:  # a newer coordinator's word: ask again later, lose nothing
            raise Refusal(f"the coordinator answered with {reply.verdict}", code="internal")


def _resume(station: Station, task: Task, _sealed: Sealed) -> None:
    """After a crash in the middle of a sum: its secrets are gone, and this client was a dropout."""
    station.move(task, Event.FORGOTTEN)


def _ask(station: Station, task: Task, sealed: Sealed) -> None:
    """Ask what became of an update that is spent."""
    reply = _asked(station, task, sealed)
    if reply.verdict == pb.MEET_VERDICT_WAIT:
        _wait(station, task, reply.human, reply.again_in_s)
    elif reply.verdict != pb.MEET_VERDICT_ANSWERED:
        station.drop(task, "the sum that this update was in came to nothing; it is not given again", give_back=True)


STAGES: Final[Mapping[TaskState, Callable[[Station, Task, Sealed], None]]] = MappingProxyType(
    {TaskState.OFFERING: _meet, TaskState.UPLOADING: _resume, TaskState.COMMITTING: _ask}
)


def _asked(station: Station, task: Task, sealed: Sealed) -> pb.MeetReply:
    """Ask for a sum; where there is a receipt already, keep it.

    Raises:
        BadLedger: the owner's ledger of private rounds is damaged, or older than others have seen it.
    """
    request = pb.MeetRequest(lease_id=task.lease_id, digest=sealed.digest, spent=station.spent())
    try:
        reply = station.link.call(MEET, station.signed(Purpose.MEET, request))
    except Refusal as refusal:
        if not refusal.retryable:
            station.drop(task, f"{refusal.code}: {refusal}", give_back=False)
        raise
    if reply.verdict == pb.MEET_VERDICT_ANSWERED:
        keep(station, task, reply.receipt)
    return reply


def _wait(station: Station, task: Task, why: str, seconds: float) -> None:
    """Wait, and say why; the owner may say otherwise meanwhile."""
    seconds = span_s(seconds, AGAIN_S)
    station.lookout.say(f"round {task.terms.round}: waiting for others: {why}", station.clock.wall_s() + seconds)
    station.tell(Waiting(why, seconds))
    station.lookout.wait(seconds)


def _take_part(station: Station, task: Task, sealed: Sealed, begun: pb.MeetReply) -> None:
    """Be in a sum, from its opening to its end or ours."""
    try:
        part = participation(station, task, sealed, begun.certificate)
        station.move(task, Event.WANTED)
        try:
            reply = Talk(station, task, part).held(begun.opening)
        finally:
            for note in part.notes:
                station.tell(Trouble(note, NOTED))
            part.leave()
    except (SumRefusal, Refusal) as refusal:
        _left(station, task, refusal)
        return
    if reply.HasField("receipt"):
        keep(station, station.outbox.task(task.lease_id), reply.receipt)
    else:
        _back(station, task)


def _left(station: Station, task: Task, refusal: SumRefusal | Refusal) -> None:
    """Out of a sum: the update waits for another one, unless it may be revealed in this one."""
    station.tell(Trouble(str(refusal), fix_of(refusal)))
    if isinstance(refusal, SumRefusal) and refusal.reason is Reason.SPENT:
        station.move(station.outbox.task(task.lease_id), Event.SENT)
        return
    _back(station, task)
    _wait(station, task, f"out of the sum: {refusal}", station.recipe.privacy.rendezvous_s / 10)


def _back(station: Station, task: Task) -> None:
    """Return to OFFERING, unless the update is spent."""
    if station.outbox.task(task.lease_id).state is TaskState.UPLOADING:
        station.move(station.outbox.task(task.lease_id), Event.FORGOTTEN)


@final
@dataclass(frozen=True, slots=True)
class Talk:
    """One client's messages of one sum."""

    station: Station
    task: Task
    part: Participation

    def held(self, opening: bytes) -> pb.StepReply:
        """Say and hear all there is to; return the reply that says how the sum ended.

        Raises:
            SumRefusal: this client will not go on; Refusal: the coordinator will not, or cannot be reached.
        """
        outgoing = self.part.take(Step.OPEN, opening)
        while True:
            if outgoing is None:
                raise SumRefusal("nothing is left to say", reason=Reason.OUT_OF_ORDER, fix="update potluck")
            if outgoing.step is Step.AGREE:  # on the disk before the signature leaves
                self.station.move(self.station.outbox.task(self.task.lease_id), Event.SENT)
            reply = self._said(outgoing)
            if reply.closing:
                self.part.take(Step.UNMASK, reply.closing)
                return reply
            outgoing = self.part.take(outgoing.step, reply.message)

    def _said(self, outgoing: Outgoing) -> pb.StepReply:
        """Send a message until it is taken, then ask until there is an answer, for as long as a step may take."""
        clock, message, uploads = self.station.clock, outgoing.message, 0
        end_s = clock.monotonic_s() + self._patience_s
        while True:
            self._wait_for_gate()
            self._check_time(end_s)
            try:
                reply = self._call(outgoing.step, message)
                if reply.HasField("ticket") and outgoing.vector is not None and uploads < UPLOADS:
                    self._upload(reply.ticket, outgoing.vector.tobytes(), end_s)
                    uploads += 1
                    continue
            except Refusal as refusal:
                if not (refusal.retryable or refusal.code in FORGOTTEN) or clock.monotonic_s() >= end_s:
                    raise
                self.station.lookout.wait(AGAIN_S)
                continue
            if reply.WhichOneof("answer") in {"message", "closing"}:
                return reply
            if reply.HasField("ticket"):
                raise Refusal(f"bytes of {outgoing.step.name} are asked for that were sent {uploads} times", fix=LATER)
            message = b""  # it was taken
            self.station.lookout.wait(min(span_s(reply.wait_s, AGAIN_S), end_s - clock.monotonic_s()))

    def _check_time(self, end_s: float) -> None:
        """Raise a retryable Refusal where a step takes too long, whatever the coordinator answers meanwhile."""
        if self.station.clock.monotonic_s() >= end_s:
            raise Refusal(f"a step of the sum took {self._patience_s:.0f} s", code="unavailable", fix=LATER)

    @property
    def _patience_s(self) -> float:
        """How long a step may take before the coordinator is taken for gone."""
        privacy = self.station.recipe.privacy
        return float(privacy.vector_s + 4 * privacy.answer_s)

    def _call(self, step: Step, message: bytes) -> pb.StepReply:
        request = pb.StepRequest(
            lease_id=self.task.lease_id, sid=self.part.sid, stage=pb.SumStage.Name(int(step)), message=message
        )
        return self.station.link.call(STEP, self.station.signed(Purpose.STEP, request))

    def _upload(self, ticket: pb.Ticket, vector: bytes, end_s: float) -> None:
        def on_bytes(done: int, total: int) -> None:
            self._check_time(end_s)
            self.station.tell(Progressed(Phase.UPLOAD, done, total))
            self.station.lookout.pulse()

        self.station.transfers.send(ticket.upload_id, io.BytesIO(vector), len(vector), on_bytes)

    def _wait_for_gate(self) -> None:
        """Wait while the network is not to be used; the sum goes on without this client if that takes long."""
        lookout = self.station.lookout
        lookout.pulse()  # where the owner wants the program to end, nothing more leaves
        if lookout.gate.network:
            lookout.wait_until(self._patience_s, lambda: not lookout.gate.network)
