"""The ledger of what was told: every round of private training, one line each, in a file of the owner's.

Lines are only ever added, each names the SHA-256 of the one before, and a line is on the disk before the update that it
pays for is in the outbox.  A line pays for one noised release: for that run, lease, spending and noise together, since
the coordinator names the lease, and the same lease with other noise tells more.  It holds what was done, not what that
cost: ε is worked out anew, by whatever accountant is installed.  All text that one home ever trained on counts as one
data set, whatever folder it lay in: who has two that share no text can give each a home of its own.

An older copy of the file, from a backup, would forget what was told since.  How long the ledger is stands also in a
witness file outside the home, and the coordinator repeats how long it was when it last saw it.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self, final

from potluck.client.accounting import Spending, accountant, epsilon
from potluck.client.errors import BadLedger, DiskFull
from potluck.client.home import NO_ROOM
from potluck.client.witness import Witness

DOMAIN: Final = b"potluck/ledger\0"
START: Final = bytes(32)
FIX: Final = (
    "put the newest ledger.jsonl back; without it nobody can say what was told of this text, and no private round can "
    "be trained on it from this home"
)


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One round of private training that may have been told to others."""

    run_id: str
    lease_id: str  # hex
    spending: Spending
    accountant: str
    at_unix_s: float
    seed_digest: str = ""
    """SHA-256, in hex, that names the seed of its noise; empty in older lines, which pay for nothing."""


@final
class Ledger:
    """The open ledger.  One process at a time adds to it: the one that works in the home."""

    def __init__(self, path: Path, witness: Path) -> None:
        """Use `Ledger.open`."""
        self._path = path
        self._witness = witness
        self._entries: list[Entry] = []
        self._hashes: list[bytes] = []
        self._size = 0  # bytes of whole lines; what a crash left behind them was never acknowledged

    @classmethod
    def open(cls, path: Path, witness: Path) -> Self:
        """Read the ledger at *path* and compare it with its *witness*; where neither exists, nothing was told yet.

        Raises:
            BadLedger: a line was changed or lost, or the ledger is shorter than the witness remembers.
        """
        ledger = cls(path, witness)
        seen = ledger._seen()  # before the ledger, which may grow in between: it would be an old one otherwise
        if path.exists():
            ledger._read(path.read_bytes())
        if seen is not None:
            ledger._compare(*seen)
        return ledger

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All rounds that were told, oldest first."""
        return tuple(self._entries)

    @property
    def length(self) -> int:
        """Lines, the first one included, which only names the ledger; 0: there is none yet."""
        return len(self._hashes)

    @property
    def head(self) -> bytes:
        """SHA-256 that names the last line and all before it."""
        return self._hashes[-1] if self._hashes else START

    def holds(self, run_id: str, lease_id: bytes, spending: Spending, seed_digest: str) -> bool:
        """Whether exactly that was paid for: that run, lease and *spending*, with noise of that seed."""
        asked = (run_id, lease_id.hex(), spending, seed_digest)
        return bool(seed_digest) and any(
            (entry.run_id, entry.lease_id, entry.spending, entry.seed_digest) == asked for entry in self._entries
        )

    def rounds(self, run_id: str) -> frozenset[tuple[bytes, str]]:
        """Return which rounds of that run were paid for, as (lease, digest of the seed)."""
        return frozenset(
            (bytes.fromhex(entry.lease_id), entry.seed_digest) for entry in self._entries if entry.run_id == run_id
        )

    def spendings(self, run_id: str = "") -> list[Spending]:
        """Return what was spent, in all runs or in that one."""
        return [entry.spending for entry in self._entries if run_id in ("", entry.run_id)]

    def spent(self, delta: float, run_id: str = "") -> float:
        """Return the ε of all rounds, or of those of one run, at *delta*."""
        return epsilon(self.spendings(run_id), delta)

    def charge(self, run_id: str, lease_id: bytes, spending: Spending, seed_digest: str, at_unix_s: float) -> None:
        """Write down that a round may be told; on return it is on the disk.  The seed has to be there before.

        A lease is written down once for each spending and seed: one that is trained again on more or less text, because
        the program was killed, is another round to the accountant, and so is one whose noise was drawn anew.

        Raises:
            DiskFull: there is no room; the round must not be told.
        """
        if self.holds(run_id, lease_id, spending, seed_digest):
            return
        if not self._hashes:
            self._append({"ledger": secrets.token_hex(16)})
        entry = Entry(run_id, lease_id.hex(), spending, accountant(), at_unix_s, seed_digest)
        self._append(asdict(entry))
        self._entries.append(entry)

    def compare(self, length: int, who: str) -> None:
        """Return quietly unless *who* has seen this ledger longer than it is.

        Raises:
            BadLedger: it is an old copy.
        """
        if length > self.length:
            raise BadLedger(f"the ledger has {self.length} lines, and {who} has seen {length}", fix=FIX)

    def _append(self, facts: Mapping[str, Any]) -> None:
        text = json.dumps({"previous": self.head.hex(), **facts}, sort_keys=True, separators=(",", ":"))
        line = f"{text}\n".encode()
        try:
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DiskFull("no room for a line in the ledger", fix="make room; it is tried again") from None
        self._size += len(line)
        self._hashes.append(_chained(self.head, line))
        Witness(self._witness).remember(self.length, self.head)

    def _read(self, text: bytes) -> None:
        """Take in whole lines; each must name the one before."""
        for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(keepends=True), 1):
            try:
                facts = json.loads(line)
                linked = bytes.fromhex(facts.pop("previous")) == self.head
                entry = None if number == 1 else _entry(facts)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise BadLedger(f"line {number} of {self._path} cannot be read", fix=FIX) from None
            if not linked:
                raise BadLedger(f"line {number} of {self._path} does not follow from the one before", fix=FIX)
            self._entries += [] if entry is None else [entry]
            self._hashes.append(_chained(self.head, line))
            self._size += len(line)

    def _seen(self) -> tuple[int, bytes] | None:
        """Return the length and the head that the witness saw; None where there is no witness."""
        try:
            return Witness(self._witness).seen()
        except ValueError:
            raise BadLedger(f"{self._witness} cannot be read", fix="delete it if the ledger is the newest") from None

    def _compare(self, length: int, head: bytes) -> None:
        """See whether this is what the witness saw, or has grown from it."""
        self.compare(length, f"its witness {self._witness}")
        if length and self._hashes[length - 1] != head:
            raise BadLedger(f"the ledger's line {length} is not the one that {self._witness} has seen", fix=FIX)


def _entry(facts: dict[str, Any]) -> Entry:
    return Entry(**(facts | {"spending": Spending(**facts["spending"])}))


def _chained(previous: bytes, line: bytes) -> bytes:
    return sha256(DOMAIN + previous + line).digest()
