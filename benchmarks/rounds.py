"""Rounds on a disk for benchmarks: many updates of 4.6 million numbers, one file each, read module by module.

48 modules of 3000 × 3000.  A round of both factors has rank 16: 96 arrays.  A round of one factor has rank 32 and the
other factor public: 48 arrays.  Both are 4,608,000 float32 numbers, 18.4 MB, for whoever reads them.
Clients of a round agree in part: each moves along a common direction, with singular values that fall off, and along
one of its own of the same size.  Hostile ones go five times as far the other way.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final, final

import numpy as np

from potluck.aggregation import LowRank, Parts, StoredUpdates, Update
from potluck.aggregation.lowrank import Array

MODULES: Final = 48
SIDE: Final = 3000
SCALE: Final = 2.0
NAMES: Final = tuple(f"layer{n:02d}" for n in range(MODULES))
SHARED: Final = dict.fromkeys(NAMES)
MODULE_NUMBERS: Final = 96_000
STEP: Final = 0.2
"""How far a client goes, beside the size of the start's factors."""


MOST_FILES: Final = 250
"""Files of a round; one of 1000 updates reads each for four of them, so that a disk's speed is not what is measured."""


@final
@dataclass(frozen=True, slots=True)
class Kind:
    """What every update of a round is like."""

    only_b: bool
    hostile: float = 0.2
    """Share of clients that go five times as far the other way."""

    @property
    def rank(self) -> int:
        """Rank of every module."""
        return 32 if self.only_b else 16

    def name(self) -> str:
        """Return the folder's name."""
        return f"{'one-factor' if self.only_b else 'both-factors'}-{round(100 * self.hostile)}-hostile"


def drawn(role: str, name: str, rank: int) -> tuple[Array, Array]:
    """Return Gaussian factors (3000, r) and (r, 3000), the same in every process."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{role}/{name}".encode()).digest()[:8]))
    b = rng.standard_normal((SIDE, rank), dtype=np.float32)
    return b, rng.standard_normal((rank, SIDE), dtype=np.float32)


@cache
def common_of(name: str, rank: int) -> tuple[Array, Array]:
    """Return the direction in which all clients move one module."""
    return drawn("common", name, rank)


@cache
def start_of(name: str, rank: int) -> LowRank:
    """Return the start of one module, the same for all."""
    b, a = drawn("start", name, rank)
    fall = np.linspace(1, 0.1, rank, dtype=np.float32)
    return LowRank(b * fall / np.float32(SIDE**0.5), a / np.float32(SIDE**0.5), SCALE)


def trained(kind: Kind, client: int, clients: int) -> bytes:
    """Return the bytes of one client's update: B and, where it is trained, A of every module."""
    own = np.random.default_rng([client, clients])
    fall = np.geomspace(1, 0.05, kind.rank, dtype=np.float32)
    size = np.float32(STEP / SIDE**0.5 * (-5 if client < kind.hostile * clients else 1))
    parts = []
    for name in NAMES:
        start = start_of(name, kind.rank)
        b, a = common_of(name, kind.rank)
        moved = b * fall + own.standard_normal(b.shape, dtype=np.float32)
        parts.append((start.b + size * moved).tobytes())
        if not kind.only_b:
            moved = a * fall[:, None] + own.standard_normal(a.shape, dtype=np.float32)
            parts.append((start.a + size * moved).tobytes())
    return b"".join(parts)


def written(folder: Path, kind: Kind, clients: int) -> list[Path]:
    """Return the file of each client of a round, written unless it is there; a large round has each four times."""
    place = folder / kind.name() / str(clients)
    place.mkdir(parents=True, exist_ok=True)
    count = min(clients, MOST_FILES)
    paths = [place / f"{client:04d}.f32" for client in range(count)]
    for client, path in enumerate(paths):
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(trained(kind, client, count))
            part.rename(path)
    return [paths[client % count] for client in range(clients)]


def read(path: Path, kind: Kind, name: str) -> LowRank:
    """Return one trained module from its file."""
    file = os.open(path, os.O_RDONLY)
    try:
        numbers = np.frombuffer(os.pread(file, 4 * MODULE_NUMBERS, 4 * MODULE_NUMBERS * NAMES.index(name)), np.float32)
    finally:
        os.close(file)
    b = numbers[: SIDE * kind.rank].reshape(SIDE, kind.rank)
    a = start_of(name, kind.rank).a if kind.only_b else numbers[SIDE * kind.rank :].reshape(kind.rank, SIDE)
    return LowRank(b, a, SCALE)


def opened(paths: tuple[Path, ...], kind: Kind, place: int) -> Update:
    """Return one update, which reads a module when it is asked for one."""
    key = hashlib.sha256(f"{place}/{len(paths)}".encode()).digest()
    start = Parts(SHARED, partial(_start, kind.rank))
    return Update(Parts(SHARED, partial(read, paths[place], kind)), start, examples=1 + place % 7, key=key)


def stored(paths: list[Path], kind: Kind) -> StoredUpdates:
    """Return a round that lies on the disk."""
    return StoredUpdates(len(paths), partial(opened, tuple(paths), kind))


def held(update: Update) -> Update:
    """Return an update with all its modules in memory."""
    return Update(dict(update.trained), dict(update.start), update.examples, key=update.key)


def _start(rank: int, name: str) -> LowRank:
    return start_of(name, rank)
