"""A full disk on a volunteer's machine is told with its fix, and the work goes on when there is room again."""

import tempfile
from pathlib import Path

import pytest
import torch

from coordinators import hosting
from fakes import Client, FakeTrainer
from full_disks import Ballast, files_no_larger_than, may_mount, small_disk
from potluck.client.endings import Ending
from potluck.client.errors import DiskFull
from potluck.client.events import Happening, Trouble
from potluck.client.home import store
from potluck.client.outbox.store import Outbox
from potluck.client.records import Control
from potluck.client.session import Session
from potluck.client.status import history_of
from potluck.client.training import checkpoints
from potluck.client.work import Stride
from scripted import recipe

TMPFS = ["tmpfs"] if may_mount(Path(tempfile.mkdtemp()) / "probe") else []


def count(outbox: Outbox) -> None:
    """Write until there is no room, or for good."""
    for _ in range(10_000):
        outbox.next_seqno()


def test_a_transition_that_does_not_fit_changes_nothing(tmp_path: Path):
    outbox = Outbox.open(tmp_path / "client.sqlite")
    outbox.close()
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    outbox = Outbox.open(tmp_path / "client.sqlite")

    with files_no_larger_than(size), pytest.raises(DiskFull) as caught:
        count(outbox)
    seqno = outbox.next_seqno()
    outbox.ask(Control(finish=True))

    assert "make room" in caught.value.__notes__[0]
    assert 0 < seqno < 10_000
    assert outbox.control().finish
    outbox.close()


def test_a_sealed_update_that_does_not_fit_leaves_nothing(tmp_path: Path):
    with files_no_larger_than(10_000), pytest.raises(DiskFull, match="no room for 20000 bytes"):
        store(bytes(20_000), tmp_path / "update")

    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path):
    checkpoints.save(tmp_path, checkpoints.Checkpoint(1, "job", {"x": torch.zeros(10)}))

    with files_no_larger_than(10_000), pytest.raises(DiskFull, match="no room for a checkpoint"):
        checkpoints.save(tmp_path, checkpoints.Checkpoint(2, "job", {"x": torch.zeros(10_000)}))

    found = checkpoints.load(tmp_path, "job")
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("disk", TMPFS)
def test_a_session_goes_on_when_there_is_room_again(tmp_path: Path, disk: str):
    with (
        hosting(
            tmp_path / "run", recipe(aggregation={"cohort": 1, "minimum": 1}, run={"name": "r", "versions": 1})
        ) as host,
        small_disk(tmp_path / disk, 2_000_000) as place,
    ):
        client, ballast = Client(place), Ballast(place)
        client.enrol(host.invite())

        def fill(stride: Stride) -> None:
            if stride.done == stride.total:
                ballast.fill()

        def empty(happening: Happening, _session: Session) -> None:
            if isinstance(happening, Trouble) and "room" in happening.message:
                ballast.empty()

        ended = client.run(FakeTrainer(on_step=fill), watch=empty)

        assert ended.ending is Ending.RUN_DONE
        assert [receipt.verdict for receipt in history_of(client.home).receipts] == ["ACCEPTED"]
        assert any(isinstance(event, Trouble) and "make room" in event.fix for event in client.events)
