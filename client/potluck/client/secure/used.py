"""What a client must not forget about sums, across crashes: which it was in, and which updates may be revealed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, final

from potluck.aggregation.errors import PotluckError
from potluck.client.errors import DiskFull
from potluck.client.home import NO_ROOM, sync_folder
from potluck.client.witness import Witness
from potluck.wire.secure.encoding import HASH_BYTES, NODE_BYTES
from potluck.wire.secure.reasons import Reason, SumRefusal

REMEMBERED: Final = 20
OLDER: Final = (
    "put the newest sums.txt back; if it is lost, leave the run and join again from a new home: "
    "POTLUCK_HOME=OTHER-FOLDER potluck join ..."
)
SPEND_BEFORE: Final = 4
"""Words of a spend without its start, as older programs wrote it."""
SHAPES: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType({"claim": (3,), "spend": (SPEND_BEFORE, 5)})
"""How many words a line has, by its first."""


class BadRecord(PotluckError):
    """A record of sums that cannot be read."""


class UsedSums(Protocol):
    """A record that only ever grows; each call returns once it is durable."""

    def claim(self, sid: bytes, contribution: bytes) -> None:
        """Note that this client takes part in *sid* with *contribution*, before its shares leave.

        *contribution* names an update; a run's id and a version make a name of which there is one for each version.

        Raises:
            SumRefusal: USED_SUM, where the sum was claimed before: a process that was started again never answers;
                SPENT, where the contribution may have been revealed in a sum.
        """

    def spend(self, sid: bytes, contribution: bytes, cohort: Sequence[bytes], start: bytes) -> None:
        """Note that *contribution* may be revealed in a sum over the nodes *cohort*, before this client signs it.

        *start*, 32 bytes, names the adapter that its updates started from.
        """

    def cohorts(self) -> Sequence[frozenset[bytes]]:
        """Return the nodes of the last 20 sums that this client signed, the latest last."""

    def starts(self) -> Sequence[bytes]:
        """Return what each sum that this client ever signed started from; those of older programs do not say."""


@final
@dataclass(frozen=True, slots=True)
class UsedFile:
    """The record as a file: one line a fact, appended and synced before anything leaves on account of it.

    An older copy of it, from a backup, would let an update that was revealed go into another sum.  The *witness*, where
    there is one, remembers how many bytes it had.
    """

    path: Path
    witness: Path | None = None

    def claim(self, sid: bytes, contribution: bytes) -> None:
        """Append the claim, unless the sum or the contribution is spent.

        Raises:
            SumRefusal: USED_SUM or SPENT.
            BadRecord: the file is no such record.
        """
        lines = self._lines()
        if any(line[0] in ("claim", "spend") and line[1] == sid.hex() for line in lines):
            raise SumRefusal(sid.hex()[:16] + "…", reason=Reason.USED_SUM, fix="wait for the next sum")
        if _spends(lines, contribution):
            raise SumRefusal(contribution.hex()[:16] + "…", reason=Reason.SPENT, fix="train on the next version")
        self._append("claim", sid.hex(), contribution.hex())

    def spend(self, sid: bytes, contribution: bytes, cohort: Sequence[bytes], start: bytes) -> None:
        """Append that the contribution is spent."""
        self._append("spend", sid.hex(), contribution.hex(), b"".join(sorted(cohort)).hex(), start.hex())

    def spent(self, contribution: bytes) -> bool:
        """Whether *contribution* may have been revealed in a sum; changes nothing, so any process may ask."""
        return _spends(self._parsed(self._text()), contribution)

    def last(self, run_id: str) -> int | None:
        """Return the highest version of which an update may have been revealed in a sum of that run; None: of none."""
        names = (bytes.fromhex(line[2]).rpartition(b"/") for line in self._parsed(self._text()) if line[0] == "spend")
        return max((int(number) for run, _, number in names if run == run_id.encode()), default=None)

    def cohorts(self) -> Sequence[frozenset[bytes]]:
        """Return the cohorts of the last 20 lines that say one."""
        told = [bytes.fromhex(line[3]) for line in self._lines() if line[0] == "spend"]
        return [
            frozenset(nodes[place : place + NODE_BYTES] for place in range(0, len(nodes), NODE_BYTES))
            for nodes in told[-REMEMBERED:]
        ]

    def starts(self) -> Sequence[bytes]:
        """Return the start of every line that says one."""
        return [bytes.fromhex(line[4]) for line in self._lines() if line[0] == "spend" and len(line) > SPEND_BEFORE]

    def _append(self, *words: str) -> None:
        """Append a line, whole or not at all.

        Raises:
            DiskFull: there is no room for it.
        """
        new = not self.path.exists()
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
            size = file.tell()
            line = (" ".join(words) + "\n").encode("ascii")
            try:
                while line:  # a disk that fills up takes a part of it, and refuses the rest
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(size)
                if error.errno not in NO_ROOM:
                    raise
                raise DiskFull("no room to note what is sent in a sum", fix="make room; it is tried again") from None
        if new:
            sync_folder(self.path.parent)
        if self.witness is not None:
            data = self.path.read_bytes()
            Witness(self.witness).remember(len(data), sha256(data).digest())

    def _lines(self) -> list[list[str]]:
        """Return the words of each line.

        A cut-off last line is one that was being written: nothing left this machine on account of it, and it is
        closed off, so that the next line begins its own.
        """
        text = self._text()
        if text and not text.endswith("\n"):
            self._append("", "torn")
        return self._parsed(text)

    def _text(self) -> str:
        """Return all of it, as new as its witness or newer; what it had seen is read first, since others may write.

        Raises:
            BadRecord: it is an older copy, or another record.
        """
        try:
            seen = None if self.witness is None else Witness(self.witness).seen()
        except ValueError:
            raise BadRecord(f"{self.witness} cannot be read", fix="delete it if sums.txt is the newest") from None
        data = self.path.read_bytes() if self.path.exists() else b""
        if seen is not None and (len(data) < seen[0] or sha256(data[: seen[0]]).digest() != seen[1]):
            raise BadRecord(
                f"{self.path} has {len(data)} bytes and is older than its witness {self.witness}, or another: "
                f"{seen[0]} bytes were seen, and nobody can say which updates were in a sum since",
                fix=OLDER,
            )
        return data.decode("ascii", errors="replace")

    def _parsed(self, text: str) -> list[list[str]]:
        """Return the words of each whole line of *text*.

        Raises:
            BadRecord: it is no such record.
        """
        lines = [line.split(" ") for line in text.split("\n")[:-1]]
        for line in lines:
            if line[-1] != "torn" and not _sound(line):
                raise BadRecord(f"{self.path} is damaged", fix="restore it from a backup; without it sums are refused")
        return [line for line in lines if line[-1] != "torn"]


def _spends(lines: Sequence[Sequence[str]], contribution: bytes) -> bool:
    return any(line[0] == "spend" and line[2] == contribution.hex() for line in lines)


def _sound(line: list[str]) -> bool:
    """Whether a line says what this program writes."""
    try:
        facts = [bytes.fromhex(word) for word in line[1:]]
    except ValueError:
        return False
    if len(line) not in SHAPES.get(line[0], ()) or len(facts[0]) != HASH_BYTES:
        return False
    return not len(b"".join(facts[2:3])) % NODE_BYTES and all(len(start) == HASH_BYTES for start in facts[3:])
