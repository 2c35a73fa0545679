"""Check-ins: say what is held, hear what is next, and when to come back."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, final

from potluck.client.endings import Ended, Ending
from potluck.client.errors import BadLease, DiskFull, WrongDigest, fix_of
from potluck.client.events import CheckedIn, Moved, Phase, Progressed, Trouble, Waiting, When
from potluck.client.link import CHECK_IN
from potluck.client.offered import check, too_large
from potluck.client.records import Task, Terms
from potluck.client.sane import integer, largest_adapter, span_s
from potluck.client.software import spoken
from potluck.client.station import Station
from potluck.client.tasks import TaskState
from potluck.wire.envelopes import Purpose
from potluck.wire.refusals import Refusal
from potluck.wire.secure.reasons import SumRefusal
from potluck.wire.v1 import work_pb2 as pb

POLL_S: Final = 60.0  # where the coordinator names no time that is one


@final
class CheckIns:
    """The check-ins of one session."""

    def __init__(self, station: Station, boot_id: bytes) -> None:
        self.reconciled = False  # whether the coordinator heard what is held since the program started or woke
        self._station = station
        self._boot_id = boot_id
        self._earliest_s = float("-inf")  # on the monotonic clock
        self._due_s = float("-inf")
        self._declined = False  # it said itself that it wants no work
        self._why = "first check-in"
        self._wakes = station.lookout.wakes

    def notice(self) -> None:
        """After a sleep, what is held must be reconciled again."""
        if self._wakes != self._station.lookout.wakes:
            self._wakes = self._station.lookout.wakes
            self.reconciled = False

    def wait(self) -> None:
        """Wait for the moment that the coordinator's window allows, or until the owner says finish."""
        lookout, clock = self._station.lookout, self._station.clock
        seconds = self._due_s - clock.monotonic_s()
        if seconds > 0:
            why = lookout.gate.sentence() or self._why
            lookout.say(f"waiting: {why}", clock.wall_s() + seconds)
            self._station.tell(Waiting(why, seconds))
            lookout.wait_until(seconds, lambda: lookout.control.finish or self._may_hurry())

    def make(self, tasks: tuple[Task, ...], *, finishing: bool) -> Ended | None:
        """Check in; return how the session is to end once the outbox is empty, or None.

        Raises:
            Refusal: the network broke, or the coordinator will not have this client.
        """
        station = self._station
        wants_work = not (finishing or station.lookout.gate.computing or any(not task.is_sealed for task in tasks))
        request = pb.CheckInRequest(
            run_id=station.membership.run_id,
            boot_id=self._boot_id,
            seqno=station.outbox.next_seqno(),
            protocol=spoken(),
            held=[pb.Held(lease_id=task.lease_id, state=f"TASK_STATE_{task.state.name}") for task in tasks],
            recipe_digest=station.membership.recipe_digest,
            examples=_power_of_two(station.membership.examples),
            wants_work=wants_work,
        )
        reply = station.link.call(CHECK_IN, station.signed(Purpose.CHECKIN, request))
        self.reconciled = True
        self._declined = not wants_work
        self._plan(reply.poll_window)
        self._cancel(tasks, reply)
        station.ledger_seen = max(station.ledger_seen, reply.ledger_lines)
        if reply.WhichOneof("answer") in IDLE:
            self._keep_shared(reply)
        ended = ANSWERS.get(reply.WhichOneof("answer") or "no_work", CheckIns._no_work)(self, reply)
        offset_s = reply.coordinator_time_ms / 1_000 - station.clock.wall_s()
        station.tell(CheckedIn(reply.version, self._why, offset_s))
        station.outbox.count(*station.link.traffic())
        return ended

    def _may_hurry(self) -> bool:
        """Whether the gate opened after a check-in that asked for nothing: then the window's beginning is enough."""
        now_s = self._station.clock.monotonic_s()
        return self._declined and not self._station.lookout.gate.computing and now_s >= self._earliest_s

    def _plan(self, window: pb.PollWindow) -> None:
        """Draw the next check-in, uniformly from the coordinator's window, counted from now."""
        now_s = self._station.clock.monotonic_s()
        least_s = span_s(window.min_s, POLL_S)
        width_s = max(0.0, span_s(window.max_s, POLL_S) - least_s)
        self._earliest_s = now_s + least_s
        self._due_s = self._earliest_s + width_s * float(self._station.rng.random())

    def _cancel(self, tasks: tuple[Task, ...], reply: pb.CheckInReply) -> None:
        """Drop what is not needed any more; a sealed update is offered all the same."""
        reasons = {cancel.lease_id: cancel.human for cancel in reply.cancel}
        for task in tasks:
            if task.lease_id in reasons and not task.is_sealed:
                self._station.drop(task, reasons[task.lease_id] or "cancelled by the coordinator", give_back=False)

    def _keep_shared(self, reply: pb.CheckInReply) -> None:
        """Download the newest shared adapter while there is time: for the next lease, and for `potluck try`."""
        station, kept = self._station, self._station.outbox.shared(self._station.membership.run_id)
        if not reply.adapter.digest or (kept is not None and kept.version >= reply.version):
            return
        if reply.adapter.size > largest_adapter(station.recipe):
            station.tell(Trouble(too_large(reply.adapter.size, station), "tell the operator"))
            return
        path = station.home.blob(reply.adapter.digest)
        try:
            station.transfers.fetch(reply.adapter.digest, reply.adapter.size, path, self._on_bytes)
        except (Refusal, DiskFull, WrongDigest) as error:  # nothing is lost: a lease fetches what it needs
            station.tell(Trouble(f"the shared adapter was not downloaded: {error}", "it is tried at the next check-in"))
            return
        station.keep(reply.version, reply.adapter.digest)

    def _on_bytes(self, done: int, total: int) -> None:
        """Tell how far a download is, and look around."""
        self._station.tell(Progressed(Phase.FETCH, done, total))
        self._station.lookout.pulse()

    def _lease(self, reply: pb.CheckInReply) -> Ended | None:
        """Keep a new lease; give back one that does not fit or that was dropped before."""
        station, lease = self._station, reply.lease
        self._why = f"work for round {lease.round}"
        try:
            check(station, lease)
        except (BadLease, SumRefusal) as wrong:
            station.tell(Trouble(str(wrong), fix_of(wrong)))
            station.abort(lease.lease_id, str(wrong))
            return None
        terms = _terms(lease)
        station.on_state(TaskState.LEASED, When.BEFORE)
        if station.outbox.add(terms):
            station.on_state(TaskState.LEASED, When.AFTER)
            station.tell(Moved(terms.lease_id, terms.round, terms.version, TaskState.LEASED))
        elif station.outbox.task(terms.lease_id).is_over:
            station.abort(lease.lease_id, "given back before")
        return None

    def _no_work(self, reply: pb.CheckInReply) -> Ended | None:
        """Take note of why there is none; an answer that a newer coordinator invented counts as this."""
        self._why = reply.no_work.human or "no work now"
        return None

    def _upgrade_required(self, reply: pb.CheckInReply) -> Ended | None:
        self._why = reply.upgrade_required.human
        return Ended(Ending.UPGRADE_REQUIRED, self._why)

    def _consent_required(self, reply: pb.CheckInReply) -> Ended | None:
        self._why = "the recipe changed"
        return Ended(Ending.CONSENT_REQUIRED, recipe_json=reply.consent_required.recipe_json)

    def _run_done(self, reply: pb.CheckInReply) -> Ended | None:
        self._why = f"the run is done at version {reply.run_done.version}"
        return Ended(Ending.RUN_DONE, self._why)


IDLE: Final = ("no_work", "run_done")
"""Answers that leave time for a download."""

ANSWERS: Final[Mapping[str, Callable[[CheckIns, pb.CheckInReply], Ended | None]]] = MappingProxyType(
    {
        "lease": CheckIns._lease,  # noqa: SLF001 - the class's own table, below it because it names its methods
        "no_work": CheckIns._no_work,  # noqa: SLF001
        "upgrade_required": CheckIns._upgrade_required,  # noqa: SLF001
        "consent_required": CheckIns._consent_required,  # noqa: SLF001
        "run_done": CheckIns._run_done,  # noqa: SLF001
    }
)


def _terms(lease: pb.Lease) -> Terms:
    """Return *lease* as it is kept."""
    return Terms(
        lease_id=lease.lease_id,
        run_id=lease.run_id,
        round=integer(lease.round),
        version=integer(lease.version),
        adapter_digest=lease.adapter.digest,
        adapter_size=lease.adapter.size,
        seed=lease.seed,
        manifest_digest=lease.manifest_digest,
        max_update_bytes=integer(lease.max_update_bytes),
        ttl_s=span_s(lease.ttl_s, POLL_S),
    )


def _power_of_two(number: int) -> int:
    """Return *number* rounded down to a power of two: the coordinator need not know more."""
    return 1 << (number.bit_length() - 1) if number > 0 else 0
