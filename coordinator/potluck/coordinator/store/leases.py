"""Leases, and the uploads that they allow."""

from dataclasses import asdict, dataclass
from typing import final

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from potluck.coordinator.store.records import LeaseRecord, LeaseState, Upload
from potluck.coordinator.store.tables import LeaseRow, UploadRow


@final
@dataclass(frozen=True, slots=True)
class Leases:
    """Leases and uploads."""

    session: Session

    def grant(self, lease: LeaseRecord) -> None:
        """Write down a new lease."""
        self.session.add(LeaseRow(**(asdict(lease) | {"state": str(lease.state)})))
        self.session.flush()

    def find(self, lease_id: bytes) -> LeaseRecord | None:
        """Return the lease with that id, whatever its state."""
        row = self.session.get(LeaseRow, lease_id)
        return None if row is None else _lease(row)

    def open_of(self, client_id: str) -> tuple[LeaseRecord, ...]:
        """Return the leases of a client that nothing has ended, the newest first."""
        found = (
            select(LeaseRow)
            .where(LeaseRow.client_id == client_id, LeaseRow.state == str(LeaseState.OPEN))
            .order_by(LeaseRow.started_s.desc(), LeaseRow.lease_id)
        )
        return tuple(_lease(row) for row in self.session.scalars(found))

    def extend(self, lease_id: bytes, *, started_s: float, ttl_s: float) -> None:
        """Give a lease its full time again."""
        self.session.execute(
            update(LeaseRow).where(LeaseRow.lease_id == lease_id).values(started_s=started_s, ttl_s=ttl_s)
        )

    def end(self, lease_id: bytes, state: LeaseState) -> None:
        """Take a lease out of the open state; one that has left it already stays as it is."""
        self.session.execute(
            update(LeaseRow)
            .where(LeaseRow.lease_id == lease_id, LeaseRow.state == str(LeaseState.OPEN))
            .values(state=str(state))
        )

    def alive_in(self, round_number: int, now_s: float) -> int:
        """Return how many leases of a round are open and have time left."""
        return self._count(LeaseRow.round == round_number, LeaseRow.started_s + LeaseRow.ttl_s > now_s)

    def alive(self, now_s: float) -> int:
        """Return how many leases of all rounds are open and have time left."""
        return self._count(LeaseRow.started_s + LeaseRow.ttl_s > now_s)

    def _count(self, *conditions: object) -> int:
        found = select(func.count()).select_from(LeaseRow).where(LeaseRow.state == str(LeaseState.OPEN), *conditions)  # type: ignore[arg-type]
        return self.session.scalar(found) or 0

    def upload(self, upload_id: bytes) -> Upload | None:
        """Return the upload with that id."""
        row = self.session.get(UploadRow, upload_id)
        return None if row is None else _upload(row)

    def upload_of(self, lease_id: bytes) -> Upload | None:
        """Return the upload that a lease was given, if any."""
        row = self.session.scalar(select(UploadRow).where(UploadRow.lease_id == lease_id))
        return None if row is None else _upload(row)

    def allow_upload(self, upload: Upload) -> None:
        """Write down the right to send an update."""
        self.session.add(UploadRow(**asdict(upload)))
        self.session.flush()

    def complete_upload(self, upload_id: bytes) -> None:
        """Note that all bytes of an upload are here and are what was offered."""
        self.session.execute(update(UploadRow).where(UploadRow.upload_id == upload_id).values(complete=True))

    def forget_upload(self, lease_id: bytes) -> None:
        """Take back the right to send: the lease has its receipt."""
        row = self.session.scalar(select(UploadRow).where(UploadRow.lease_id == lease_id))
        if row is not None:
            self.session.delete(row)
            self.session.flush()

    def idle_uploads(self, client_id: str, lease_id: bytes, before_s: float) -> tuple[Upload, ...]:
        """Return the uploads that need no room any more.

        Those of leases that were given back or whose time ran out before *before_s*, and the unfinished ones of
        *client_id* for other leases than *lease_id*: one client sends one update at a time.
        """
        dead = or_(LeaseRow.state == str(LeaseState.ABORTED), LeaseRow.started_s + LeaseRow.ttl_s < before_s)
        other = and_(LeaseRow.client_id == client_id, UploadRow.complete.is_(False))
        found = (
            select(UploadRow)
            .join(LeaseRow, LeaseRow.lease_id == UploadRow.lease_id)
            .where(UploadRow.lease_id != lease_id, or_(dead, other))
            .order_by(UploadRow.upload_id)
        )
        return tuple(_upload(row) for row in self.session.scalars(found))

    def uploads(self) -> tuple[Upload, ...]:
        """Return every upload whose lease has no receipt yet."""
        return tuple(_upload(row) for row in self.session.scalars(select(UploadRow)))

    def expects(self, digest: bytes) -> bool:
        """Whether an upload of those bytes is under way or waits to be submitted."""
        found = select(UploadRow.upload_id).where(UploadRow.digest == digest).limit(1)
        return self.session.scalar(found) is not None

    def promised_bytes(self) -> int:
        """Return the bytes that all uploads may take."""
        return self.session.scalar(select(func.sum(UploadRow.size))) or 0


def _lease(row: LeaseRow) -> LeaseRecord:
    return LeaseRecord(
        row.lease_id, row.client_id, row.round, row.version, LeaseState(row.state), row.started_s, row.ttl_s
    )


def _upload(row: UploadRow) -> Upload:
    return Upload(row.upload_id, row.lease_id, row.digest, row.size, row.complete)
