"""Disks that are really full: a small tmpfs where this user may mount one, a limit on file sizes everywhere.

Both make the kernel refuse the write itself (ENOSPC and EFBIG), so nothing of ours is replaced.
"""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BALLAST = "ballast"


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of *size_bytes* on *folder*."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], check=True)  # noqa: S607
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


def may_mount(folder: Path) -> bool:
    """Whether this user may mount a tmpfs."""
    try:
        with small_disk(folder, 4096):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    finally:
        folder.rmdir()


@dataclass(frozen=True)
class Ballast:
    """A file that takes all the room that is left, but for some."""

    folder: Path

    def fill(self, but_bytes: int = 0) -> None:
        """Leave *but_bytes* of room."""
        with (self.folder / BALLAST).open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                file.truncate(max(0, file.tell() - but_bytes))

    def empty(self) -> None:
        """Give the room back."""
        (self.folder / BALLAST).unlink()


class Limit:
    """A limit on the size of every file that this process writes: beyond it the kernel answers EFBIG."""

    def __init__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, but_bytes: int = 0) -> None:
        """Let no file grow above *but_bytes*, or 8 KiB."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(8_192, but_bytes), self.before[1]))

    def empty(self) -> None:
        """Take the limit away."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow above *size_bytes*."""
    limit = Limit()
    limit.fill(size_bytes)
    try:
        yield
    finally:
        limit.empty()
