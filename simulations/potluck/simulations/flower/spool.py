"""Replies that wait on the disk until a round is combined, so that no number of them fills the memory."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple, Self, final

import numpy as np

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.stored import StoredUpdates
from potluck.aggregation.updates import Update, flat_bytes
from potluck.simulations.flower.replies import Factors, Reply, Sent


class Kept(NamedTuple):
    """One reply without its numbers, and where those are."""

    reply: Reply
    begin: int
    dtype: np.dtype[np.floating]
    b: bool
    a: bool
    key: bytes


@final
class Spool:
    """A file without a name, gone when it is closed: per reply and module, A and then B, those of them that came."""

    def __init__(self, sent: Sent, folder: Path | None = None) -> None:
        self._sent = sent
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the round
        self._kept: list[Kept] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what did not fit on the disk is tried once more, and no longer wanted
            self._file.close()

    def add(self, reply: Reply) -> None:
        """Write one reply down.

        Raises:
            BadSetting: the disk is full.
        """
        try:
            self._kept.append(self._written(reply))
        except OSError as error:
            raise BadSetting(
                f"reply {len(self._kept) + 1} of the round could not be written down: {error}",
                fix="name a folder with room for all replies of a round: PotluckStrategy(..., spool=Path(...))",
            ) from error

    def _written(self, reply: Reply) -> Kept:
        first = next(iter(reply.factors.values()))
        dtype = np.result_type(*(x for pair in reply.factors.values() for x in pair if x is not None))
        digest = hashlib.sha256(repr((dtype.str, reply.rank, reply.scale)).encode())
        begin = self._file.tell()
        for values in (x for module in self._sent.layout.shapes for x in reversed(reply.factors[module])):
            if values is not None:
                content = flat_bytes(values.astype(dtype, copy=False))
                digest.update(content)
                self._file.write(content)
        facts = Reply(
            reply.node, {}, reply.rank, reply.scale, examples=reply.examples, capped=reply.capped, steps=reply.steps
        )
        self._file.flush()
        return Kept(facts, begin, dtype, first.b is not None, first.a is not None, digest.digest())

    def updates(self) -> StoredUpdates:
        """Return all replies as updates that read a module from the file when it is asked for."""
        places = {(b, a): dict(self._places(b=b, a=a)) for b, a in {(kept.b, kept.a) for kept in self._kept}}

        def opened(place: int) -> Update:
            kept = self._kept[place]
            return kept.reply.update(
                self._sent, lambda module: self._read(kept, module, places[kept.b, kept.a][module]), kept.key
            )

        return StoredUpdates(len(self._kept), opened)

    def _places(self, *, b: bool, a: bool) -> Iterator[tuple[str, int]]:
        """Yield where each module begins, in numbers per column of rank."""
        place = 0
        for module, (d, k) in self._sent.layout.shapes.items():
            yield module, place
            place += d * b + k * a

    def _read(self, kept: Kept, module: str, place: int) -> Factors:
        d, k = self._sent.layout.shapes[module]
        rank = kept.reply.rank
        rows = [k * kept.a, d * kept.b]
        self._file.seek(kept.begin + place * rank * kept.dtype.itemsize)
        numbers = np.frombuffer(self._file.read(sum(rows) * rank * kept.dtype.itemsize), kept.dtype)
        a, b = numbers[: rows[0] * rank], numbers[rows[0] * rank :]
        return Factors(b.reshape(d, rank) if kept.b else None, a.reshape(rank, k) if kept.a else None)
