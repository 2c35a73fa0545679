"""The hash-chained log: only ever added to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import select
from sqlalchemy.orm import Session

from potluck.coordinator.store.records import LogEntry
from potluck.coordinator.store.tables import LogRow
from potluck.wire.audit import START, canonical, chain_hash


@final
@dataclass(frozen=True, slots=True)
class Log:
    """What happened, each entry bound to all before it."""

    session: Session

    def append(self, kind: str, **facts: Any) -> LogEntry:  # noqa: ANN401 - JSON
        """Add an entry of that *kind*; writers take turns, so two never get the same index."""
        last = self.head()
        index, previous = (0, START) if last is None else (last.index + 1, last.hash)
        entry = canonical({"kind": kind, **_plain(facts)})
        made = LogEntry(index, entry, chain_hash(index, previous, entry.encode()))
        self.session.add(LogRow(index=index, entry=entry, hash=made.hash))
        self.session.flush()
        return made

    def head(self) -> LogEntry | None:
        """Return the last entry."""
        row = self.session.scalar(select(LogRow).order_by(LogRow.index.desc()).limit(1))
        return None if row is None else LogEntry(row.index, row.entry, row.hash)

    def at(self, index: int) -> LogEntry:
        """Return the entry at *index*, which must be there."""
        row = self.session.get_one(LogRow, index)
        return LogEntry(row.index, row.entry, row.hash)

    def since(self, index: int) -> tuple[LogEntry, ...]:
        """Return the entries from *index* on, the oldest first."""
        found = select(LogRow).where(LogRow.index >= index).order_by(LogRow.index)
        return tuple(LogEntry(row.index, row.entry, row.hash) for row in self.session.scalars(found))


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return *facts* with bytes as hex, as deep as JSON goes."""

    def plain(value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, bytes):
            return value.hex()
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return value

    return {key: plain(value) for key, value in facts.items()}
