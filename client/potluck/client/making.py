"""From a lease to a sealed update: fetch, prepare, train, seal.  Each stage may be entered again after a crash."""

import hashlib
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, final

from potluck.aggregation.errors import BadTensor
from potluck.client.account import Account
from potluck.client.events import Phase, Progressed
from potluck.client.home import store
from potluck.client.orders import secret_order
from potluck.client.records import Sealed, Task
from potluck.client.renewals import SOON, Renewals
from potluck.client.sealing import packed
from potluck.client.station import Station
from potluck.client.tasks import Event, TaskState
from potluck.client.work import Job, Stride, Trained, Word, order_of
from potluck.wire.envelopes import Purpose
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope

NOTE_S: Final = 2.0  # how often steps are written down for `potluck status`


@final
class Making:
    """The work on one lease in this process: its renewals, and its stages."""

    def __init__(self, station: Station, task: Task, *, fresh: bool) -> None:
        """*fresh*: the lease was given just now; otherwise it is renewed at once."""
        self.lease_id = task.lease_id
        self._station = station
        self._state = task.state
        self._stride = Stride(task.steps_done, task.steps_total)
        self._noted_s = float("-inf")
        self._wakes = station.lookout.wakes
        self._renewals = Renewals(
            station.link.invitation, self._renewal, first_s=task.terms.ttl_s / SOON if fresh else 0.0
        )

    def end(self) -> None:
        """Stop renewing."""
        self._station.outbox.count(*self._renewals.end())

    def stage(self, task: Task) -> None:
        """Do the work of the state that *task* is in.

        Raises:
            PotluckError: it cannot be done, or not now; the task is where it was.
        """
        self._state = task.state
        self._rouse()
        if self._renewals.stopped and task.state is not TaskState.SEALING:
            self._station.drop(task, self._renewals.stopped, give_back=False)
            return
        STAGES[task.state](self, task)

    def start(self, task: Task) -> None:
        """Begin with the download."""
        self._station.move(task, Event.STARTED)

    def fetch(self, task: Task) -> None:
        """Download the adapter, then see whether everything fits."""
        station, terms = self._station, task.terms
        if terms.adapter_digest:

            def on_bytes(done: int, total: int) -> None:
                station.tell(Progressed(Phase.FETCH, done, total))
                station.lookout.pulse()

            path = station.home.blob(terms.adapter_digest)
            station.transfers.fetch(terms.adapter_digest, terms.adapter_size, path, on_bytes)
            station.keep(terms.version, terms.adapter_digest)
        if self._wait_for_gate():
            station.trainer.prepare(self._job(task))
            station.move(task, Event.FETCHED)

    def begin(self, task: Task) -> None:
        """Begin training once the machine is free."""
        if self._wait_for_gate():
            self._station.move(task, Event.BEGUN)

    def train(self, task: Task) -> None:
        """Train until it is done, the gate shuts, or nobody needs it any more."""
        station = self._station
        if station.lookout.gate.computing:
            station.move(task, Event.GATE_SHUT)
            return
        trained = station.trainer.train(self._job(task), self._on_step)
        self._note(task, always=True)
        if trained is not None:
            station.move(task, Event.TRAINED)
            self._seal(station.outbox.task(task.lease_id), trained)
        elif self._renewals.stopped:
            station.drop(task, self._renewals.stopped, give_back=False)
        else:
            station.lookout.pulse()  # where the owner wants the program to stop, it ends here
            station.move(task, Event.GATE_SHUT)

    def suspended(self, task: Task) -> None:
        """Wait until the machine is free again."""
        if self._wait_for_gate():
            self._station.move(task, Event.GATE_OPEN)

    def seal(self, task: Task) -> None:
        """Seal after a crash: the trainer's last checkpoint has the result."""
        trained = self._station.trainer.train(self._job(task), lambda _: Word.GO)
        if trained is None:
            raise BadTensor("the trainer has no result although it was told to go on", fix="report this bug")
        self._seal(task, trained)

    def _seal(self, task: Task, trained: Trained) -> None:
        """Encode, check, put the bytes on the disk, and only then say that they are there."""
        station = self._station
        station.manifest(task.terms.version).check(trained.deltas)
        data, left = packed(station, self._job(task), trained.deltas)
        if len(data) > task.terms.max_update_bytes:
            raise BadTensor(
                f"the update has {len(data)} bytes, and the coordinator takes {task.terms.max_update_bytes}",
                fix="tell the operator: limits.max_update_bytes is too small for this recipe",
            )
        sealed = Sealed(
            digest=hashlib.sha256(data).digest(),
            size=len(data),
            examples=trained.examples,
            steps=trained.steps,
            tokens=trained.tokens,
            loss_before=trained.loss_before,
            loss_after=trained.loss_after,
        )
        store(data, station.home.blob(sealed.digest))
        with station.entering(task.terms, TaskState.OFFERING):
            station.outbox.seal(task.lease_id, sealed, left)
        station.home.drop_task(task.lease_id)  # trained factors in the clear, and the seed of their noise

    def _job(self, task: Task) -> Job:
        """Return what the trainer is to do; the same after a restart."""
        station, terms = self._station, task.terms
        folder, client_id = station.home.task(terms.lease_id), station.identity.client_id
        summed = station.recipe.privacy.secure_aggregation
        return Job(
            recipe=station.recipe,
            adapter=station.home.blob(terms.adapter_digest) if terms.adapter_digest else None,
            version=terms.version,
            seed=terms.seed,
            order=secret_order(folder, client_id, terms.seed) if summed else order_of(client_id, terms.seed),
            data=station.data,
            folder=folder,
            threads=station.lookout.limits.threads(os.cpu_count() or 1),
            account=self._account(task),
        )

    def _account(self, task: Task) -> Account | None:
        """Return what the task is paid from, where its recipe spends the owner's privacy.

        Raises:
            BadLedger: the ledger is damaged, or older than what others have seen of it.
        """
        station = self._station
        if not station.recipe.privacy.differential.by_example:
            return None
        ledger = station.ledger()
        return Account(ledger, task.terms.run_id, task.lease_id, station.lookout.limits.max_epsilon, station.clock)

    def _on_step(self, stride: Stride) -> Word:
        """Look around between two steps."""
        station, self._stride = self._station, stride
        station.tell(Progressed(Phase.TRAIN, stride.done, stride.total, stride.loss))
        station.lookout.glance()
        self._rouse()
        if self._renewals.stopped:
            return Word.STOP
        self._note(station.outbox.task(self.lease_id), always=False)
        return Word.SUSPEND if station.lookout.wants_end or station.lookout.gate.computing else Word.GO

    def _note(self, task: Task, *, always: bool) -> None:
        """Write the steps down, now and then."""
        now_s = self._station.clock.monotonic_s()
        if always or now_s - self._noted_s >= NOTE_S:
            self._noted_s = now_s
            self._station.outbox.spend(task.lease_id, 0.0, steps=(self._stride.done, self._stride.total))

    def _wait_for_gate(self) -> bool:
        """Wait until computing is allowed; return False where the work is not needed any more before that."""
        lookout = self._station.lookout
        if lookout.gate.computing:
            lookout.say(f"suspended: {lookout.gate.sentence()}")
            lookout.wait_until(None, lambda: not lookout.gate.computing or bool(self._renewals.stopped))
        return not self._renewals.stopped

    def _rouse(self) -> None:
        """Renew at once after a sleep."""
        if self._wakes != self._station.lookout.wakes:
            self._wakes = self._station.lookout.wakes
            self._renewals.wake()

    def _renewal(self) -> Envelope | None:
        """Return the request of a renewal; None while the network is not to be used."""
        if self._station.lookout.gate.network:
            return None
        request = pb.RenewRequest(
            lease_id=self.lease_id,
            state=f"TASK_STATE_{self._state.name}",
            steps_done=self._stride.done,
            steps_total=self._stride.total,
        )
        return self._station.signed(Purpose.RENEW, request)


STAGES: Final[Mapping[TaskState, Callable[[Making, Task], None]]] = MappingProxyType(
    {
        TaskState.LEASED: Making.start,
        TaskState.FETCHING: Making.fetch,
        TaskState.PREPARED: Making.begin,
        TaskState.TRAINING: Making.train,
        TaskState.SUSPENDED: Making.suspended,
        TaskState.SEALING: Making.seal,
    }
)
