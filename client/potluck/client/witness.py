"""What remembers, outside the home, how long a record was that only grows: an older copy of it is known by that."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

from potluck.client.home import store


@final
@dataclass(frozen=True, slots=True)
class Witness:
    """A file of two facts: how long the record was, and the SHA-256 of what it said."""

    path: Path

    def seen(self) -> tuple[int, bytes] | None:
        """Return the record's length and its hash; None where nothing was seen of it.

        Raises:
            ValueError: the file cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            facts = json.loads(self.path.read_text("utf-8"))
            return int(facts["length"]), bytes.fromhex(facts["head"])
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from None

    def remember(self, length: int, head: bytes) -> None:
        """Write down how long the record is and what it says; on return it is on the disk.

        Raises:
            DiskFull: there is no room for it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        store(json.dumps({"length": length, "head": head.hex()}).encode(), self.path)
