"""A full disk is told, loses nothing that was acknowledged, and is over when there is room again.

Every test runs with a limit on file sizes, which any user may set; and once more on a small tmpfs where this user may
mount one, which is not a given outside a container.  Which of the two it was is in the test's name.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from coordinators import Hosted, hosting, refused
from full_disks import Ballast, Limit, files_no_larger_than, may_mount, small_disk
from potluck.aggregation import encode
from potluck.coordinator.blobs import BlobFolder, Partials
from potluck.coordinator.steps import Step, When
from potluck.wire.audit import verify_log
from potluck.wire.recipe import Recipe
from potluck.wire.releases import verify_release
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, recipe

MIB = 1024 * 1024
BIG = {"x.q_proj": [2048, 1024]}
TMPFS = ["tmpfs"] if may_mount(Path(tempfile.mkdtemp()) / "probe") else []


def big_recipe(**tables: object) -> Recipe:
    """One module, 2 · (2048 + 1024) float32 = 24 KiB … 192 KiB at rank 16."""
    return recipe(
        model={"modules": BIG},
        adapter={"rank": 16},
        aggregation={"cohort": 1, "minimum": 1, "master_rank": 16},
        **tables,
    )


def big_update(volunteer: Volunteer) -> bytes:
    """Return an update of noise, whose product stays small."""
    rng = np.random.default_rng(volunteer.seed)
    return encode(
        {
            "x.q_proj.lora_A": rng.normal(size=(16, 1024)).astype(np.float32) * 0.01,
            "x.q_proj.lora_B": rng.normal(size=(2048, 16)).astype(np.float32) * 0.01,
        },
        "fp32",
    )


def test_a_blob_that_does_not_fit_leaves_nothing(tmp_path: Path):
    spool = BlobFolder(tmp_path / "spool")
    spool.prepare()

    with files_no_larger_than(10_000), refused("disk_full"):
        spool.put(bytes(20_000))

    assert not list(spool.root.iterdir())
    assert spool.size(spool.put(bytes(20_000))) == 20_000


def test_a_chunk_that_does_not_fit_leaves_what_was_there(tmp_path: Path):
    partials, spool, data = Partials(tmp_path / "partial"), BlobFolder(tmp_path / "spool"), bytes(30_000)
    partials.prepare()
    spool.prepare()
    with files_no_larger_than(12_000):
        partials.append(b"u" * 16, 0, data[:10_000], size=len(data))
        with refused("disk_full"):
            partials.append(b"u" * 16, 10_000, data[10_000:], size=len(data))
        assert partials.committed(b"u" * 16) == 10_000

    partials.append(b"u" * 16, 10_000, data[10_000:], size=len(data))
    partials.complete(b"u" * 16, hashlib.sha256(data).digest(), spool)


def test_an_upload_goes_on_when_there_is_room_again(tmp_path: Path):
    """Protocol, scenario 25, over the wire."""
    with hosting(tmp_path / "run", big_recipe()) as hosted:
        volunteer = hosted.volunteer()
        lease = volunteer.lease()
        data = big_update(volunteer)
        offered = volunteer.offer(lease.lease_id, data)
        with files_no_larger_than(100_000):
            volunteer.write(offered.upload_id, 0, data[:80_000])
            with refused("disk_full"):
                volunteer.write(offered.upload_id, 80_000, data[80_000:])
            assert volunteer.stat(offered.upload_id).committed_size == 80_000

        volunteer.upload(volunteer.offer(lease.lease_id, data), data)

        assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED
        assert hosted.coordinator.wait_for_version(1, 10)


class Full:
    """A coordinator whose disk fills up when told to."""

    def __init__(self, stack: ExitStack, folder: Path, kind: str) -> None:
        self.full_at: tuple[Step, When] | None = None
        if kind == "tmpfs":
            stack.enter_context(small_disk(folder, 8 * MIB))
        self.ballast = Ballast(folder) if kind == "tmpfs" else Limit()
        self.run = folder / "run"
        self.hosted: Hosted = stack.enter_context(hosting(self.run, big_recipe(), on_step=self.on_step))
        if kind == "limit":
            stack.callback(self.ballast.empty)

    def on_step(self, step: Step, when: When) -> None:
        if (step, when) == self.full_at:
            self.full_at = None
            self.ballast.fill()


@pytest.fixture(params=["limit", *TMPFS])
def full(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Full]:
    with ExitStack() as stack:
        yield Full(stack, tmp_path / "disk", request.param)


def test_every_call_on_a_full_disk_is_refused_and_works_later(full: Full):
    volunteer = full.hosted.volunteer()
    lease = volunteer.lease()
    data = big_update(volunteer)
    offered = volunteer.offer(lease.lease_id, data)
    full.ballast.fill(but_bytes=40_000)

    with refused("disk_full"):
        volunteer.upload(offered, data, chunk=16_384)
    committed = volunteer.stat(offered.upload_id).committed_size
    assert 0 < committed <= 40_000
    assert committed % 16_384 == 0

    full.ballast.empty()
    again = volunteer.offer(lease.lease_id, data)
    assert again.committed_size == committed
    volunteer.upload(again, data)
    assert volunteer.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED
    assert full.hosted.coordinator.wait_for_version(1, 10)


@pytest.mark.parametrize("step", [Step.COMPUTE, Step.BLOB, Step.COMMIT], ids=lambda x: x.name)
def test_a_disk_that_fills_up_during_a_commit_delays_the_version_and_nothing_else(full: Full, step: Step):
    """Nothing acknowledged is lost, no blob is half-written, and the version comes when there is room."""
    volunteer = full.hosted.volunteer()
    lease = volunteer.lease()
    data = big_update(volunteer)
    full.full_at = (step, When.BEFORE)
    volunteer.deliver(lease, data)
    assert not full.hosted.coordinator.wait_for_version(1, 0.6)
    assert "disk" in full.hosted.coordinator.trouble or "grow" in full.hosted.coordinator.trouble

    full.ballast.empty()
    full.hosted.coordinator.desk.site.bell.set()  # or by itself, after a while
    assert full.hosted.coordinator.wait_for_version(1, 20)

    assert full.hosted.coordinator.trouble == ""
    for path in (full.run / "blobs").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert verify_release(full.run / "releases" / "v0001").version == 1
    assert verify_log(full.run).version == 1
    assert [one.credit for one in full.hosted.coordinator.history().contributions] == [8]
