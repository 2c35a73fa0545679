"""What waits for the next update: a ledger of the rests that codecs left out, so that none is lost or sent twice.

A rest is free, or taken by the update that carries it, or made by an update that has no answer yet.  When the update
counts, what it took is gone and what it made is free; when it does not, what it took is free again and what it made
is gone.  Both happen in the transaction that ends the task, so no crash can come between.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, final

from sqlalchemy import Engine, delete, or_, select, update
from sqlalchemy.orm import Session

from potluck.client.outbox.rows import ResidualRow
from potluck.client.records import Left

COUNTED: Final = "ACCEPTED"
"""The verdict of an update that is an input of a round, at whatever weight."""
_FREE: Final = (ResidualRow.taken_by.is_(None), ResidualRow.made_by.is_(None))


@final
@dataclass(frozen=True, slots=True)
class Residuals:
    """The ledger, as far as the rest of the client may ask it.  Every method is one transaction."""

    engine: Engine
    writing: Callable[[], AbstractContextManager[Session]]

    def free(self, run_id: str, fit: bytes) -> tuple[Left, ...]:
        """Return what waits for that run's next update, oldest first."""
        wanted = select(ResidualRow).where(*_FREE, ResidualRow.run_id == run_id, ResidualRow.fit == fit)
        with Session(self.engine) as session:
            return tuple(
                Left(row.fit, row.digest, row.basis) for row in session.scalars(wanted.order_by(ResidualRow.id))
            )

    def forget_others(self, run_id: str, fit: bytes) -> int:
        """Forget what waits and is of another run or another fit; return how many there were."""
        others = or_(ResidualRow.run_id != run_id, ResidualRow.fit != fit)
        with Session(self.engine) as session:
            found = session.scalars(select(ResidualRow.id).where(*_FREE, others)).all()
        if found:
            with self.writing() as session:
                session.execute(delete(ResidualRow).where(ResidualRow.id.in_(found)))
        return len(found)

    def digests(self) -> frozenset[bytes]:
        """Return the SHA-256 of every file that a row needs."""
        with Session(self.engine) as session:
            rows = session.execute(select(ResidualRow.digest, ResidualRow.basis)).all()
        return frozenset(digest for row in rows for digest in row)


def take(session: Session, lease_id: bytes, run_id: str, left: Left) -> None:
    """The update of *lease_id* carries all that waited for it, and makes *left*."""
    wanted = (*_FREE, ResidualRow.run_id == run_id, ResidualRow.fit == left.fit)
    session.execute(update(ResidualRow).where(*wanted).values(taken_by=lease_id))
    session.add(
        ResidualRow(run_id=run_id, fit=left.fit, digest=left.digest, basis=left.basis, taken_by=None, made_by=lease_id)
    )


def settle(session: Session, lease_id: bytes, *, counted: bool) -> None:
    """The update of *lease_id* is over: it *counted*, or it never will."""
    gone, free = (ResidualRow.taken_by, ResidualRow.made_by) if counted else (ResidualRow.made_by, ResidualRow.taken_by)
    session.execute(delete(ResidualRow).where(gone == lease_id))
    session.execute(update(ResidualRow).where(free == lease_id).values(taken_by=None, made_by=None))


def forget(session: Session) -> None:
    """Forget everything: the owner left."""
    session.execute(delete(ResidualRow))
