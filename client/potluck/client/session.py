"""The session: one loop that takes a member's work from check-in to receipt, until its owner or its run says enough.

Every stage may be entered again, so a crash, a broken network and an impatient owner are all the same: do again what
the outbox says is next.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, final

import numpy as np

from potluck.aggregation.errors import PotluckError
from potluck.client.checkin import CheckIns
from potluck.client.clock import Clock, SystemClock
from potluck.client.delivery import deliver
from potluck.client.endings import Ended, Ending
from potluck.client.errors import (
    BadLedger,
    BadReceipt,
    DiskFull,
    Interrupted,
    Leaving,
    NoAccountant,
    NotJoined,
    OverBudget,
    WrongDigest,
    fix_of,
)
from potluck.client.events import Happening, Offline, Trouble, Waiting, When
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.leaving import leave
from potluck.client.link import Link, Patience
from potluck.client.lookout import Lookout
from potluck.client.making import Making
from potluck.client.outbox.store import Outbox, joined
from potluck.client.records import Task
from potluck.client.secure.used import BadRecord
from potluck.client.sensors import MachineSensors, Sensors, step_back
from potluck.client.station import Station
from potluck.client.summing import contribute
from potluck.client.tasks import TIMEOUTS_S, Event, MembershipState, Step, TaskState
from potluck.client.work import Trainer
from potluck.wire import invites
from potluck.wire.envelopes import BadSignature
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal

NEEDS_NETWORK: Final = (TaskState.FETCHING, TaskState.OFFERING, TaskState.UPLOADING, TaskState.COMMITTING)
FATAL: Final = frozenset({"not_a_member", "cloned_identity", "bad_signature", "invite_revoked"})
"""Refusals that only a person can mend."""
PERSONAL: Final = (BadLedger, BadRecord, NoAccountant, OverBudget)
"""What the next lease would not change: its owner has to look."""
FAILURES: Final = 3  # pieces of work in a row that the trainer could not do, before a person has to look


def _ignore(*_: object) -> None:
    """Watch nothing."""


@final
@dataclass(frozen=True, slots=True)
class Around:
    """The world around a session; tests bring their own."""

    clock: Clock = field(default_factory=SystemClock)
    sensors: Callable[[Home, Clock], Sensors] = lambda home, clock: MachineSensors(home.folder, clock)
    patience: Patience = field(default_factory=Patience)
    tick_s: float = 1.0
    seed: int | None = None  # of waiting times; None: from the system
    on_event: Callable[[Happening], None] = _ignore
    on_state: Callable[[TaskState, When], None] = _ignore


@final
class Session:
    """One run of the client program in one home.  run() returns when it is over; stop() asks for that."""

    def __init__(self, home: Home, outbox: Outbox, trainer: Trainer, around: Around | None = None) -> None:
        self._around = around or Around()
        self._home = home
        self._outbox = outbox
        self._trainer = trainer
        self._rng = np.random.default_rng(self._around.seed)
        self._boot_id = secrets.token_bytes(16)
        self._ended: Ended | None = None  # how it is to end once the outbox is empty
        self._spent: tuple[bytes, TaskState | None, float] = (b"", None, 0.0)
        self._failures = 0
        self._making: Making | None = None
        clock = self._around.clock
        sensors = self._around.sensors(home, clock)
        self.lookout = Lookout(outbox, sensors, home.limits, clock, self._around.on_event)
        self.lookout.tick_s = self._around.tick_s

    def stop(self) -> None:
        """Ask for a checkpoint and an end; the lease is kept and the work goes on in the next session.

        Safe in a signal handler.
        """
        self.lookout.stop()

    def run(self) -> Ended:
        """Work until there is a reason to end.

        Raises:
            HomeInUse: another process works in this home.
            NotJoined: this home is a member of no run.
            Refusal: the coordinator will not have this client, for a reason that only a person can mend.
            PotluckError: the trainer failed three times in a row.
        """
        with self._home.occupied():
            station = self._wired()
            try:
                return self._loop(station, CheckIns(station, self._boot_id))
            except Interrupted:
                return Ended(Ending.INTERRUPTED)
            except Leaving:
                self.lookout.heeds_leave = False
                self._end_making()
                return Ended(Ending.LEFT, counted=leave(self._home, self._outbox, station.identity, station.link))
            finally:
                self._end_making()
                self._outbox.count(*station.link.traffic())
                station.link.close()
                self.lookout.say("not running")

    def _wired(self) -> Station:
        """Put everything together."""
        membership = joined(self._outbox)
        if membership.state is MembershipState.ENROLLING:
            raise NotJoined("joining was not finished", fix="join again, and read the card: potluck join")
        self.lookout.look()
        step_back(self.lookout.limits)
        if membership.state is not MembershipState.READY and not self.lookout.control.finish:
            self._outbox.step(Step.RESUMED)
        station = Station(
            home=self._home,
            outbox=self._outbox,
            identity=identity_at(self._home.key),
            membership=membership,
            recipe=Recipe.offered(membership.recipe_json),
            trainer=self._trainer,
            clock=self._around.clock,
            rng=self._rng,
            lookout=self.lookout,
            link=Link(invites.read(membership.token), self.lookout, self._rng),
            tell=self._around.on_event,
            on_state=self._around.on_state,
        )
        station.sweep()
        return station

    def _loop(self, station: Station, check_ins: CheckIns) -> Ended:
        """Do what is next, again and again; what fails for now is done again after a while."""
        while True:
            self.lookout.pulse()
            check_ins.notice()
            try:
                ended = self._next(station, check_ins)
            except Refusal as refusal:
                if refusal.code in FATAL:
                    raise
                self._rest(station, refusal, refusal.retry_in_s, for_good=not refusal.retryable)
            except (DiskFull, WrongDigest) as error:
                station.link.failures += 1
                station.tell(Trouble(str(error), fix_of(error)))
                self._rest(station, error)
            else:
                if ended is not None:
                    return ended

    def _next(self, station: Station, check_ins: CheckIns) -> Ended | None:
        """Do the one thing that is next; return how the session ended, if it did."""
        if self.lookout.control.finish and self._ended is None:
            self._wind_up(Ended(Ending.FINISHED))
        tasks = self._outbox.open_tasks()
        if self._ended is not None and not tasks:
            return self._drained(self._ended)
        if tasks and check_ins.reconciled:
            self._work_on(station, tasks[0])
            return None
        if not tasks:
            check_ins.wait()
        if not self._may_send(station) or (not tasks and self.lookout.control.finish and self._ended is None):
            return None
        try:
            ended = check_ins.make(tasks, finishing=self._ended is not None)
        except Refusal as refusal:
            if not (tasks and refusal.retryable):
                raise
            check_ins.reconciled = True  # offline: go on with what is here; the offer will tell
            return None
        return None if ended is None else self._told(station, ended)

    def _may_send(self, station: Station) -> bool:
        """Return True while the network may be used; otherwise wait for that, or for the owner to say finish."""
        lookout = self.lookout
        if not lookout.gate.network:
            return True
        lookout.say(f"paused: {lookout.gate.sentence()}")
        station.tell(Waiting(lookout.gate.sentence(), None))
        finishing = lookout.control.finish
        lookout.wait_until(None, lambda: not lookout.gate.network or lookout.control.finish is not finishing)
        return False

    def _told(self, station: Station, ended: Ended) -> Ended | None:
        """The coordinator ends it: drop what is not sealed, deliver what is."""
        if ended.ending is Ending.UPGRADE_REQUIRED:
            return ended
        for task in self._outbox.open_tasks():
            if not task.is_sealed:
                station.drop(task, ended.ending.value, give_back=True)
        self._wind_up(ended)
        return None

    def _wind_up(self, ended: Ended) -> None:
        """Take no new work from here on."""
        self._ended = ended
        if ended.ending is not Ending.CONSENT_REQUIRED and joined(self._outbox).state is MembershipState.READY:
            self._outbox.step(Step.FINISH)

    def _drained(self, ended: Ended) -> Ended:
        """The outbox is empty: the membership stops here."""
        if joined(self._outbox).state is MembershipState.FINISHING:
            self._outbox.step(Step.DRAINED)
        if ended.ending is Ending.CONSENT_REQUIRED:  # durable: the next `potluck join` shows the new card
            self._outbox.step(Step.CHANGED)
        self._outbox.ask(replace(self._outbox.control(), finish=False))
        return ended

    def _work_on(self, station: Station, task: Task) -> None:
        """Take *task* one stage further."""
        if self._spend(station, task) > TIMEOUTS_S[task.state]:
            station.move(task, Event.TIMED_OUT, reason=f"too long in {task.state.name}")
            station.clean(task)
            return
        if task.state in NEEDS_NETWORK and not self._may_send(station):
            return
        try:
            if task.sealed is not None:
                self._end_making()
                way = contribute if station.recipe.privacy.secure_aggregation else deliver
                way(station, task, task.sealed)
            else:
                self._making_of(station, task).stage(task)
        except Refusal as refusal:
            if refusal.retryable or refusal.code in FATAL:
                raise
            station.give_up(task, refusal)
        except (BadReceipt, BadSignature, DiskFull, Interrupted, Leaving, WrongDigest):
            raise
        except PotluckError as error:  # the trainer's: the data, the base model or the machine does not fit
            self._failures += 1
            station.give_up(task, error)
            if self._failures >= FAILURES or isinstance(error, PERSONAL):
                raise
        else:
            self._failures = 0 if task.is_sealed else self._failures

    def _spend(self, station: Station, task: Task) -> float:
        """Count the time since the last look at the same task in the same state; return its sum, in seconds."""
        now_s = station.clock.monotonic_s()
        lease_id, state, since_s = self._spent
        self._spent = (task.lease_id, task.state, now_s)
        if (lease_id, state) != (task.lease_id, task.state):
            return task.spent_s
        self._outbox.spend(task.lease_id, now_s - since_s)
        return task.spent_s + now_s - since_s

    def _making_of(self, station: Station, task: Task) -> Making:
        """Return the work on *task* in this process, begun where it was not."""
        if self._making is None or self._making.lease_id != task.lease_id:
            self._end_making()
            self._making = Making(station, task, fresh=task.state is TaskState.LEASED)
        return self._making

    def _end_making(self) -> None:
        """Stop renewing what was being worked on."""
        making, self._making = self._making, None
        if making is not None:
            making.end()

    def _rest(
        self, station: Station, error: PotluckError, retry_in_s: float | None = None, *, for_good: bool = False
    ) -> None:
        """Wait after a failure, longer each time in a row."""
        patience = self._around.patience
        if for_good:
            station.tell(Trouble(str(error), fix_of(error)))
            seconds = patience.for_good_s * (0.8 + 0.4 * float(self._rng.random()))
        else:
            seconds = patience.wait_s(station.link.failures, self._rng, retry_in_s)
        station.tell(Offline(str(error), seconds))
        self.lookout.say(f"trying again: {error}", station.clock.wall_s() + seconds)
        self.lookout.wait(seconds)
