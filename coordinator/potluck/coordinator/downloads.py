"""Adapters on their way out."""

from dataclasses import dataclass
from typing import final

from potluck.coordinator.membership import member_of
from potluck.coordinator.site import Site
from potluck.coordinator.traffic import Traffic
from potluck.wire.chunks import CHUNK_BYTES, crc32
from potluck.wire.envelopes import Purpose, opened, peer_id
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import blobs_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope


@final
@dataclass(frozen=True, slots=True)
class Downloads:
    """Answers read."""

    site: Site
    traffic: Traffic

    def read(self, envelope: Envelope) -> pb.ReadReply:
        """Return one chunk of a version's adapter; nothing else is given out, least of all an update.

        Raises:
            Refusal: it is no member, no version has that adapter, or the offset lies behind its end.
        """
        request = opened(envelope, Purpose.READ, self.site.keys.coordinator_id, pb.ReadRequest)
        with self.site.store.reading() as books:
            member_of(books, peer_id(envelope.signer))
            known = bool(request.digest) and books.versions.publishes(request.digest)
        size = self.site.folders.blobs.size(request.digest) if known else None
        if size is None:
            raise Refusal(
                f"no version has the adapter {request.digest.hex()[:32]}",
                code="no_blob",
                fix="check in for a current one",
            )
        if request.offset >= size:
            raise Refusal(f"offset {request.offset} of {size}", code="wrong_offset", fix="begin again at offset 0")
        limit = min(request.limit or CHUNK_BYTES, CHUNK_BYTES)
        data = self.site.folders.blobs.read(request.digest, request.offset, limit)
        self.traffic.sent(len(data))
        return pb.ReadReply(data=data, crc32=crc32(data), size=size)
