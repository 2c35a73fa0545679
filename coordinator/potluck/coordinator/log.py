"""The log beside the state: log.jsonl and its signed head, made from the store whenever the store is ahead."""

from dataclasses import dataclass
from typing import final

from potluck.coordinator.blobs import room
from potluck.coordinator.keys import write_private
from potluck.coordinator.site import Site
from potluck.wire.audit import HEAD_FILE, LOG_FILE, head_payload, log_line, signature_text
from potluck.wire.envelopes import Purpose, sign


@final
@dataclass(slots=True)
class LogFile:
    """Keeps the two files up to date."""

    site: Site
    _written: int = 0
    """Entries in log.jsonl."""
    _torn: bool = True
    """Whether the file may end in half a line."""

    def rebuild(self) -> None:
        """Write both files anew; what a crash left in them is gone."""
        path = self.site.folders.root / LOG_FILE
        with self.site.store.reading() as books:
            entries = books.log.since(0)
        with room():
            text = "".join(log_line(one.index, one.entry, one.hash) + "\n" for one in entries)
            write_private(path, text.encode())
        path.chmod(0o644)
        self._written, self._torn = len(entries), False
        self._sign()

    def follow(self) -> bool:
        """Append what is new and sign the new head; return whether there was anything."""
        if self._torn:
            self.rebuild()
            return True
        with self.site.store.reading() as books:
            entries = books.log.since(self._written)
        if not entries:
            return False
        self._torn = True
        with room(), (self.site.folders.root / LOG_FILE).open("a", encoding="utf-8") as file:
            file.writelines(log_line(one.index, one.entry, one.hash) + "\n" for one in entries)
        self._written, self._torn = self._written + len(entries), False
        self._sign()
        return True

    def _sign(self) -> None:
        """Sign the last entry that is in the file."""
        keys = self.site.keys
        with self.site.store.reading() as books:
            found = books.log.since(self._written - 1)
        if not found:
            return
        payload = head_payload(self.site.run_id, found[0].index, found[0].hash)
        text = signature_text(sign(keys.signing, Purpose.LOG, keys.coordinator_id, payload), with_payload=True)
        path = self.site.folders.root / HEAD_FILE
        with room():
            write_private(path, text.encode())
        path.chmod(0o644)
