"""Bytes on disk: whole blobs named by their SHA-256, and uploads that are on their way to become one.

A blob is written to a temporary name, fsynced, renamed to its digest, and its folder fsynced: it is there whole or not
at all.  The state of an upload is the length of its file and nothing else, so any call may end at any byte.
"""

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from potluck.wire.refusals import Refusal

_PIECE: Final = 1024 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PRIVATE: Final = 0o600
_STRIPES: Final = 64


@final
@dataclass(frozen=True, slots=True)
class BlobFolder:
    """Whole blobs in a folder of their own."""

    root: Path

    def prepare(self) -> None:
        """Make the folder, and clear away what a crash left half-written."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self.root.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def path(self, digest: bytes) -> Path:
        """Return where the blob called *digest* is, or would be."""
        return self.root / digest.hex()

    def size(self, digest: bytes) -> int | None:
        """Return the blob's size in bytes, or None if it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def put(self, data: bytes, *, on_written: Callable[[], None] = lambda: None) -> bytes:
        """Store *data* and return its digest; nothing is written where it is here already.

        *on_written* is called when the bytes are safe under their temporary name, before they get their own.

        Raises:
            Refusal: the disk is full; nothing is left behind.
        """
        digest = hashlib.sha256(data).digest()
        if self.size(digest) == len(data):
            return digest
        temporary = self.root / f"{digest.hex()}.{secrets.token_hex(4)}.tmp"
        try:
            with room(), open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "wb") as file:  # noqa: PTH123 - of a descriptor
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            on_written()
            with room():
                self.adopt(temporary, digest)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return digest

    def adopt(self, path: Path, digest: bytes) -> None:
        """Give the fsynced file at *path* its name; from here on it is a blob, also after a power cut."""
        path.replace(self.path(digest))
        sync_folder(self.root)

    def read(self, digest: bytes, offset: int = 0, limit: int = -1) -> bytes:
        """Return at most *limit* bytes from *offset* on, or all.

        Raises:
            Refusal: there is no such blob.
        """
        try:
            with self.path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            raise Refusal(
                f"there is no blob {digest.hex()[:16]}… here", code="no_blob", fix="check in again for a current one"
            ) from None

    def delete(self, digests: Iterable[bytes]) -> None:
        """Remove blobs; one that is gone already is fine."""
        for digest in digests:
            self.path(digest).unlink(missing_ok=True)

    def all(self) -> frozenset[bytes]:
        """Return the digests of all blobs here."""
        return frozenset(bytes.fromhex(path.name) for path in self.root.iterdir() if len(path.name) == 64)  # noqa: PLR2004 - hex of 32 bytes


@final
@dataclass(frozen=True, slots=True)
class Partials:
    """Uploads on their way: one file each, appended to at its end only."""

    root: Path
    _locks: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(_STRIPES)), init=False, repr=False
    )

    def prepare(self) -> None:
        """Make the folder."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, upload_id: bytes) -> Path:
        """Return where the bytes of an upload gather."""
        return self.root / upload_id.hex()

    def committed(self, upload_id: bytes) -> int:
        """Return how many bytes of an upload are here."""
        try:
            return self.path(upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, upload_id: bytes, offset: int, data: bytes, *, size: int) -> int:
        """Write *data* at *offset*, which must be the committed size; return the new one.

        A chunk that is here already is not written again: its answer was lost.

        Raises:
            Refusal: the chunk leaves a gap or overlaps, would grow the upload above *size*, or the disk is full.
        """
        with self._lock(upload_id):
            committed = self.committed(upload_id)
            if offset + len(data) > size:
                raise Refusal(
                    f"bytes {offset} to {offset + len(data)} of an upload of {size}",
                    code="too_large",
                    fix="send what was offered, not more",
                )
            if offset + len(data) <= committed:
                return committed
            if offset != committed:
                raise Refusal(
                    f"a chunk for offset {offset}, and {committed} bytes are here",
                    code="wrong_offset",
                    fix=f"go on at offset {committed}",
                )
            with room():
                self._write(upload_id, offset, data)
            return offset + len(data)

    def _write(self, upload_id: bytes, offset: int, data: bytes) -> None:
        """Append, or leave the file as long as it was."""
        descriptor = os.open(self.path(upload_id), os.O_WRONLY | os.O_CREAT, _PRIVATE)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.pwrite(descriptor, rest, offset + len(data) - len(rest)) :]
        except OSError:
            os.ftruncate(descriptor, offset)
            raise
        finally:
            os.close(descriptor)

    def complete(self, upload_id: bytes, digest: bytes, spool: BlobFolder) -> None:
        """Move a whole upload into *spool* as the blob called *digest*, fsynced.

        Raises:
            Refusal: its bytes are not the ones that were offered; they are dropped, and sending may begin again.
        """
        with self._lock(upload_id):
            path = self.path(upload_id)
            if not path.exists() and spool.size(digest) is not None:
                return  # a second thread was first
            if _sha256(path) != digest:
                path.unlink()
                raise Refusal(
                    f"the bytes of upload {upload_id.hex()[:16]}… are not the ones that were offered",
                    code="wrong_digest",
                    fix="send them again from offset 0",
                )
            with room():
                sync_file(path)
                spool.adopt(path, digest)

    def drop(self, upload_id: bytes) -> None:
        """Forget an upload's bytes."""
        with self._lock(upload_id):
            self.path(upload_id).unlink(missing_ok=True)

    def sweep(self, keep: Iterable[bytes]) -> None:
        """Forget the bytes of every upload but those in *keep*."""
        names = {upload_id.hex() for upload_id in keep}
        for path in self.root.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _lock(self, upload_id: bytes) -> threading.Lock:
        return self._locks[upload_id[0] % _STRIPES]


@contextmanager
def room() -> Iterator[None]:
    """Turn a full disk into a refusal that a client may try again after."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Refusal(
            f"the coordinator's disk is full: {error.strerror}",
            code="disk_full",
            fix="the operator has to make room; what was sent is kept, try again later",
            retry_in_s=30,
        ) from error


def sync_file(path: Path) -> None:
    """Make the bytes of a file safe from a power cut."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* safe from a power cut, where the system can (Windows cannot open a folder)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file, read in pieces."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total.update(piece)
    return total.digest()
