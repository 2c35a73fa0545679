"""A volunteer that follows a script: the real stubs over the real TLS, fixed deltas, no torch."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.aggregation import CODECS, LowRank, decode, deltas, encode, from_tensors, start
from potluck.coordinator.checkpoints import TRUSTED
from potluck.wire.channels import PROTOCOL, pinned_channel
from potluck.wire.chunks import CHUNK_BYTES, crc32
from potluck.wire.envelopes import Purpose, opened, peer_id, public_bytes, sign
from potluck.wire.invites import Invitation, read
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal, refusal_of
from potluck.wire.tensors import Manifest
from potluck.wire.v1 import (
    blobs_pb2,
    blobs_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    work_pb2,
    work_pb2_grpc,
)
from potluck.wire.v1.envelope_pb2 import Blob, Envelope, Protocol

DEADLINE_S = 20.0
SPOKEN = Protocol(oldest=PROTOCOL, newest=PROTOCOL, software="scripted")
MODULES = {"model.layers.0.self_attn.q_proj": [16, 12], "model.layers.1.self_attn.q_proj": [16, 12]}
R = TypeVar("R")


def recipe(**tables: Mapping[str, object]) -> Recipe:
    """Return a small recipe: two modules of 16 × 12, rank 2, three updates a round, quick polls."""
    whole: dict[str, dict[str, object]] = {
        "run": {"name": "small", "purpose": "to be tested"},
        "model": {"base": "nobody/nothing", "digest": "ab" * 32, "licence": "MIT", "modules": MODULES},
        "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj"]},
        "aggregation": {"cohort": 3, "minimum": 2, "deadline_s": 60.0, "weights": ["examples", "staleness"]},
        "codec": {"name": "fp32"},
        "limits": {"poll_min_s": 0.02, "poll_max_s": 1.0, "lease_s": 60.0},
    }
    for name, table in tables.items():
        whole[name] = whole.get(name, {}) | dict(table)

    return Recipe.parse(json.dumps(whole))


@dataclass
class Volunteer:
    """One client with a key of its own; *seed* decides all its deltas."""

    token: str
    seed: int = 0
    name: str = ""
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    boot_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    seqno: int = 0
    recipe: Recipe | None = None
    _channel: grpc.Channel | None = None

    @property
    def invitation(self) -> Invitation:
        return read(self.token)

    @property
    def client_id(self) -> str:
        return peer_id(public_bytes(self.key))

    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = pinned_channel(self.invitation.addresses[0], self.invitation)
        return self._channel

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def signed(self, purpose: Purpose, message: object) -> Envelope:
        return sign(self.key, purpose, self.invitation.coordinator_id, message)  # type: ignore[arg-type]

    # -- one method a call --------------------------------------------------------------------------------------

    def about(self) -> enrollment_pb2.AboutReply:
        stub = enrollment_pb2_grpc.EnrollmentStub(self.channel())
        return called(stub.About, enrollment_pb2.AboutRequest(invite=self.token, protocol=SPOKEN))

    def enroll(self, *, recipe_digest: bytes | None = None) -> enrollment_pb2.EnrollReply:
        if self.recipe is None and recipe_digest is None:
            self.recipe = Recipe.parse(self.about().recipe_json)
        digest = recipe_digest if recipe_digest is not None else self.recipe.digest()  # type: ignore[union-attr]
        request = enrollment_pb2.EnrollRequest(invite=self.token, name=self.name, recipe_digest=digest, protocol=SPOKEN)
        stub = enrollment_pb2_grpc.EnrollmentStub(self.channel())
        return called(stub.Enroll, self.signed(Purpose.ENROLL, request))

    def leave(self) -> enrollment_pb2.LeaveReply:
        stub = enrollment_pb2_grpc.EnrollmentStub(self.channel())
        request = enrollment_pb2.LeaveRequest(run_id=self.invitation.run_id)
        return called(stub.Leave, self.signed(Purpose.LEAVE, request))

    def check_in_request(
        self, held: Mapping[bytes, int] | None = None, *, wants_work: bool = True
    ) -> work_pb2.CheckInRequest:
        self.seqno += 1
        return work_pb2.CheckInRequest(
            run_id=self.invitation.run_id,
            boot_id=self.boot_id,
            seqno=self.seqno,
            protocol=SPOKEN,
            held=[work_pb2.Held(lease_id=key, state=state) for key, state in (held or {}).items()],  # type: ignore[arg-type]
            recipe_digest=self.recipe.digest() if self.recipe else b"",
            examples=8,
            wants_work=wants_work,
        )

    def check_in(self, held: Mapping[bytes, int] | None = None, *, wants_work: bool = True) -> work_pb2.CheckInReply:
        return self.send_check_in(self.check_in_request(held, wants_work=wants_work))

    def send_check_in(self, request: work_pb2.CheckInRequest) -> work_pb2.CheckInReply:
        return called(work_pb2_grpc.WorkStub(self.channel()).CheckIn, self.signed(Purpose.CHECKIN, request))

    def lease(self) -> work_pb2.Lease:
        """Check in once; the answer must be a lease."""
        reply = self.check_in()
        assert reply.WhichOneof("answer") == "lease", reply
        return reply.lease

    def renew(self, lease_id: bytes) -> work_pb2.RenewReply:
        request = work_pb2.RenewRequest(lease_id=lease_id, state=work_pb2.TASK_STATE_TRAINING)
        return called(work_pb2_grpc.WorkStub(self.channel()).Renew, self.signed(Purpose.RENEW, request))

    def abort(self, lease_id: bytes) -> work_pb2.AbortReply:
        request = work_pb2.AbortRequest(lease_id=lease_id, reason="because")
        return called(work_pb2_grpc.WorkStub(self.channel()).Abort, self.signed(Purpose.ABORT, request))

    def offer(self, lease_id: bytes, data: bytes, *, size: int | None = None) -> work_pb2.OfferReply:
        blob = Blob(digest=sha256(data).digest(), size=len(data) if size is None else size)
        request = work_pb2.OfferRequest(lease_id=lease_id, update=blob, examples=8)
        return called(work_pb2_grpc.WorkStub(self.channel()).Offer, self.signed(Purpose.OFFER, request))

    def write(self, upload_id: bytes, offset: int, data: bytes, *, crc: int | None = None) -> blobs_pb2.WriteReply:
        request = blobs_pb2.WriteRequest(
            upload_id=upload_id, offset=offset, data=data, crc32=crc32(data) if crc is None else crc
        )
        return called(blobs_pb2_grpc.BlobsStub(self.channel()).Write, request)

    def stat(self, upload_id: bytes) -> blobs_pb2.WriteReply:
        return called(blobs_pb2_grpc.BlobsStub(self.channel()).Stat, blobs_pb2.StatRequest(upload_id=upload_id))

    def read(self, digest: bytes, offset: int = 0, limit: int = CHUNK_BYTES) -> blobs_pb2.ReadReply:
        request = blobs_pb2.ReadRequest(digest=digest, offset=offset, limit=limit)
        return called(blobs_pb2_grpc.BlobsStub(self.channel()).Read, self.signed(Purpose.READ, request))

    def submit_request(
        self, lease_id: bytes, data: bytes, *, examples: int = 8, version: int = 0
    ) -> work_pb2.SubmitRequest:
        assert self.recipe is not None
        manifest = Manifest.of(self.recipe, version)
        return work_pb2.SubmitRequest(
            lease_id=lease_id,
            update=Blob(digest=sha256(data).digest(), size=len(data)),
            manifest_digest=manifest.digest(),
            examples=examples,
            steps=3,
            tokens=100,
            loss_before=2.0,
            loss_after=1.5,
        )

    def submit(self, lease_id: bytes, data: bytes, *, examples: int = 8, version: int = 0) -> work_pb2.SubmitReply:
        return self.send_submit(self.submit_request(lease_id, data, examples=examples, version=version))

    def send_submit(self, request: work_pb2.SubmitRequest) -> work_pb2.SubmitReply:
        return called(work_pb2_grpc.WorkStub(self.channel()).Submit, self.signed(Purpose.SUBMIT, request))

    # -- whole stretches of the way -----------------------------------------------------------------------------

    def fetch(self, blob: Blob) -> bytes:
        """Download an adapter and check its digest."""
        data = b""
        while len(data) < blob.size:
            reply = self.read(blob.digest, len(data))
            assert crc32(reply.data) == reply.crc32
            data += reply.data
        assert sha256(data).digest() == blob.digest
        return data

    def started(self, lease: work_pb2.Lease) -> Mapping[str, LowRank]:
        """Return the start of *lease*, from its downloaded adapter."""
        assert self.recipe is not None
        adapter = self.recipe.adapter
        data = self.fetch(lease.adapter) if lease.adapter.digest else None
        published = {} if data is None else from_tensors(decode(data, limits=TRUSTED))
        return start(
            published,
            self.recipe.modules(),
            init=self.recipe.init,
            rank=adapter.rank,
            scale=adapter.scale,
            seed=lease.seed,
        ).trainable

    def train(self, lease: work_pb2.Lease) -> bytes:
        """Return the encoded update of *lease*: drawn from (seed, version), so the same each time."""
        assert self.recipe is not None
        before = self.started(lease)
        rng = np.random.default_rng([self.seed, lease.version])
        moves = self.recipe.moves(lease.version)
        after = {
            name: LowRank(
                term.b + rng.normal(size=term.b.shape).astype(np.float32) * np.float32(0.1 if moves != "a" else 0),
                term.a + rng.normal(size=term.a.shape).astype(np.float32) * np.float32(0.1 if moves != "b" else 0),
                term.scale,
            )
            for name, term in sorted(before.items())
        }
        return self.recipe.codec.choose(tuple(CODECS)).encode(deltas(after, before, moves))

    def upload(self, reply: work_pb2.OfferReply, data: bytes, *, chunk: int = CHUNK_BYTES) -> None:
        """Send what is missing of *data*."""
        offset = reply.committed_size
        while offset < len(data):
            offset = self.write(reply.upload_id, offset, data[offset : offset + chunk]).committed_size

    def deliver(self, lease: work_pb2.Lease, data: bytes | None = None, *, examples: int = 8) -> work_pb2.SubmitReply:
        """Train, offer, upload and submit."""
        data = self.train(lease) if data is None else data
        offered = self.offer(lease.lease_id, data)
        if offered.verdict == work_pb2.OFFER_VERDICT_NOT_WANTED:
            return work_pb2.SubmitReply(verdict=work_pb2.VERDICT_TOO_LATE, receipt=offered.receipt)
        self.upload(offered, data)
        return self.submit(lease.lease_id, data, examples=examples, version=lease.version)

    def contribute(self, *, examples: int = 8) -> work_pb2.SubmitReply:
        """Get a lease and deliver."""
        return self.deliver(self.lease(), examples=examples)

    def receipt(self, reply: work_pb2.SubmitReply) -> work_pb2.Receipt:
        """Return the receipt in *reply*, verified against the pinned key."""
        invitation = self.invitation
        return opened(
            reply.receipt,
            Purpose.RECEIPT,
            invitation.coordinator_id,
            work_pb2.Receipt,
            signer=invitation.coordinator_key,
        )

    # -- stubborn: what a real client does across a restart of the coordinator ------------------------------------

    def stubbornly(self, call: Callable[[], R], deadline_s: float = DEADLINE_S) -> R:
        """Repeat *call* until it works; give up on refusals that cannot pass."""
        for _ in attempts(deadline_s):
            try:
                return call()
            except Refusal as refusal:
                if not refusal.retryable:
                    raise
                self.close()
        raise TimeoutError(f"volunteer {self.seed} got no answer for {deadline_s} s")

    def contribute_stubbornly(self, version: int, times: float = 1.0) -> work_pb2.Receipt:
        """Deliver one update that started from *version*, whatever happens to the coordinator meanwhile.

        What was trained is sent *times* as large.
        """
        lease = None
        for _ in attempts(DEADLINE_S):
            reply = self.stubbornly(self.check_in)
            if reply.WhichOneof("answer") == "lease" and reply.lease.version == version:
                lease = reply.lease
                break
        assert lease is not None, reply
        data = self.stubbornly(lambda: self.train(lease))
        if times != 1:
            data = enlarged(data, times)

        def send() -> work_pb2.SubmitReply:
            offered = self.offer(lease.lease_id, data)
            if offered.verdict != work_pb2.OFFER_VERDICT_HAVE_IT:
                self.upload(offered, data, chunk=1_000)
            return self.submit(lease.lease_id, data, examples=8 + self.seed, version=version)

        return self.receipt(self.stubbornly(send))


def enlarged(data: bytes, times: float) -> bytes:
    """Return an encoded update whose every number is *times* as large."""
    return encode({name: np.float32(times) * value for name, value in decode(data, limits=TRUSTED).items()}, "fp32")


def attempts(deadline_s: float) -> Iterator[int]:
    """Yield 0, 1, 2, … with short pauses between, until *deadline_s* seconds have passed."""
    end, n = time.monotonic() + deadline_s, 0
    while time.monotonic() < end:
        yield n
        n += 1
        time.sleep(0.02)  # another process has to do something; there is no event to wait for


def called(method: Callable[..., R], request: object) -> R:
    """Call a stub's method; raise the Refusal that a failed call means."""
    try:
        return method(request, timeout=DEADLINE_S)
    except grpc.RpcError as error:
        raise refusal_of(error) from None
