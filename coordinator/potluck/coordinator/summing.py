"""Secure sums at the coordinator: who meets, whose turn it is, and what becomes of a sum that is known.

The sum itself is potluck.coordinator.secure, which has no clock, socket or disk; here is what drives it.  Calls take
messages in and hand out answers; the one thread that combines rounds (worker.py) begins sums and closes their steps.
"""

import logging
import mmap
import os
import secrets
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

from potluck.coordinator.checkins import own_lease
from potluck.coordinator.meeting import Await, Guest, Manners, Meeting, Park
from potluck.coordinator.progress import turn
from potluck.coordinator.receipts import forget, stored
from potluck.coordinator.secure.phases import Phase
from potluck.coordinator.secure.sums import SecureSum
from potluck.coordinator.secure.sums import Site as Means
from potluck.coordinator.site import Site
from potluck.coordinator.store.records import Upload
from potluck.coordinator.summed import Lost, land, lose, mark
from potluck.coordinator.under_way import OVER, Standing, Sum
from potluck.coordinator.uploads import Uploads
from potluck.wire.envelopes import Purpose, opened
from potluck.wire.refusals import Refusal
from potluck.wire.secure.messages import Masked, Step
from potluck.wire.secure.parameters import Parameters
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.registers import Certified, certificate
from potluck.wire.sums import adapter_name, terms_of, vector_bytes
from potluck.wire.v1 import sums_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope

LOG = logging.getLogger(__name__)
NONCE_BYTES: Final = 32
THREADS: Final = min(4, os.cpu_count() or 1)
"""That take the masks off a sum."""
STAGES: Final[Mapping[int, Step]] = MappingProxyType({int(step): step for step in Step if step is not Step.OPEN})


@final
class Sums:
    """Answers step, and says where to wait; tend is for the thread that combines."""

    def __init__(self, site: Site, uploads: Uploads) -> None:
        self._site = site
        self._uploads = uploads
        self._meeting = Meeting(Manners.of(site.plan.recipe))
        self._now: Sum | None = None
        self._last: Sum | None = None
        self._lock = threading.Lock()

    # -- calls --------------------------------------------------------------------------------------------------

    def place(self, guest: Guest) -> pb.MeetReply:
        """Return the opening of the sum that *guest* is in, or how to wait for one."""
        with self._lock:
            current, key = self._now, guest.public_key
            if current is None or current.guests.get(key) != guest:
                told = self._meeting.ask(guest, self._site.clock.now_s())
                if told.present >= self._meeting.manners.most:
                    self._site.bell.set()
                return self._told(told)
            if current.machine.phase is not Phase.ADVERTISING or (Step.ADVERTISE, key) in current.said:
                return self.waiting("the sum that this update was to be in goes on without it")
            return pb.MeetReply(
                verdict=pb.MEET_VERDICT_BEGIN,
                opening=current.machine.message(Step.OPEN, key),
                certificate=certificate(self._site.keys.signing, self._site.run_id, key),
            )

    def waiting(self, human: str) -> pb.MeetReply:
        """Return that a client is to ask again soon."""
        return pb.MeetReply(verdict=pb.MEET_VERDICT_WAIT, again_in_s=self._meeting.manners.again_s, human=human)

    def _told(self, told: Await | Park) -> pb.MeetReply:
        least = self._meeting.manners.least
        if isinstance(told, Await):
            verdict, human = pb.MEET_VERDICT_WAIT, f"{told.present} are here; a sum has at least {least}"
        else:
            verdict, human = pb.MEET_VERDICT_PARK, f"fewer than {least} came; all come again at the same time"
        return pb.MeetReply(verdict=verdict, again_in_s=told.again_s, present=told.present, wanted=least, human=human)

    def step(self, envelope: Envelope) -> pb.StepReply:
        """Take one message of a member of a sum, and return the answer to it where there is one.

        Raises:
            Refusal: there is no such sum (any more), or the sender is not in it.
            SumRefusal: the message is refused, with the reason.
        """
        request = opened(envelope, Purpose.STEP, self._site.keys.coordinator_id, pb.StepRequest)
        stage = STAGES.get(int(request.stage))
        if stage is None:
            raise Refusal(f"stage {request.stage}", code="bad_request", fix="update potluck")
        with self._lock:
            found = self._found(request.sid)
            guest = found.guests.get(envelope.signer)
            if guest is None or guest.lease_id != request.lease_id:
                raise SumRefusal("no guest of this sum", reason=Reason.STRANGER, fix="wait for the next sum")
            if request.message and not found.busy and found.machine.phase not in OVER:
                ticket = self._take(found, guest, stage, request.message)
                if ticket is not None:
                    return pb.StepReply(ticket=ticket)
            return self._answer(found, guest, stage)

    def standing(self) -> Standing | None:
        """Return where the sum stands that is under way, if there is one."""
        with self._lock:
            return None if self._now is None else self._now.standing()

    # -- the thread that combines -------------------------------------------------------------------------------

    def tend(self) -> None:
        """Begin a sum where enough clients meet; close a step that is complete, or whose time ran out.

        Raises:
            Superseded: another coordinator took over.
            Refusal: the disk is full, or the database stayed locked; it is done again.
        """
        if not self._site.plan.terms.summed:
            return
        now_s = self._site.clock.now_s()
        if self._now is None:
            self._begin(now_s)
        elif self._now.busy or self._is_due(self._now, now_s):
            self._close(self._now)

    def _is_due(self, current: Sum, now_s: float) -> bool:
        with self._lock:
            return current.machine.complete() or now_s - current.since_s >= current.machine.deadline_s

    def _begin(self, now_s: float) -> None:
        """Begin a sum, where enough clients with updates of the present version are here."""
        with self._site.store.reading() as books:
            version = books.versions.find(books.run().version)
            takes = books.rounds.current() is not None
        if version is None or not takes:
            return
        plan, keys = self._site.plan, self._site.keys
        with self._lock:
            guests = self._meeting.gathered(version.version, now_s)
            if not guests:
                return
            privacy = plan.recipe.privacy
            parameters = Parameters(
                terms_of(plan.recipe, self._site.run_id, version.version),
                (adapter_name(version.adapter_digest),),
                (privacy.answer_s, privacy.answer_s, privacy.vector_s, privacy.answer_s, privacy.answer_s),
                secrets.token_bytes(NONCE_BYTES),
            )
            register, noised = Certified(keys.public, self._site.run_id), privacy.differential.by_user
            machine = SecureSum(parameters, Means(keys.signing, register, threads=THREADS, noised=noised))
            self._now = Sum(machine, parameters, {guest.public_key: guest for guest in guests}, now_s)
        LOG.info("event=sum_begun sid=%s version=%d members=%d", machine.sid.hex(), version.version, len(guests))

    def _close(self, current: Sum) -> None:
        """Close the present step.  While that takes its time, and until the store knows, members are told to wait."""
        machine = current.machine
        with self._lock:
            current.busy = True
        if machine.phase not in OVER and not current.unmarked:
            before = machine.phase
            try:
                phase = machine.close()
            except Exception:  # a defect of ours must not keep the members waiting for ever
                machine.cancel()
                raise
            LOG.info("event=sum_step sid=%s from=%s to=%s", machine.sid.hex(), before.name, phase.name)
            current.unmarked = phase is Phase.AGREEING
        if current.unmarked:  # where that fails, it is done again, and the step before is not closed once more
            if not mark(self._site, current.version, current.survivors()):
                machine.cancel()
            current.unmarked = False
        self._settle(current)
        with self._lock:
            current.busy, current.since_s = False, self._site.clock.now_s()
            if current.over:
                self._now, self._last = None, current

    def _settle(self, current: Sum) -> None:
        """Write down what became of a sum that is over; done again where it failed."""
        machine = current.machine
        costs = {guest.lease_id: guest.cost for guest in current.guests.values() if guest.cost is not None}
        if machine.phase is Phase.SUMMED:
            land(self._site, current.version, machine.sid, machine.result(), costs)
        elif machine.phase is Phase.ENDED:
            LOG.warning("event=sum_ended sid=%s reason=%s", machine.sid.hex(), machine.reason)
            with turn(self._site) as books:
                lose(self._site, books, str(machine.reason), Lost(machine.sid, machine.suspects, costs))
            self._keep_out(current)
        else:
            return
        with self._site.store.writing(self._site.fence) as books:
            for guest in current.guests.values():
                if (upload := books.leases.upload_of(guest.lease_id)) is not None:
                    forget(self._site, books, guest.lease_id, upload.digest)
        current.over = True

    def _keep_out(self, current: Sum) -> None:
        """Keep who is proven to have spoilt a sum out of those of its version and of the next, so that they succeed."""
        with self._lock:
            for dealer in (one.dealer for one in current.machine.suspects if one.proven):
                self._meeting.keep_out(current.guests[dealer].client_id, current.version + 1)

    # -- details ------------------------------------------------------------------------------------------------

    def _found(self, sid: bytes) -> Sum:
        for one in (self._now, self._last):
            if one is not None and one.machine.sid == sid:
                return one
        raise Refusal(f"there is no sum {sid.hex()[:16]}…", code="no_sum", fix="it is over; meet again")

    def _take(self, current: Sum, guest: Guest, stage: Step, message: bytes) -> pb.Ticket | None:
        """Take a message; return where the masked update goes, while its bytes are not all here."""
        key = guest.public_key
        if stage is not Step.MASK or (stage, key) in current.said:
            self._hand_over(current, stage, key, message)
            return None
        upload = self._upload(current, guest, Masked.parse(message).digest)
        if not upload.complete:
            return pb.Ticket(upload_id=upload.upload_id, committed_size=self._site.partials.committed(upload.upload_id))
        with self._site.folders.spool.path(upload.digest).open("rb") as file:
            vector = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            self._hand_over(current, stage, key, message, vector)
        finally:
            with self._site.store.writing(self._site.fence) as books:
                forget(self._site, books, guest.lease_id, upload.digest)
        return None

    def _hand_over(
        self, current: Sum, stage: Step, key: bytes, message: bytes, vector: memoryview | None = None
    ) -> None:
        """Give the sum a message; one that it has is answered as if it were new."""
        try:
            current.machine.take(stage, key, message, vector)
        except SumRefusal as refusal:
            if refusal.reason is not Reason.REPEATED:
                raise
        current.said.add((stage, key))
        if current.machine.complete():
            self._site.bell.set()

    def _upload(self, current: Sum, guest: Guest, digest: bytes) -> Upload:
        """Return the upload of a masked update, which every guest may make one of."""
        if current.machine.phase is not Phase.MASKING:
            raise SumRefusal("a masked update", reason=Reason.OUT_OF_ORDER, fix="wait for the next sum")
        with self._site.store.reading() as books:
            found = books.leases.upload_of(guest.lease_id)
        size = vector_bytes(current.parameters.terms)
        if found is not None and (found.digest, found.size) == (digest, size):
            return found
        with self._site.store.writing(self._site.fence) as books:
            return self._uploads.allow(books, own_lease(books, guest.client_id, guest.lease_id), digest, size)

    def _answer(self, current: Sum, guest: Guest, stage: Step) -> pb.StepReply:
        """Return the answer to *stage*, or that there is none yet."""
        wait = pb.StepReply(wait_s=self._meeting.manners.again_s)
        if current.busy:
            return wait
        if current.machine.phase in OVER:
            if not current.over:
                return wait
            with self._site.store.reading() as books:
                receipt = books.intake.receipt(guest.lease_id)
            closing = current.machine.message(Step.UNMASK, guest.public_key)
            return pb.StepReply(closing=closing, receipt=None if receipt is None else stored(receipt))
        message = current.machine.message(stage, guest.public_key)
        return wait if message is None else pb.StepReply(message=message)
