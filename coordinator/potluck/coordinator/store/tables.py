"""The tables.  Nothing here is special to one database: SQLite and PostgreSQL both take it."""

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Id16 = LargeBinary(16)
Digest = LargeBinary(32)


class Table(DeclarativeBase):
    """All tables of a coordinator."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class RunRow(Table):
    """The run: one row, which every writing transaction locks first, so that writers take turns on any database."""

    __tablename__ = "run"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    run_id: Mapped[str] = mapped_column(String(64))
    recipe_json: Mapped[str] = mapped_column(Text)
    version: Mapped[int]
    paused: Mapped[bool]
    fence: Mapped[int]
    changes: Mapped[int] = mapped_column(BigInteger)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    bytes_out: Mapped[int] = mapped_column(BigInteger)


class MemberRow(Table):
    """A client that enrolled."""

    __tablename__ = "members"
    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    public_key: Mapped[bytes] = mapped_column(Digest, unique=True)
    name: Mapped[str] = mapped_column(String(64))
    standing: Mapped[str] = mapped_column(String(16), index=True)
    invite_id: Mapped[bytes] = mapped_column(Id16)
    recipe_digest: Mapped[bytes] = mapped_column(Digest)
    joined_s: Mapped[float]
    boot_id: Mapped[bytes] = mapped_column(Id16)
    seqno: Mapped[int] = mapped_column(BigInteger)
    seen_s: Mapped[float]


class InviteRow(Table):
    """An invite.  uses is counted in one atomic statement."""

    __tablename__ = "invites"
    invite_id: Mapped[bytes] = mapped_column(Id16, primary_key=True)
    token: Mapped[str] = mapped_column(Text)
    max_uses: Mapped[int]
    uses: Mapped[int]
    expires_s: Mapped[float]
    revoked: Mapped[bool]
    created_s: Mapped[float]


class RoundRow(Table):
    """A round."""

    __tablename__ = "rounds"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    phase: Mapped[str] = mapped_column(String(16), index=True)
    opened_s: Mapped[float]
    started_s: Mapped[float | None]
    ended_s: Mapped[float | None]
    reason: Mapped[str] = mapped_column(Text)
    version: Mapped[int | None]
    log_index: Mapped[int | None]


class LeaseRow(Table):
    """A lease: a duration that began by the coordinator's clock."""

    __tablename__ = "leases"
    __table_args__ = (Index(None, "round", "state"), Index(None, "client_id", "state"))
    lease_id: Mapped[bytes] = mapped_column(Id16, primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("members.client_id"))
    round: Mapped[int] = mapped_column(ForeignKey("rounds.number"))
    version: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    started_s: Mapped[float]
    ttl_s: Mapped[float]


class UploadRow(Table):
    """The right to send one update."""

    __tablename__ = "uploads"
    upload_id: Mapped[bytes] = mapped_column(Id16, primary_key=True)
    lease_id: Mapped[bytes] = mapped_column(ForeignKey("leases.lease_id"), unique=True)
    digest: Mapped[bytes] = mapped_column(Digest)
    size: Mapped[int] = mapped_column(BigInteger)
    complete: Mapped[bool]


class UpdateRow(Table):
    """An accepted update; its key makes a second one for the same lease impossible."""

    __tablename__ = "updates"
    __table_args__ = (Index(None, "round", "state"), Index(None, "client_id", "version"), Index(None, "digest"))
    lease_id: Mapped[bytes] = mapped_column(ForeignKey("leases.lease_id"), primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("members.client_id"))
    round: Mapped[int] = mapped_column(ForeignKey("rounds.number"))
    version: Mapped[int]
    digest: Mapped[bytes] = mapped_column(Digest)
    size: Mapped[int] = mapped_column(BigInteger)
    examples: Mapped[int]
    steps: Mapped[int]
    staleness: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    loss_before: Mapped[float]
    loss_after: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))


class ReceiptRow(Table):
    """A receipt, kept byte for byte: a repeated submit gets these bytes again."""

    __tablename__ = "receipts"
    lease_id: Mapped[bytes] = mapped_column(ForeignKey("leases.lease_id"), primary_key=True)
    serial: Mapped[int] = mapped_column(BigInteger, unique=True)
    digest: Mapped[bytes] = mapped_column(Digest)
    verdict: Mapped[int]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    detail: Mapped[bytes] = mapped_column(LargeBinary)
    flagged: Mapped[bool]


class InputRow(Table):
    """One input of a round, fixed when the round closed, in the order in which it is combined."""

    __tablename__ = "inputs"
    round: Mapped[int] = mapped_column(ForeignKey("rounds.number"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    lease_id: Mapped[bytes] = mapped_column(ForeignKey("updates.lease_id"), unique=True)
    digest: Mapped[bytes] = mapped_column(Digest)
    version: Mapped[int]
    examples: Mapped[int]
    steps: Mapped[int]


class VersionRow(Table):
    """A version of the shared adapter; rows are added, never changed."""

    __tablename__ = "versions"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent: Mapped[int | None]
    round: Mapped[int | None] = mapped_column(ForeignKey("rounds.number"), unique=True)
    rolled_back_to: Mapped[int | None]
    checkpoint_digest: Mapped[bytes] = mapped_column(Digest)
    adapter_digest: Mapped[bytes] = mapped_column(Digest, index=True)
    adapter_size: Mapped[int] = mapped_column(BigInteger)
    seed: Mapped[str] = mapped_column(String(20))  # unsigned 64 bit, which no database has
    contributors: Mapped[int]
    examples: Mapped[int] = mapped_column(BigInteger)
    loss_before: Mapped[float]
    loss_after: Mapped[float]
    truncation: Mapped[float]
    log_index: Mapped[int]
    made_s: Mapped[float]


class CreditRow(Table):
    """The ledger of credit: rows are added, never changed.  One entry for a lease and a reason."""

    __tablename__ = "credit"
    __table_args__ = (UniqueConstraint("lease_id", "reason"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("members.client_id"), index=True)
    lease_id: Mapped[bytes] = mapped_column(ForeignKey("leases.lease_id"))
    reason: Mapped[str] = mapped_column(String(32))
    amount: Mapped[int] = mapped_column(BigInteger)
    at_s: Mapped[float]


class LedgerRow(Table):
    """How long a client's own ledger of private rounds was when it was last told; it only grows."""

    __tablename__ = "ledgers"
    client_id: Mapped[str] = mapped_column(ForeignKey("members.client_id"), primary_key=True)
    lines: Mapped[int]


class LogRow(Table):
    """The hash-chained log; rows are added, never changed."""

    __tablename__ = "log"
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    entry: Mapped[str] = mapped_column(Text)
    hash: Mapped[bytes] = mapped_column(Digest)
