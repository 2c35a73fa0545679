"""The outbox: everything a client must not forget, in one SQLite file.  The only door to it; rows never leave.

Write-ahead log, synchronous FULL: a transition that returned is on the disk.  Several processes may open it: the one
that works, and those that look (`potluck status`) or ask (`potluck pause`).
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final, Self, final

from sqlalchemy import Engine, create_engine, event, func, select, update
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session

from potluck.client.errors import BadOutbox, DiskFull, NotJoined, StillHolds
from potluck.client.outbox.layout import ONLY, begin, lay_out, prepare
from potluck.client.outbox.residuals import COUNTED, Residuals, forget, settle, take
from potluck.client.outbox.rows import (
    ControlRow,
    CounterRow,
    MembershipRow,
    NowRow,
    ReceiptRow,
    SharedRow,
    TaskRow,
    membership_of,
    moved,
    now_of,
    receipt_of,
    task_of,
    task_row,
)
from potluck.client.records import Control, KeptReceipt, Left, Membership, Now, Sealed, Shared, Task, Terms, Traffic
from potluck.client.tasks import TERMINAL, Event, MembershipState, Step, TaskState, membership_after

_BUSY_S: Final = 10
_OPEN: Final = select(TaskRow).where(TaskRow.state.not_in([s.name for s in TERMINAL])).order_by(TaskRow.order)


@final
class Outbox:
    """The open outbox.  Every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(writes=True)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the outbox at *path*, made where it is missing, readable by its owner only.

        Raises:
            BadOutbox: the file is damaged, or of another layout.
        """
        path.touch(mode=0o600, exist_ok=True)
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_S})
        event.listen(engine, "connect", prepare)
        event.listen(engine, "begin", begin)
        outbox = cls(engine)
        try:
            with outbox._writing() as session:
                lay_out(session, path)
        except DatabaseError as error:
            outbox.close()
            raise BadOutbox(
                f"{path} cannot be opened: {error.orig}",
                fix="move it away and join again; updates that waited in it are lost",
            ) from None
        except BadOutbox:
            outbox.close()
            raise
        return outbox

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """Open a transaction that is on the disk when the block ends, or undone when it raises.

        Raises:
            DiskFull: there is no room for it; nothing has changed.
        """
        try:
            with Session(self._writer) as session, session.begin():
                yield session
        except OperationalError as error:
            if "full" not in str(error.orig) and "disk I/O" not in str(error.orig):
                raise
            raise DiskFull(
                f"there is no room for the outbox ({error.orig}); nothing is lost",
                fix="make room; a running session goes on by itself, one that ended with `potluck join`",
            ) from None

    # -- membership ---------------------------------------------------------------------------------------------

    def membership(self) -> Membership | None:
        """Return this home's membership, or None while it is a member of no run."""
        with Session(self._engine) as session:
            row = session.get(MembershipRow, ONLY)
            return None if row is None else membership_of(row)

    def consent(self, wanted: Membership) -> None:
        """Keep what the owner agreed to; the membership is ENROLLING.

        Raises:
            StillHolds: another run's work is still here.
        """
        with self._writing() as session:
            row = session.get(MembershipRow, ONLY)
            held = session.scalars(_OPEN.where(TaskRow.run_id != wanted.run_id)).all()
            if held:
                raise StillHolds(
                    f"this home still holds {len(held)} unfinished task(s) of another run",
                    fix="deliver it with `potluck finish`, drop it with `potluck leave`, or use another POTLUCK_HOME",
                )
            before = MembershipState.UNENROLLED if row is None else MembershipState[row.state]
            values = asdict(wanted) | {"state": membership_after(before, Step.CONSENTED).name}
            session.merge(MembershipRow(id=ONLY, **values))

    def step(self, step: Step, *, pending: bool = False) -> MembershipState:
        """Move the membership along by *step*; return where it is now.  LEFT and REFUSED remove it."""
        with self._writing() as session:
            row = session.get(MembershipRow, ONLY)
            state = membership_after(MembershipState.UNENROLLED if row is None else MembershipState[row.state], step)
            if row is not None and state is MembershipState.UNENROLLED:
                session.delete(row)
                forget(session)
            elif row is not None:
                row.state, row.pending = state.name, pending
            return state

    # -- tasks --------------------------------------------------------------------------------------------------

    def add(self, terms: Terms) -> bool:
        """Keep a new lease as LEASED; return False where it was here already, and change nothing."""
        with self._writing() as session:
            if session.scalar(select(TaskRow).where(TaskRow.lease_id == terms.lease_id)) is not None:
                return False
            session.add(TaskRow(state=TaskState.LEASED.name, **(asdict(terms) | {"seed": str(terms.seed)})))
            return True

    def move(self, lease_id: bytes, happened: Event, *, reason: str = "", upload_id: bytes = b"") -> TaskState:
        """Move a task along by *happened*; return the state it is in now, for good.

        Raises:
            IllegalEvent: the table of tasks has no such row.
        """
        with self._writing() as session:
            state = moved(task_row(session, lease_id), happened, reason=reason, upload_id=upload_id)
            if state is TaskState.ABANDONED:
                settle(session, lease_id, counted=False)
            return state

    def seal(self, lease_id: bytes, sealed: Sealed, left: Left | None = None) -> TaskState:
        """Keep what the fsynced files of the update hold, and move the task to OFFERING, in one transaction."""
        with self._writing() as session:
            row = task_row(session, lease_id)
            if left is not None:
                take(session, lease_id, row.run_id, left)
            for name, value in asdict(sealed).items():
                setattr(row, name, value)
            return moved(row, Event.SEALED)

    def answer(self, lease_id: bytes, receipt: KeptReceipt) -> TaskState:
        """Keep *receipt* and end its task, in one transaction."""
        with self._writing() as session:
            session.merge(ReceiptRow(**asdict(receipt)))
            settle(session, lease_id, counted=receipt.verdict == COUNTED)
            return moved(task_row(session, lease_id), Event.ANSWERED)

    def spend(self, lease_id: bytes, seconds: float, *, steps: tuple[int, int] | None = None) -> None:
        """Add running time to a task's present state, and say how many steps of how many are done."""
        with self._writing() as session:
            row = task_row(session, lease_id)
            row.spent_s += seconds
            if steps is not None:
                row.steps_done, row.steps_total = steps

    def task(self, lease_id: bytes) -> Task:
        """Return one task.

        Raises:
            BadOutbox: there is none with that lease.
        """
        with Session(self._engine) as session:
            return task_of(task_row(session, lease_id))

    def open_tasks(self) -> tuple[Task, ...]:
        """Return the tasks that are not over, sealed ones first, then oldest first."""
        with Session(self._engine) as session:
            found = [task_of(row) for row in session.scalars(_OPEN)]
        return tuple(sorted(found, key=lambda task: not task.is_sealed))

    def tasks(self, limit: int) -> tuple[Task, ...]:
        """Return the last *limit* tasks, newest first, also those that are over."""
        with Session(self._engine) as session:
            return tuple(
                task_of(row) for row in session.scalars(select(TaskRow).order_by(TaskRow.order.desc()).limit(limit))
            )

    @property
    def residuals(self) -> Residuals:
        """What codecs left out of updates."""
        return Residuals(self._engine, self._writing)

    # -- receipts -----------------------------------------------------------------------------------------------

    def receipts(self, limit: int) -> tuple[KeptReceipt, ...]:
        """Return the last *limit* receipts, newest first."""
        order = (ReceiptRow.received_unix_s.desc(), ReceiptRow.serial.desc())
        with Session(self._engine) as session:
            return tuple(receipt_of(row) for row in session.scalars(select(ReceiptRow).order_by(*order).limit(limit)))

    def credit(self) -> tuple[int, int]:
        """Return how many receipts there are, and the credit in them, in examples."""
        with Session(self._engine) as session:
            count, total = session.execute(select(func.count(), func.sum(ReceiptRow.credit))).one()
            return int(count), int(total or 0)

    # -- control, counters, now ---------------------------------------------------------------------------------

    def control(self) -> Control:
        """Return what the owner asked for last."""
        with Session(self._engine) as session:
            row = session.get_one(ControlRow, ONLY)
            return Control(row.paused, row.paused_until_unix_s, row.finish, row.leave)

    def ask(self, control: Control) -> None:
        """Ask the running process, or the next one, for *control*; heard within a second."""
        with self._writing() as session:
            session.execute(update(ControlRow).where(ControlRow.id == ONLY).values(**asdict(control)))

    def next_seqno(self) -> int:
        """Return a number that was never used before; it is on the disk before it is sent."""
        with self._writing() as session:
            row = session.get_one(CounterRow, ONLY)
            row.seqno += 1
            return row.seqno

    def count(self, sent: int, received: int) -> None:
        """Add bytes to the traffic; no work ends for want of it."""
        with contextlib.suppress(DiskFull), self._writing() as session:
            row = session.get_one(CounterRow, ONLY)
            row.sent += sent
            row.received += received

    def traffic(self) -> Traffic:
        """Return the bytes sent and received so far."""
        with Session(self._engine) as session:
            row = session.get_one(CounterRow, ONLY)
            return Traffic(row.sent, row.received)

    def share(self, shared: Shared) -> None:
        """Remember the newest shared adapter whose blob is here."""
        with self._writing() as session:
            session.merge(SharedRow(id=ONLY, **asdict(shared)))

    def shared(self, run_id: str) -> Shared | None:
        """Return that run's newest shared adapter that is here, or None before the first."""
        with Session(self._engine) as session:
            row = session.get(SharedRow, ONLY)
            return None if row is None or row.run_id != run_id else Shared(row.run_id, row.version, row.digest)

    def say(self, now: Now) -> None:
        """Keep what the running process says about itself, for `potluck status`; no work ends for want of it."""
        with contextlib.suppress(DiskFull), self._writing() as session:
            session.merge(NowRow(id=ONLY, **(asdict(now) | {"reasons": " ".join(now.reasons)})))

    def now(self) -> Now:
        """Return what the running process last said about itself."""
        with Session(self._engine) as session:
            row = session.get(NowRow, ONLY)
            return Now() if row is None else now_of(row)


def joined(outbox: Outbox) -> Membership:
    """Return the membership.

    Raises:
        NotJoined: this home is a member of no run.
    """
    membership = outbox.membership()
    if membership is None:
        raise NotJoined("this home is a member of no run", fix="join one: potluck join INVITE --data FOLDER")
    return membership
