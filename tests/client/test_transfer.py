"""Transfers against a real coordinator over TLS, with a proxy between them that breaks connections."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from chaos import Chaos, chaos
from coordinators import Hosted, hosting
from potluck.client.clock import SystemClock
from potluck.client.errors import DiskFull, WrongDigest
from potluck.client.identity import Identity
from potluck.client.link import Alone, Link
from potluck.client.transfer import SMALLEST_BYTES, Transfers, fitting
from potluck.wire import invites
from potluck.wire.chunks import CHUNK_BYTES
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from potluck.wire.v1.work_pb2 import VERDICT_ACCEPTED
from scripted import Volunteer, recipe

WIDE = {"model.layers.0.self_attn.q_proj": [65_536, 8_192]}


@dataclass
class Rig:
    """One volunteer, reached through a proxy, and the client's transfers beside it."""

    volunteer: Volunteer
    link: Link
    transfers: Transfers
    proxy: Chaos


def wide(cohort: int) -> Recipe:
    """Return a recipe whose updates hold 16 × (65536 + 8192) float32 numbers: 4.7 MB, five chunks."""
    return recipe(
        model={"modules": WIDE},
        adapter={"rank": 16},
        aggregation={"cohort": cohort, "minimum": 1, "master_rank": 16},
    )


@pytest.fixture(scope="module")
def filling(tmp_path_factory):
    """A coordinator whose round takes more updates than this file makes."""
    with hosting(tmp_path_factory.mktemp("filling"), wide(cohort=100)) as made:
        yield made


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A coordinator that has made a version."""
    with hosting(tmp_path_factory.mktemp("published"), wide(cohort=1)) as made:
        made.volunteer(seed=2).contribute()
        assert made.coordinator.wait_for_version(1, 30)
        yield made


@contextmanager
def rigged(hosted: Hosted) -> Iterator[Rig]:
    with chaos(hosted.port) as proxy:
        token = hosted.coordinator.invite([proxy.address], 1)
        volunteer = hosted.volunteer(seed=1, token=token)
        link = Link(invites.read(token), Alone(), np.random.default_rng(0))
        yield Rig(volunteer, link, Transfers(link, Identity(volunteer.key), SystemClock()), proxy)
        link.close()
        volunteer.close()


@pytest.fixture
def sender(filling):
    with rigged(filling) as rig:
        yield rig


@pytest.fixture
def reader(published):
    with rigged(published) as rig:
        yield rig


@dataclass
class Sealed:
    """An update that waits to be sent."""

    lease_id: bytes
    upload_id: bytes
    data: bytes
    path: Path


def sealed(rig: Rig, folder: Path) -> Sealed:
    """Return an update of the rig's volunteer, offered and on the disk."""
    lease = rig.volunteer.lease()
    data = rig.volunteer.train(lease)
    (folder / "update").write_bytes(data)
    return Sealed(lease.lease_id, rig.volunteer.offer(lease.lease_id, data).upload_id, data, folder / "update")


def newest(rig: Rig) -> tuple[bytes, int]:
    """Return the digest and size of the shared adapter."""
    reply = rig.volunteer.check_in(wants_work=False)
    return reply.adapter.digest, reply.adapter.size


def nobody(_done: int, _total: int) -> None:
    """Watch nothing."""


def persistently(work: Callable[[], None]) -> int:
    """Do *work* again after each break, as the session does; return how often it broke."""
    for breaks in range(10):
        try:
            work()
        except Refusal as refusal:
            if not refusal.retryable:
                raise
        else:
            return breaks
    raise AssertionError("ten breaks")


@pytest.mark.parametrize("cuts", [0, 1, 3])
def test_a_broken_upload_sends_at_most_one_chunk_again_for_each_break(sender, tmp_path, cuts):
    """Counted at the proxy: TLS and the other calls add less than a tenth of a chunk."""
    update = sealed(sender, tmp_path)
    before = sender.proxy.up_bytes
    sender.proxy.cut_after_bytes = [before + int(CHUNK_BYTES * (1.4 + 1.2 * n)) for n in range(cuts)]

    breaks = persistently(lambda: sender.transfers.upload(update.upload_id, update.path, nobody))

    sent = sender.proxy.up_bytes - before
    assert breaks == cuts
    assert len(update.data) <= sent <= len(update.data) + cuts * CHUNK_BYTES + CHUNK_BYTES // 10
    reply = sender.volunteer.submit(update.lease_id, update.data)
    assert reply.verdict == VERDICT_ACCEPTED


def test_progress_never_runs_backwards(sender, tmp_path):
    update = sealed(sender, tmp_path)
    seen = []
    sender.proxy.cut_after_bytes = [sender.proxy.up_bytes + 2 * CHUNK_BYTES]

    persistently(
        lambda: sender.transfers.upload(update.upload_id, update.path, lambda *progress: seen.append(progress))
    )

    assert seen == sorted(seen)
    assert seen[-1] == (len(update.data), len(update.data))


def test_an_upload_that_the_coordinator_does_not_know_is_refused_for_good(sender, tmp_path):
    update = sealed(sender, tmp_path)

    with pytest.raises(Refusal) as caught:
        sender.transfers.upload(b"?" * 16, update.path, nobody)

    assert caught.value.code == "unknown_upload"


def test_a_broken_download_goes_on_where_it_stopped_and_is_verified_at_the_end(reader, tmp_path):
    digest, size = newest(reader)
    path = tmp_path / digest.hex()
    got, before = [], reader.proxy.connections

    def on_bytes(done: int, _total: int) -> None:
        got.append(done)
        if len(got) == 2:
            reader.proxy.cut()

    breaks = persistently(lambda: reader.transfers.fetch(digest, size, path, on_bytes))

    assert breaks <= 1  # gRPC may notice between two calls, and then none of them fails
    assert reader.proxy.connections == before + 2
    assert sha256(path.read_bytes()).digest() == digest
    assert got == sorted(set(got))  # no chunk twice
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_here_already_is_not_downloaded_again(reader, tmp_path):
    digest, size = newest(reader)
    path = tmp_path / digest.hex()
    reader.transfers.fetch(digest, size, path, nobody)
    reader.link.traffic()

    reader.transfers.fetch(digest, size, path, nobody)

    assert reader.link.traffic() == (0, 0)


@pytest.mark.parametrize("before", [b"\0" * 1000, b"\0" * 10_000_000], ids=["torn", "too long"])
def test_what_is_not_what_its_name_says_never_gets_that_name(reader, tmp_path, before):
    """A torn disk may have left anything in the partial file."""
    digest, size = newest(reader)
    path = tmp_path / digest.hex()
    path.with_name(path.name + ".partial").write_bytes(before)

    if len(before) < size:
        with pytest.raises(WrongDigest):
            reader.transfers.fetch(digest, size, path, nobody)
        assert not path.exists()
    reader.transfers.fetch(digest, size, path, nobody)

    assert sha256(path.read_bytes()).digest() == digest


def test_a_full_disk_is_said_and_what_is_here_is_kept(reader, tmp_path):
    """A limit on the size of files stands in for a full disk: the system's answer to a write is of the same kind."""
    digest, size = newest(reader)
    path = tmp_path / digest.hex()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * CHUNK_BYTES, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"no room for 4.7 MB .* 3.1 MB are kept"):
            reader.transfers.fetch(digest, size, path, nobody)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    reader.link.traffic()

    reader.transfers.fetch(digest, size, path, nobody)

    assert sha256(path.read_bytes()).digest() == digest
    assert reader.link.traffic()[1] < size - 3 * CHUNK_BYTES + 1_000


def test_chunks_shrink_on_a_slow_link_and_grow_back():
    assert fitting(CHUNK_BYTES, took_s=11) == CHUNK_BYTES // 2
    assert fitting(SMALLEST_BYTES, took_s=11) == SMALLEST_BYTES
    assert fitting(CHUNK_BYTES // 4, took_s=5) == CHUNK_BYTES // 4
    assert fitting(CHUNK_BYTES // 4, took_s=1) == CHUNK_BYTES // 2
    assert fitting(CHUNK_BYTES, took_s=1) == CHUNK_BYTES
