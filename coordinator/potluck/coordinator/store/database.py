"""Opening the database, and its transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from potluck.aggregation.errors import PotluckError
from potluck.coordinator.store.intake import Intake
from potluck.coordinator.store.leases import Leases
from potluck.coordinator.store.log import Log
from potluck.coordinator.store.members import Invites, Members
from potluck.coordinator.store.records import RunRecord
from potluck.coordinator.store.rounds import Rounds
from potluck.coordinator.store.tables import RunRow, Table
from potluck.coordinator.store.versions import Versions
from potluck.wire.refusals import Refusal

BUSY_TIMEOUT_MS: Final = 20_000
RUN: Final = 1
"""Key of the one row in the table run."""


@final
class Superseded(PotluckError):
    """Another coordinator has taken over this run."""


@final
class NoRun(PotluckError):
    """The database holds no run."""


@final
class WrongLayout(PotluckError):
    """The database was made by another version of this program."""


@final
@dataclass(frozen=True, slots=True)
class Books:
    """All tables, within one transaction."""

    session: Session

    @property
    def members(self) -> Members:
        """Clients that enrolled."""
        return Members(self.session)

    @property
    def invites(self) -> Invites:
        """Invites and their uses."""
        return Invites(self.session)

    @property
    def leases(self) -> Leases:
        """Leases and the uploads that they allow."""
        return Leases(self.session)

    @property
    def intake(self) -> Intake:
        """Updates, receipts and credit."""
        return Intake(self.session)

    @property
    def rounds(self) -> Rounds:
        """Rounds and their inputs."""
        return Rounds(self.session)

    @property
    def versions(self) -> Versions:
        """Versions of the shared adapter."""
        return Versions(self.session)

    @property
    def log(self) -> Log:
        """The hash-chained log."""
        return Log(self.session)

    def run(self) -> RunRecord:
        """Return the run.

        Raises:
            NoRun: there is none in this database.
        """
        row = self.session.get(RunRow, RUN)
        if row is None:
            raise NoRun("this database holds no run", fix="start one with `potluck host RECIPE`")
        return RunRecord(
            run_id=row.run_id,
            recipe_json=row.recipe_json,
            version=row.version,
            paused=row.paused,
            fence=row.fence,
            changes=row.changes,
            bytes_in=row.bytes_in,
            bytes_out=row.bytes_out,
        )

    def has_run(self) -> bool:
        """Whether there is a run here yet."""
        return self.session.get(RunRow, RUN) is not None

    def create_run(self, run_id: str, recipe_json: str) -> None:
        """Write the run down, at version 0, of which there is no row yet."""
        row = RunRow(id=RUN, run_id=run_id, recipe_json=recipe_json, version=0, paused=False, fence=0)
        row.changes = row.bytes_in = row.bytes_out = 0
        self.session.add(row)
        self.session.flush()

    def change_run(self, **values: object) -> None:
        """Set columns of the run."""
        row = self.session.get_one(RunRow, RUN)
        for name, value in values.items():
            setattr(row, name, value)
        self.session.flush()


@final
class Store:
    """The database of one run."""

    def __init__(self, engine: Engine) -> None:
        self.changes = 0
        """The number of the last writing transaction known here; those of other processes are learnt by noticed()."""
        self._writers = engine
        options: dict[str, Any] = {"potluck_reading": True}
        if engine.dialect.name != "sqlite":
            options["isolation_level"] = "REPEATABLE READ"  # one consistent look, as SQLite's snapshots give anyway
        self._readers = engine.execution_options(**options)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database at *url*, any that SQLAlchemy knows; missing tables are made.

        Raises:
            WrongLayout: another version of this program made its tables.
        """
        engine = create_engine(make_url(url), pool_size=20, max_overflow=20)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        with _told():
            check_layout(engine)
            Table.metadata.create_all(engine)
        return cls(engine)

    @contextmanager
    def reading(self) -> Iterator[Books]:
        """One consistent look at all tables; nothing that is changed in it is kept."""
        with _told(), Session(self._readers, autoflush=False) as session:
            yield Books(session)

    @contextmanager
    def writing(self, fence: int | None = None, *, counts: bool = True) -> Iterator[Books]:
        """One transaction: all of it is kept when the block ends well, nothing when it raises.

        The row of the run is locked first, so writers take turns on every database and what one has read stays true
        until it ends.  With *fence*, it must still be the number of the coordinator in charge.  One that *counts*
        makes every answer that was found before it be looked up again.

        Raises:
            Superseded: another coordinator took over.
            Refusal: the disk is full, or the database stayed locked.
        """
        with _told(), Session(self._writers, expire_on_commit=False) as session, session.begin():
            row = session.scalar(select(RunRow).where(RunRow.id == RUN).with_for_update())
            check_fence(fence, None if row is None else row.fence)
            yield Books(session)
            row = row or session.get_one(RunRow, RUN)
            row.changes += counts
            session.flush()
        self.noticed(row.changes)

    def noticed(self, changes: int) -> None:
        """Take note of the number of the last writing transaction, whoever made it."""
        self.changes = max(self.changes, changes)

    def close(self) -> None:
        """Close all connections."""
        self._writers.dispose()


def check_layout(engine: Engine) -> None:
    """Return quietly where the database has no table of ours yet, or those that it has hold our columns and no other.

    Raises:
        WrongLayout: they do not; the message names the first that differs.
    """
    found = inspect(engine)
    here = set(found.get_table_names())
    for name, table in sorted(Table.metadata.tables.items()):
        if name not in here:
            continue
        columns, wanted = {column["name"] for column in found.get_columns(name)}, set(table.columns.keys())
        if columns != wanted:
            lacks, odd = ", ".join(sorted(wanted - columns)), ", ".join(sorted(columns - wanted))
            told = [f"lacks {lacks}"] * bool(lacks) + [f"has {odd}, which is unknown"] * bool(odd)
            raise WrongLayout(
                f"the database was made by another version of potluck: its table {name!r} {' and '.join(told)}",
                fix="go on with the version that made it, or host the recipe in another folder",
            )


def check_fence(mine: int | None, current: int | None) -> None:
    """Return quietly where the coordinator with the number *mine* is in charge; None is an operator's command.

    Raises:
        Superseded: another one is.
    """
    if mine is not None and mine != current:
        raise Superseded(
            f"this coordinator has number {mine}, the one in charge has {current}",
            fix="let the newer coordinator run; stop this one",
        )


def _prepare_sqlite(connection: Any, _: object) -> None:  # noqa: ANN401 - sqlite3's connection
    """Make SQLite keep what it confirmed through a power cut, and wait instead of failing when it is busy."""
    connection.isolation_level = None  # we begin transactions ourselves; see _begin_sqlite
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin as a writer at once: one that begins as a reader can fail when it turns into a writer."""
    reading = connection.get_execution_options().get("potluck_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def _told() -> Iterator[None]:
    """Turn a full disk and a locked database into refusals that a client may try again after."""
    try:
        yield
    except OperationalError as error:
        words = str(error.orig).lower()
        if "full" in words or "disk i/o" in words:
            raise Refusal(
                f"the coordinator's database cannot grow: {words}",
                code="disk_full",
                fix="the operator has to make room; try again later",
                retry_in_s=30,
            ) from error
        if "locked" in words or "busy" in words:
            raise Refusal(
                f"the coordinator's database is busy: {words}", code="unavailable", fix="try again", retry_in_s=5
            ) from error
        raise
