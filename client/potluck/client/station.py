"""Everything that one session works with, and the one way in which it changes a task."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from potluck.aggregation.errors import PotluckError
from potluck.client.account import told_of
from potluck.client.clock import Clock
from potluck.client.errors import fix_of
from potluck.client.events import Happening, Moved, Trouble, When
from potluck.client.home import Home
from potluck.client.identity import Identity
from potluck.client.ledger import Ledger
from potluck.client.link import ABORT, Link
from potluck.client.lookout import Lookout
from potluck.client.outbox.store import Outbox
from potluck.client.records import Membership, Shared, Task, Terms
from potluck.client.secure.used import UsedFile
from potluck.client.tasks import Event, TaskState, after
from potluck.client.transfer import Transfers
from potluck.client.work import Trainer
from potluck.wire.envelopes import Purpose, Serialisable, sign
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from potluck.wire.tensors import Manifest
from potluck.wire.v1.envelope_pb2 import Envelope
from potluck.wire.v1.work_pb2 import AbortRequest, Spent

REASON_CHARACTERS = 200


@final
@dataclass(slots=True)
class Station:
    """Parts, wired once by the session."""

    home: Home
    outbox: Outbox
    identity: Identity
    membership: Membership
    recipe: Recipe
    trainer: Trainer
    clock: Clock
    rng: np.random.Generator
    lookout: Lookout
    link: Link
    tell: Callable[[Happening], None]
    on_state: Callable[[TaskState, When], None]
    transfers: Transfers = field(init=False)
    ledger_seen: int = 0
    """Lines that the owner's ledger had when the coordinator last saw it."""

    def __post_init__(self) -> None:
        self.transfers = Transfers(self.link, self.identity, self.clock)

    @property
    def data(self) -> Path:
        """The owner's text."""
        return Path(self.membership.data_path)

    @property
    def used_sums(self) -> UsedFile:
        """The record of the secure sums that this client was in."""
        return UsedFile(self.home.sums, self.home.sums_witness(self.identity.client_id))

    def ledger(self) -> Ledger:
        """Open the owner's ledger of what was told.

        Raises:
            BadLedger: it is damaged, or older than what the machine or the coordinator has seen of it.
        """
        ledger = Ledger.open(self.home.ledger, self.home.witness(self.identity.client_id))
        ledger.compare(self.ledger_seen, "the coordinator")
        return ledger

    def spent(self) -> Spent | None:
        """Return what this run's private rounds cost, as it may leave; None where no single records are protected.

        Raises:
            BadLedger: the ledger is damaged, or older than what others have seen of it.
        """
        if not self.recipe.privacy.differential.by_example:
            return None
        return told_of(self.ledger(), self.recipe, self.membership.run_id)

    def manifest(self, version: int) -> Manifest:
        """Return what an update that starts from *version* must hold."""
        return Manifest.of(self.recipe, version)

    def signed(self, purpose: Purpose, message: Serialisable) -> Envelope:
        """Return *message* in an envelope for this run's coordinator."""
        return sign(self.identity.key, purpose, self.membership.coordinator_id, message)

    def move(self, task: Task, happened: Event, *, reason: str = "", upload_id: bytes = b"") -> None:
        """Move *task* along, durably."""
        with self.entering(task.terms, after(task.state, happened), reason):
            self.outbox.move(task.lease_id, happened, reason=reason, upload_id=upload_id)

    @contextmanager
    def entering(self, terms: Terms, state: TaskState, reason: str = "") -> Iterator[None]:
        """Let watchers see both sides of the transaction that takes a task to *state*."""
        self.on_state(state, When.BEFORE)
        yield
        self.on_state(state, When.AFTER)
        self.lookout.say(f"round {terms.round}: {state.value}")
        self.tell(Moved(terms.lease_id, terms.round, terms.version, state, reason))

    def drop(self, task: Task, reason: str, *, give_back: bool) -> None:
        """End *task* without an update; *give_back*: tell the coordinator, if it can be reached."""
        self.move(task, Event.DROPPED, reason=reason)
        self.clean(task)
        if give_back:
            self.abort(task.lease_id, reason)

    def give_up(self, task: Task, error: PotluckError) -> None:
        """Drop *task* because of *error*.  The coordinator hears only what kind it is: its words may name files."""
        self.tell(Trouble(str(error), fix_of(error)))
        task = self.outbox.task(task.lease_id)
        if not task.is_over:
            self.move(task, Event.DROPPED, reason=str(error))
            self.clean(task)
            self.abort(task.lease_id, type(error).__name__)

    def abort(self, lease_id: bytes, reason: str) -> None:
        """Give a lease back; if that fails, the coordinator sends the lease again and it is given back then."""
        request = AbortRequest(lease_id=lease_id, reason=reason[:REASON_CHARACTERS])
        try:
            self.link.call(ABORT, self.signed(Purpose.ABORT, request))
        except Refusal:
            return

    def keep(self, version: int, digest: bytes) -> None:
        """Remember a downloaded adapter, if it is the newest; files that it makes useless go."""
        kept = self.outbox.shared(self.membership.run_id)
        if kept is None or kept.version < version:
            self.outbox.share(Shared(self.membership.run_id, version, digest))
            self.sweep()

    def clean(self, task: Task) -> None:
        """Remove the files of a task that is over."""
        self.home.drop_task(task.lease_id)
        if task.sealed is not None:
            self.home.blob(task.sealed.digest).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove files that no open task needs and a crash left behind; keep the newest adapter.

        Once an update is sealed, nothing of its training is needed any more.
        """
        open_tasks, shared = self.outbox.open_tasks(), self.outbox.shared(self.membership.run_id)
        needed = {task.terms.adapter_digest.hex() for task in open_tasks}
        needed |= set() if shared is None else {shared.digest.hex()}
        needed |= {task.sealed.digest.hex() for task in open_tasks if task.sealed is not None}
        needed |= {digest.hex() for digest in self.outbox.residuals.digests()}
        for path in self.home.blobs.iterdir():
            if path.name.removesuffix(".partial") not in needed:
                path.unlink()
        training = {task.lease_id.hex() for task in open_tasks if not task.is_sealed}
        for folder in self.home.tasks.iterdir():
            if folder.name not in training:
                self.home.drop_task(bytes.fromhex(folder.name))
