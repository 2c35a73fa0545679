"""One coordinator in a folder, one recipe, and whatever a crash left behind is put right."""

import subprocess
import sys
from pathlib import Path

import pytest

from coordinators import FakeClock, hosting, refused
from potluck.coordinator.desk import Desk
from potluck.coordinator.opening import InUse, OtherRecipe
from potluck.coordinator.server import Coordinator
from potluck.wire.audit import verify_log
from potluck.wire.releases import verify_release
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, recipe


def test_a_second_coordinator_in_the_folder_is_refused(tmp_path: Path):
    with hosting(tmp_path / "run", recipe()), pytest.raises(InUse, match="at work"):
        Coordinator.open(tmp_path / "run", recipe())


def test_a_second_coordinator_in_another_process_is_refused_too(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from potluck.coordinator.opening import FolderLock, InUse\n"
        "try: FolderLock.take(Path(sys.argv[1]))\n"
        "except InUse: print('refused')"
    )
    with hosting(tmp_path / "run", recipe()):
        told = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")], check=True, capture_output=True, text=True, timeout=60
        )

    assert told.stdout.strip() == "refused"


def test_a_folder_is_free_again_after_a_stop(tmp_path: Path):
    for _ in range(2):
        with hosting(tmp_path / "run", recipe()) as hosted:
            assert hosted.coordinator.status().version == 0


def test_of_two_coordinators_on_one_database_the_newer_wins(tmp_path: Path):
    """Protocol, scenario 41: a lock in a folder cannot see another machine; the number in the database can."""
    url, clock = f"sqlite:///{tmp_path / 'shared.db'}", FakeClock()
    older = Coordinator.open(tmp_path / "a", recipe(), clock=clock, database_url=url)
    port = older.listen("127.0.0.1:0")
    volunteer = Volunteer(older.invite([f"127.0.0.1:{port}"], 5))
    volunteer.enroll()
    lease = volunteer.lease()
    data = volunteer.train(lease)

    newer = Coordinator.open(tmp_path / "b", recipe(), clock=clock, database_url=url)
    try:
        with refused("unavailable"):
            volunteer.offer(lease.lease_id, data)
        assert not older.wait_for_version(1, 10.0)
        assert not older.in_charge
        assert "the one in charge has 2" in older.trouble
        assert newer.status().received == 0
    finally:
        volunteer.close()
        older.stop()
        newer.stop()


@pytest.mark.parametrize(
    ("tables", "name"),
    [
        ({"adapter": {"rank": 4}}, "adapter.rank: 2 became 4"),
        ({"model": {"digest": "cd" * 32}}, "model.digest"),
        ({"model": {"modules": {"x": [2, 2]}}}, "model.modules"),
        ({"aggregation": {"mode": "synchronous"}}, "aggregation.mode: 'asynchronous' became 'synchronous'"),
        ({"aggregation": {"outer": "nesterov"}}, "aggregation.outer"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_recipe_that_the_run_cannot_go_on_with_is_refused_with_the_difference(tmp_path: Path, tables, name: str):
    with hosting(tmp_path / "run", recipe()):
        pass

    with pytest.raises(OtherRecipe) as caught:
        Coordinator.open(tmp_path / "run", recipe(**tables))

    assert name in str(caught.value)
    Coordinator.open(tmp_path / "run", recipe()).stop()


def test_a_recipe_that_the_run_can_go_on_with_is_taken_and_logged(tmp_path: Path):
    clock = FakeClock()
    with hosting(tmp_path / "run", recipe(), clock=clock) as hosted:
        for volunteer in hosted.cohort(3):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)

    changed = recipe(aggregation={"cohort": 5}, limits={"lease_s": 30.0})
    with hosting(tmp_path / "run", changed, clock=clock) as hosted:
        assert (hosted.coordinator.status().version, hosted.coordinator.status().cohort) == (1, 5)
        with hosted.coordinator.desk.site.store.reading() as books:
            entry = next(one.entry for one in books.log.since(0) if '"recipe_changed"' in one.entry)
    assert '"changed":["aggregation.cohort","limits.lease_s"]' in entry


def test_a_recipe_that_does_not_pin_its_base_model_is_refused(tmp_path: Path):
    with pytest.raises(OtherRecipe, match="does not pin"):
        Coordinator.open(tmp_path / "run", recipe(model={"digest": ""}))


def test_a_restart_changes_nothing_but_the_number(tmp_path: Path):
    clock = FakeClock()
    with hosting(tmp_path / "run", recipe(), clock=clock) as hosted:
        volunteer = hosted.volunteer()
        lease = volunteer.lease()
        data = volunteer.train(lease)
        offered = volunteer.offer(lease.lease_id, data)
        volunteer.write(offered.upload_id, 0, data[:200])
        before = hosted.coordinator.status()
    with hosting(tmp_path / "run", recipe(), clock=clock) as hosted:
        after = hosted.coordinator.status()
        again = Volunteer(hosted.invite(), key=volunteer.key, seqno=volunteer.seqno, recipe=volunteer.recipe)
        hosted.volunteers.append(again)

        assert again.stat(offered.upload_id).committed_size == 200
        again.upload(again.offer(lease.lease_id, data), data)
        assert again.submit(lease.lease_id, data).verdict == pb.VERDICT_ACCEPTED
    assert (after.run_id, after.coordinator_id, after.version, after.members, after.leases) == (
        before.run_id,
        before.coordinator_id,
        before.version,
        before.members,
        before.leases,
    )


def test_what_was_lost_beside_the_database_is_made_again(tmp_path: Path):
    """Releases and the log's file follow from the database and the blobs."""
    clock = FakeClock()
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 1}), clock=clock) as hosted:
        hosted.volunteer().contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
    folder = tmp_path / "run"
    release = folder / "releases" / "v0001"
    kept = {path.name: path.read_bytes() for path in release.iterdir()}
    for path in release.iterdir():
        path.unlink()
    release.rmdir()
    (folder / "log.jsonl").write_text('{"half a line')
    (folder / "spool" / ("ab" * 32)).write_bytes(b"nobody's")
    (folder / "blobs" / ("cd" * 32)).write_bytes(b"nobody's")
    (folder / "partial" / ("ef" * 16)).write_bytes(b"nobody's")

    with hosting(folder, recipe(aggregation={"cohort": 1}), clock=clock) as hosted:
        assert hosted.coordinator.wait_for_version(1, 10)

    assert {path.name: path.read_bytes() for path in release.iterdir()} == kept
    assert verify_release(release).log_hash
    assert verify_log(folder, seen=verify_release(release).log_hash).version == 1
    left = [path.name for place in ("spool", "partial", "blobs") for path in (folder / place).iterdir()]
    assert len(left) == 2
    assert not {"ab" * 32, "cd" * 32, "ef" * 16} & set(left)


def test_a_desk_sees_the_run_while_nobody_hosts_it(tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as hosted:
        hosted.volunteer()

    desk = Desk.open(tmp_path / "run")
    assert (desk.status().members, desk.status().run_name) == (1, "small")
    desk.pause()
    assert desk.status().paused
    desk.close()
