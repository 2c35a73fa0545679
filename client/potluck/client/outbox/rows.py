"""The outbox's tables, and how a row becomes a plain value."""

from typing import Any, final

from sqlalchemy import inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from potluck.client.errors import BadOutbox
from potluck.client.records import KeptReceipt, Membership, Now, Sealed, Task, Terms
from potluck.client.tasks import Event, MembershipState, TaskState, after

_TERMS = tuple(Terms.__dataclass_fields__)
_SEALED = tuple(Sealed.__dataclass_fields__)


class Row(DeclarativeBase):
    """Base of all tables."""


@final
class MembershipRow(Row):
    """The run this home is in; no row means UNENROLLED."""

    __tablename__ = "membership"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    token: Mapped[str]
    run_id: Mapped[str]
    run_name: Mapped[str]
    coordinator_id: Mapped[str]
    recipe_json: Mapped[str]
    recipe_digest: Mapped[bytes]
    name: Mapped[str]
    data_path: Mapped[str]
    examples: Mapped[int]
    pending: Mapped[bool]


@final
class TaskRow(Row):
    """One lease."""

    __tablename__ = "tasks"
    order: Mapped[int] = mapped_column(primary_key=True)
    lease_id: Mapped[bytes] = mapped_column(unique=True)
    run_id: Mapped[str]
    round: Mapped[int]
    version: Mapped[int]
    adapter_digest: Mapped[bytes]
    adapter_size: Mapped[int]
    seed: Mapped[str]  # unsigned 64-bit, which SQLite's integers are not
    manifest_digest: Mapped[bytes]
    max_update_bytes: Mapped[int]
    ttl_s: Mapped[float]
    state: Mapped[str] = mapped_column(index=True)
    spent_s: Mapped[float] = mapped_column(default=0.0)
    steps_done: Mapped[int] = mapped_column(default=0)
    steps_total: Mapped[int] = mapped_column(default=0)
    upload_id: Mapped[bytes] = mapped_column(default=b"")
    reason: Mapped[str] = mapped_column(default="")
    digest: Mapped[bytes | None]
    size: Mapped[int | None]
    examples: Mapped[int | None]
    steps: Mapped[int | None]
    tokens: Mapped[int | None]
    loss_before: Mapped[float | None]
    loss_after: Mapped[float | None]


@final
class ResidualRow(Row):
    """What a codec left out of an update.  Free where neither lease is named."""

    __tablename__ = "residuals"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    fit: Mapped[bytes]
    digest: Mapped[bytes]
    basis: Mapped[bytes]
    taken_by: Mapped[bytes | None]  # the lease whose update carries it
    made_by: Mapped[bytes | None]  # the lease whose update left it out


@final
class ReceiptRow(Row):
    """A receipt, kept for good."""

    __tablename__ = "receipts"
    coordinator_id: Mapped[str] = mapped_column(primary_key=True)
    lease_id: Mapped[bytes] = mapped_column(primary_key=True)
    envelope: Mapped[bytes]
    run_id: Mapped[str]
    round: Mapped[int]
    version: Mapped[int]
    digest: Mapped[bytes]
    verdict: Mapped[str]
    examples: Mapped[int]
    staleness_weight: Mapped[float]
    credit: Mapped[int]
    serial: Mapped[int]
    received_unix_s: Mapped[float]


@final
class ControlRow(Row):
    """What the owner asked for."""

    __tablename__ = "control"
    id: Mapped[int] = mapped_column(primary_key=True)
    paused: Mapped[bool] = mapped_column(default=False)
    paused_until_unix_s: Mapped[float | None]
    finish: Mapped[bool] = mapped_column(default=False)
    leave: Mapped[bool] = mapped_column(default=False)


@final
class CounterRow(Row):
    """Numbers that only grow, over the life of the key."""

    __tablename__ = "counters"
    id: Mapped[int] = mapped_column(primary_key=True)
    seqno: Mapped[int] = mapped_column(default=0)
    sent: Mapped[int] = mapped_column(default=0)
    received: Mapped[int] = mapped_column(default=0)


@final
class SharedRow(Row):
    """The newest shared adapter that is on this machine."""

    __tablename__ = "shared"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    version: Mapped[int]
    digest: Mapped[bytes]


@final
class NowRow(Row):
    """What the running process last said about itself."""

    __tablename__ = "now"
    id: Mapped[int] = mapped_column(primary_key=True)
    pid: Mapped[int]
    activity: Mapped[str]
    reasons: Mapped[str]
    next_check_in_unix_s: Mapped[float | None]
    written_unix_s: Mapped[float]


def columns(row: Row) -> dict[str, Any]:
    """Return the values of *row* by name."""
    return {column.key: getattr(row, column.key) for column in inspect(type(row)).columns}


def membership_of(row: MembershipRow) -> Membership:
    """Return *row* as a plain value."""
    values = columns(row)
    del values["id"]
    return Membership(**(values | {"state": MembershipState[row.state]}))


def task_of(row: TaskRow) -> Task:
    """Return *row* as a plain value."""
    values = columns(row)
    terms = {name: values[name] for name in _TERMS} | {"seed": int(row.seed)}
    return Task(
        terms=Terms(**terms),
        state=TaskState[row.state],
        spent_s=row.spent_s,
        steps_done=row.steps_done,
        steps_total=row.steps_total,
        sealed=None if row.digest is None else Sealed(**{name: values[name] for name in _SEALED}),
        upload_id=row.upload_id,
        reason=row.reason,
    )


def receipt_of(row: ReceiptRow) -> KeptReceipt:
    """Return *row* as a plain value."""
    return KeptReceipt(**columns(row))


def now_of(row: NowRow) -> Now:
    """Return *row* as a plain value."""
    return Now(row.pid, row.activity, tuple(row.reasons.split()), row.next_check_in_unix_s, row.written_unix_s)


def task_row(session: Session, lease_id: bytes) -> TaskRow:
    """Return the row of a lease."""
    row = session.scalar(select(TaskRow).where(TaskRow.lease_id == lease_id))
    if row is None:
        raise BadOutbox(f"no task has the lease {lease_id.hex()}", fix="this is a bug; please report it")
    return row


def moved(row: TaskRow, happened: Event, *, reason: str = "", upload_id: bytes = b"") -> TaskState:
    """Move *row* along, and return its new state."""
    state = after(TaskState[row.state], happened)
    row.state, row.spent_s = state.name, 0.0
    row.reason = reason or row.reason
    row.upload_id = upload_id or row.upload_id
    return state
