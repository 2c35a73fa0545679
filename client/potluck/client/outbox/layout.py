"""The outbox's file: how it is opened, and what is in a new one."""

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert
from sqlalchemy.orm import Session

from potluck.client.errors import BadOutbox
from potluck.client.outbox.rows import ControlRow, CounterRow, Row

LAYOUT: Final = 2  # 2 has the table of residuals
ONLY: Final = 1  # key of tables that hold one row


def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - DB-API, which SQLAlchemy does not type
    """Set up a new connection; from here on nothing but begin opens a transaction."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def begin(connection: Connection) -> None:
    """Begin a transaction; one that writes takes its lock now, so that what it reads stays true until it ends."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def lay_out(session: Session, path: Path) -> None:
    """Make the tables in a new file, and those that an older one lacks."""
    connection = session.connection()
    found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if not 0 <= found <= LAYOUT:
        raise BadOutbox(
            f"{path} has layout {found}, this program knows {LAYOUT}",
            fix="run the version of potluck that made it, or update potluck",
        )
    if found == LAYOUT:
        return
    Row.metadata.create_all(connection)
    if found == 0:
        session.execute(insert(CounterRow).values(id=ONLY, seqno=0, sent=0, received=0))
        session.execute(insert(ControlRow).values(id=ONLY, paused=False, finish=False, leave=False))
    connection.exec_driver_sql(f"PRAGMA user_version = {LAYOUT}")
