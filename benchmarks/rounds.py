"""Rounds on a disk for benchmarks: many updates of 4.6 million numbers, one file each, read module by module.

48 modules of 3000 × 3000 at rank 16: 96 arrays, 4,608,000 float32, 18.4 MB.  The same files serve every side.
Clients of a round agree in part: each moves along a common direction, with singular values that fall off, and along
one of its own of about the same size.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from potluck.aggregation import LowRank, Parts, StoredUpdates, Update

MODULES: Final = 48
SIDE: Final = 3000
RANK: Final = 16
SCALE: Final = 2.0
NAMES: Final = tuple(f"layer{n:02d}" for n in range(MODULES))
NUMBERS: Final = SIDE * RANK
FACTOR_BYTES: Final = 4 * NUMBERS
OUTLIERS: Final = 0.2
"""Share of the updates that flip their sign and are five times as long."""


def start_of(name: str) -> LowRank:
    """Return the start of one module, the same for all."""
    rng = np.random.default_rng(seed_of("start", name))
    fall = np.linspace(1, 0.1, RANK, dtype=np.float32)
    b = rng.standard_normal((SIDE, RANK), dtype=np.float32) * fall / np.float32(SIDE**0.5)
    a = rng.standard_normal((RANK, SIDE), dtype=np.float32) / np.float32(SIDE**0.5)
    return LowRank(b, a, SCALE)


def trained_of(name: str, client: int, clients: int, *, only_b: bool) -> LowRank:
    """Return one module as one client trained it."""
    start = start_of(name)
    common = np.random.default_rng(seed_of("common", name))
    own = np.random.default_rng(seed_of("own", name, client))
    hostile = client < OUTLIERS * clients
    fall = np.geomspace(1, 0.05, RANK, dtype=np.float32)
    size = np.float32(0.2 / SIDE**0.5 * (-5 if hostile else 1))
    b = common.standard_normal((SIDE, RANK), dtype=np.float32) * fall + own.standard_normal((SIDE, RANK), dtype=np.float32)
    a = common.standard_normal((RANK, SIDE), dtype=np.float32) * fall[:, None] + own.standard_normal(
        (RANK, SIDE), dtype=np.float32
    )
    return LowRank(start.b + size * b, start.a if only_b else start.a + size * a, SCALE)


def seed_of(*parts: object) -> int:
    """Return a seed from what it is for."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8])


def written(folder: Path, clients: int, *, only_b: bool) -> list[Path]:
    """Return the files of a round, written unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for client in range(clients):
        path = folder / f"{client:04d}-of-{clients}{'-b' if only_b else ''}.f32"
        if not path.exists():
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                for name in NAMES:
                    term = trained_of(name, client, clients, only_b=only_b)
                    file.write(term.b.tobytes() + term.a.tobytes())
            part.rename(path)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Files:
    """Opens updates from their files; small enough to send to another process."""

    paths: tuple[Path, ...]

    def __call__(self, place: int) -> Update:
        """Return one update, which reads a module when it is asked for one."""
        path = self.paths[place]
        key = hashlib.sha256(path.name.encode()).digest()
        return Update(Parts(NAMES, lambda name: read(path, name)), STARTS, examples=1 + place % 7, key=key)


def read(path: Path, name: str) -> LowRank:
    """Return one trained module from its file."""
    file = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(file, 2 * FACTOR_BYTES, 2 * FACTOR_BYTES * NAMES.index(name))
    finally:
        os.close(file)
    b = np.frombuffer(data, np.float32, NUMBERS).reshape(SIDE, RANK)
    a = np.frombuffer(data, np.float32, NUMBERS, offset=FACTOR_BYTES).reshape(RANK, SIDE)
    return LowRank(b, a, SCALE)


class Starts(dict[str, LowRank]):
    """The starts of all modules; one module is held at a time."""


STARTS: Final = {name: start_of(name) for name in NAMES}


def stored(paths: list[Path]) -> StoredUpdates:
    """Return a round that lies on the disk."""
    return StoredUpdates(len(paths), Files(tuple(paths)))
