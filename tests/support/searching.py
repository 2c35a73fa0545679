"""Looking for bytes in everything that a process has: its memory, and the files below a folder."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

PIECE = 1 << 24
WINDOW = 6
"""Numbers in a row that identify an update: of 2¹⁶ values each, nobody else has them."""


def needles(steps: Mapping[str, np.ndarray], step: float) -> Iterator[bytes]:
    """Yield bytes by which an update is known, in every spelling that it could have, from several of its places."""
    flat = np.concatenate([steps[name].ravel() for name in sorted(steps)])
    for begin in range(0, len(flat) - WINDOW, WINDOW):
        some = flat[begin : begin + WINDOW]
        words = some.astype("<i4")
        yield words.tobytes()
        yield words.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()  # packed to 24 bits
        yield some.astype("<i8").tobytes()
        for dtype in ("<f2", "<f4", "<f8"):
            yield (some * step).astype(dtype).tobytes()


def memory_of(pid: int) -> Iterator[bytes]:
    """Yield all memory of a process that it can write to, in pieces that overlap; nothing on systems without /proc."""
    if not sys.platform.startswith("linux"):
        return
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found is None or line.endswith("[vvar]"):
                continue
            place, end = int(found[1], 16), int(found[2], 16)
            while place < end:
                try:
                    memory.seek(place)
                    yield memory.read(min(PIECE, end - place))
                except OSError:  # given back meanwhile
                    break
                place += PIECE - 4096


def files_of(folder: Path) -> Iterator[bytes]:
    """Yield the content of every file below *folder*."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes()


def telling(four: bytes) -> tuple[int, int]:
    """Return how much the first two of four bytes say, and then all of them: memory is full of 00 and FF."""
    return len(set(four[:2]) - {0, 255}), len(set(four) - {0, 255})


def found(wanted: Iterable[bytes], haystacks: Iterator[bytes]) -> set[bytes]:
    """Return which of *wanted* are anywhere in *haystacks*.

    Four telling bytes of each are looked for at every place at once, and where they are, the rest is compared.
    """
    anchors: dict[bytes, list[tuple[int, bytes]]] = {}
    for needle in wanted:
        place = max(range(len(needle) - 3), key=lambda at: telling(needle[at : at + 4]))
        anchors.setdefault(needle[place : place + 4], []).append((place, needle))
    first, second = np.zeros(1 << 16, bool), np.zeros(1 << 16, bool)
    for anchor in anchors:
        first[int.from_bytes(anchor[:2], "little")] = second[int.from_bytes(anchor[2:], "little")] = True
    result: set[bytes] = set()
    for hay in haystacks:
        for shift in (0, 1):
            pairs = np.frombuffer(hay, "<u2", count=max(0, (len(hay) - shift) // 2), offset=min(shift, len(hay)))
            for pair in np.flatnonzero(first[pairs[:-1]] & second[pairs[1:]]):
                at = 2 * int(pair) + shift
                for place, needle in anchors.get(hay[at : at + 4], ()):
                    if at >= place and hay.startswith(needle, at - place):
                        result.add(needle)
    return result
