"""Blobs in both directions, in chunks that each stand alone: a break costs at most the chunk that was under way."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, final

from potluck.client.clock import Clock
from potluck.client.errors import DiskFull, WrongDigest
from potluck.client.home import NO_ROOM, settle
from potluck.client.identity import Identity
from potluck.client.link import READ, STAT, WRITE, Link
from potluck.wire.chunks import CHUNK_BYTES, crc32
from potluck.wire.envelopes import Purpose, sign
from potluck.wire.refusals import Refusal
from potluck.wire.v1.blobs_pb2 import ReadRequest, StatRequest, WriteRequest

SLOW_S: Final = 10.0  # a chunk that takes longer is halved next time: the coordinator sees whole messages only
QUICK_S: Final = 2.0
SMALLEST_BYTES: Final = 16 * 1024

OnBytes = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@final
class Transfers:
    """Downloads and uploads over one link.  A call that breaks is not tried again here: call again, and it goes on."""

    def __init__(self, link: Link, identity: Identity, clock: Clock) -> None:
        self._link = link
        self._identity = identity
        self._clock = clock
        self._chunk_bytes = CHUNK_BYTES

    def fetch(self, digest: bytes, size: int, path: Path, on_bytes: OnBytes) -> None:
        """Put the blob called *digest*, of *size* bytes, at *path*; go on where an earlier try stopped.

        Raises:
            DiskFull: no room; what is here is kept for the next try.
            WrongDigest: what arrived is not what was asked for; it is removed.
            Refusal: the coordinator has no such blob, or the network broke.
        """
        if path.exists():
            return  # it was verified before it got its name
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("ab") as file:
                got = self._read_rest(file.fileno(), partial, (digest, size), on_bytes)
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DiskFull(
                f"no room for {size / 1e6:.1f} MB at {path.parent}; {partial.stat().st_size / 1e6:.1f} MB are kept",
                fix="make room; the download goes on where it stopped",
            ) from None
        if got != digest:
            partial.unlink()
            raise WrongDigest(
                f"the blob {digest.hex()[:12]}… arrived as {got.hex()[:12]}…",
                fix="it is downloaded again; if it stays, tell the operator",
            )
        settle(partial, path)

    def _read_rest(self, file: int, partial: Path, blob: tuple[bytes, int], on_bytes: OnBytes) -> bytes:
        """Append what is missing to *file*; return the SHA-256 of the whole."""
        digest, size = blob
        if partial.stat().st_size > size:
            os.ftruncate(file, 0)
        with partial.open("rb") as before:
            running = hashlib.file_digest(before, "sha256")
        offset = partial.stat().st_size
        while offset < size:
            request = ReadRequest(digest=digest, offset=offset, limit=min(CHUNK_BYTES, size - offset))
            audience = self._link.invitation.coordinator_id
            reply = self._link.call(READ, sign(self._identity.key, Purpose.READ, audience, request))
            if not 0 < len(reply.data) <= request.limit or crc32(reply.data) != reply.crc32 or reply.size != size:
                raise Refusal(f"the chunk at {offset} arrived torn", code="wrong_chunk")
            _write_all(file, reply.data)
            running.update(reply.data)
            offset += len(reply.data)
            on_bytes(offset, size)
        return running.digest()

    def upload(self, upload_id: bytes, path: Path, on_bytes: OnBytes) -> None:
        """Send the file at *path* from where the coordinator's committed size is, until it holds all of it.

        Raises:
            Refusal: the coordinator does not know the upload (any more) or does not want it, or the network broke.
        """
        with path.open("rb") as file:
            self.send(upload_id, file, path.stat().st_size, on_bytes)

    def send(self, upload_id: bytes, file: BinaryIO, size: int, on_bytes: OnBytes) -> None:
        """Send the *size* bytes of an open *file*; raises as upload does."""
        # After a break the last chunk may have arrived although its answer did not: ask, and go on from there.
        reply = self._link.call(STAT, StatRequest(upload_id=upload_id))
        while not reply.complete:
            offset = reply.committed_size
            file.seek(offset)
            data = file.read(self._chunk_bytes)
            if not data:
                raise Refusal(f"{offset} bytes are there, and {size} were to be sent", code="wrong_digest")
            request = WriteRequest(upload_id=upload_id, offset=offset, data=data, crc32=crc32(data))
            started_s = self._clock.monotonic_s()
            try:
                reply = self._link.call(WRITE, request)
            finally:  # after a failure too: the link may be too slow for a chunk of this size
                self._chunk_bytes = fitting(self._chunk_bytes, self._clock.monotonic_s() - started_s)
            on_bytes(reply.committed_size, size)


def fitting(chunk_bytes: int, took_s: float) -> int:
    """Return the size of the next chunk, given how long the last one took."""
    if took_s > SLOW_S:
        return max(SMALLEST_BYTES, chunk_bytes // 2)
    return min(CHUNK_BYTES, chunk_bytes * 2) if took_s < QUICK_S else chunk_bytes


def _write_all(file: int, data: bytes) -> None:
    """Write all of *data*; a short write is not an error to the system."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
