"""Sessions of a real client against a real coordinator; only the trainer and the sensors are fakes."""

import sqlite3
from dataclasses import replace
from hashlib import sha256
from threading import Event as Bell

import pytest

from chaos import chaos
from coordinators import hosting
from fakes import IDLE, Client, FakeTrainer, NoFit
from potluck.cli.joining import goes_on
from potluck.client.endings import Ending
from potluck.client.errors import HomeInUse, NotJoined, Unreachable
from potluck.client.events import GateTurned, Moved, Offline, Progressed, Received, Trouble, When
from potluck.client.gate import Power
from potluck.client.leaving import leave_now
from potluck.client.outbox.store import Outbox
from potluck.client.records import Control
from potluck.client.status import history_of, status_of
from potluck.client.tasks import MembershipState, TaskState
from potluck.coordinator.store.records import Standing
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from scripted import recipe

PATIENCE_S = 20.0
PATH = [
    TaskState.LEASED,
    TaskState.FETCHING,
    TaskState.PREPARED,
    TaskState.TRAINING,
    TaskState.SEALING,
    TaskState.OFFERING,
    TaskState.UPLOADING,
    TaskState.COMMITTING,
    TaskState.RECEIPTED,
]


def two_versions() -> Recipe:
    return recipe(run={"versions": 2}, aggregation={"cohort": 1, "minimum": 1})


@pytest.fixture
def hosted(tmp_path):
    """A run of two versions, each made of one update."""
    with hosting(tmp_path / "coordinator", two_versions()) as made:
        yield made


@pytest.fixture
def client(hosted, tmp_path):
    made = Client(tmp_path / "client", seed=1)
    made.enrol(hosted.invite())
    return made


def of_kind(client: Client, kind: type) -> list:
    return [happening for happening in client.events if isinstance(happening, kind)]


def states(client: Client) -> list[TaskState]:
    return [moved.state for moved in of_kind(client, Moved)]


def test_a_client_works_until_the_run_is_done_and_every_number_agrees(hosted, client):
    """The number on the volunteer's screen is the coordinator's: gensyn-ai/rl-swarm #185."""
    ended = client.run()

    assert ended.ending is Ending.RUN_DONE
    assert states(client) == PATH * 2
    assert client.states == [(state, when) for state in PATH * 2 for when in When]
    status, theirs = status_of(client.home), hosted.coordinator.history().contributions[0]
    assert [receipt.verdict for receipt in status.receipts] == ["ACCEPTED", "ACCEPTED"]
    assert [receipt.version for receipt in status.receipts] == [1, 0]
    assert (status.client_id, status.updates, status.credit) == (theirs.client_id, theirs.counted, theirs.credit)
    assert (theirs.counted, theirs.credit) == (2, 16)
    assert status.membership.state is MembershipState.STOPPED
    assert status.tasks == ()
    assert not status.running
    assert hosted.coordinator.status().version == 2


def test_nothing_is_left_on_the_disk_but_what_is_needed(client):
    client.run()

    assert list(client.home.tasks.iterdir()) == []
    kept = [path.name for path in client.home.blobs.iterdir()]
    assert len(kept) == 1  # the newest shared adapter
    assert sha256(client.home.blob(bytes.fromhex(kept[0])).read_bytes()).hexdigest() == kept[0]


def test_once_an_update_is_sealed_nothing_of_its_training_is_left(client):
    """The checkpoint holds the trained factors in the clear, and the folder the seed of private noise."""
    client.run(watch=lambda happening, session: sealed(happening) and session.stop())
    task = status_of(client.home).tasks[0]
    assert task.is_sealed
    assert list(client.home.tasks.iterdir()) == []

    (client.home.task(task.lease_id) / "checkpoint.safetensors").write_bytes(b"as if it was killed in between")
    left = []
    client.run(watch=lambda _, session: left.append(list(client.home.tasks.iterdir())) or session.stop())

    assert left[0] == []


def test_bytes_on_the_volunteers_screen_cover_what_the_coordinator_counted(hosted, client):
    """The coordinator counts updates and adapters; the client all its messages, which are a little more."""
    client.run()

    ours, theirs = status_of(client.home).traffic, hosted.coordinator.status()
    assert theirs.bytes_in < ours.sent < theirs.bytes_in + 20_000
    assert theirs.bytes_out < ours.received < theirs.bytes_out + 20_000


def test_a_pause_suspends_training_and_resuming_goes_on_at_the_next_step(client):
    trainer = FakeTrainer(seed=1, steps=4)

    def watch(happening, session):
        if isinstance(happening, Progressed) and happening.done == 2 and len(trainer.taken) == 2:
            client.ask(Control(paused=True))
            session.lookout.look()
        if isinstance(happening, Moved) and happening.state is TaskState.SUSPENDED:
            client.ask(Control(finish=True))

    ended = client.run(trainer, watch=watch)

    assert ended.ending is Ending.FINISHED
    assert trainer.taken == [1, 2, 3, 4]
    assert states(client) == [*PATH[:4], TaskState.SUSPENDED, *PATH[3:]]
    assert [turned.sentence for turned in of_kind(client, GateTurned)] == ["you paused it, until: potluck resume", ""]


def test_an_owner_who_needs_the_machine_gets_it_and_a_sealed_update_still_travels(client):
    """On battery nothing is computed; what is finished is sent all the same."""
    trainer = FakeTrainer(seed=1, steps=1)

    def watch(happening, session):
        if isinstance(happening, Moved) and happening.state is TaskState.OFFERING:
            client.sensors.reading = replace(IDLE, power=Power.BATTERY, battery_share=0.9)
            session.lookout.look()
            assert session.lookout.gate.computing
        if isinstance(happening, Received):
            session.stop()

    assert client.run(trainer, watch=watch).ending is Ending.INTERRUPTED
    assert states(client) == PATH


def test_a_stopped_session_keeps_its_lease_and_the_next_one_goes_on_at_the_step(client):
    first, second = FakeTrainer(seed=1, steps=5), FakeTrainer(seed=1, steps=5)

    def stop_at_three(happening, session):
        if isinstance(happening, Progressed) and happening.done == 3:
            session.stop()

    assert client.run(first, watch=stop_at_three).ending is Ending.INTERRUPTED
    waiting = status_of(client.home)
    assert waiting.tasks[0].state is TaskState.TRAINING
    assert (waiting.tasks[0].steps_done, waiting.tasks[0].steps_total) == (3, 5)
    client.ask(Control(finish=True))

    assert client.run(second).ending is Ending.FINISHED
    assert (first.taken, second.taken) == ([1, 2, 3], [4, 5])
    assert len(history_of(client.home).tasks) == 1
    assert history_of(client.home).updates == 1


def test_finish_delivers_what_is_held_and_takes_nothing_new(hosted, client):
    def finish(happening, _session):
        if isinstance(happening, Moved) and happening.state is TaskState.TRAINING:
            client.ask(Control(finish=True))

    ended = client.run(watch=finish)

    assert ended.ending is Ending.FINISHED
    assert states(client) == PATH
    status = status_of(client.home)
    assert status.membership.state is MembershipState.STOPPED
    assert status.control == Control()
    assert hosted.coordinator.status().version <= 1


def test_after_finish_a_new_session_takes_work_again(client):
    client.ask(Control(finish=True))
    assert client.run().ending is Ending.FINISHED
    assert history_of(client.home).updates == 0

    assert client.run().ending is Ending.RUN_DONE
    assert history_of(client.home).updates == 2


def test_leaving_drops_the_work_and_the_coordinator_knows(hosted, client):
    def leave(happening, session):
        if isinstance(happening, Progressed) and happening.done == 2:
            client.ask(Control(leave=True))
            session.lookout.look()

    ended = client.run(watch=leave)

    assert ended.ending is Ending.LEFT
    assert ended.counted == 0
    status = status_of(client.home)
    assert status.membership is None
    assert status.control == Control()
    assert history_of(client.home).tasks[0].reason == "you left the run"
    assert hosted.coordinator.history().contributions[0].standing is Standing.LEFT
    with pytest.raises(NotJoined):
        client.run()


def test_leaving_without_a_session_tells_the_coordinator_too(client):
    client.run()

    assert leave_now(client.home) == 2  # both versions hold an update of this client, and keep it
    assert status_of(client.home).membership is None
    assert status_of(client.home).updates == 2  # receipts are kept for good
    with pytest.raises(NotJoined):
        leave_now(client.home)


def test_leaving_fails_loudly_while_the_coordinator_cannot_hear_it(tmp_path):
    client = Client(tmp_path / "client")
    with hosting(tmp_path / "coordinator", recipe()) as hosted:
        client.enrol(hosted.invite())

    with pytest.raises(Unreachable):
        leave_now(client.home)
    assert status_of(client.home).membership.state is MembershipState.READY


def test_work_that_nobody_needs_any_more_stops_within_a_step(tmp_path):
    """The round went on without this client and takes no stale updates: the next renewal says so."""
    slow = recipe(aggregation={"cohort": 1, "minimum": 1, "max_staleness": 0}, limits={"lease_s": 0.3})
    with hosting(tmp_path / "coordinator", slow) as hosted:
        client = Client(tmp_path / "client", seed=1)
        client.enrol(hosted.invite())
        other = hosted.volunteer(seed=2)
        renewed = Bell()

        def on_step(stride):
            if stride.done == 1:
                other.contribute()
                assert hosted.coordinator.wait_for_version(1, PATIENCE_S)
            renewed.wait(0.05)  # a step takes a while; the renewal comes meanwhile

        def watch(happening, session):
            if isinstance(happening, Moved) and happening.state is TaskState.ABANDONED:
                session.stop()

        trainer = FakeTrainer(seed=1, steps=1_000, on_step=on_step)
        assert client.run(trainer, watch=watch).ending is Ending.INTERRUPTED

        dropped = history_of(client.home).tasks[0]
        assert dropped.state is TaskState.ABANDONED
        assert dropped.reason
        assert len(trainer.taken) < 100
        assert list(client.home.tasks.iterdir()) == []


def test_a_changed_recipe_ends_the_session_and_asks_again(hosted, client):
    """As if the owner had consented to something else than the coordinator runs now."""
    with sqlite3.connect(client.home.outbox) as outbox:
        outbox.execute("UPDATE membership SET recipe_digest = ?", (b"x" * 32,))
    outbox.close()

    ended = client.run()

    assert ended.ending is Ending.CONSENT_REQUIRED
    assert ended.recipe_json == two_versions().to_json()
    assert status_of(client.home).membership.state is MembershipState.ENROLLING
    with pytest.raises(NotJoined):  # nothing more happens under the old consent
        client.run()
    client.enrol(hosted.invite())
    assert client.run().ending is Ending.RUN_DONE


def test_a_changed_recipe_is_joined_again_by_the_same_invite(tmp_path):
    """The update that was sealed before is delivered; then nothing goes on until the owner agreed to the new card."""
    folder, client = tmp_path / "coordinator", Client(tmp_path / "client", seed=1)
    changed = recipe(run={"versions": 2, "purpose": "another"}, aggregation={"cohort": 1, "minimum": 1})
    with chaos(0) as proxy:
        with hosting(folder, two_versions()) as hosted:
            proxy.target = hosted.port
            token = hosted.coordinator.invite([proxy.address], 2)
            client.enrol(token)
            client.run(watch=lambda happening, session: sealed(happening) and session.stop())
            assert status_of(client.home).tasks[0].is_sealed
            proxy.cut()

        with hosting(folder, changed) as hosted:
            proxy.target = hosted.port
            assert client.run().ending is Ending.CONSENT_REQUIRED
            held = status_of(client.home)
            assert (held.tasks, held.updates, held.membership.state) == ((), 1, MembershipState.ENROLLING)
            assert not goes_on(held.membership, token, client.folder)

            again = client.enrol(token)
            assert (again.state, again.recipe_digest) == (MembershipState.READY, changed.digest())
            assert client.run().ending is Ending.RUN_DONE
            assert hosted.coordinator.status().members == 1


def sealed(happening: object) -> bool:
    return isinstance(happening, Moved) and happening.state is TaskState.OFFERING


def test_a_trainer_that_fails_gives_its_lease_back_and_three_in_a_row_end_the_session(hosted, client):
    trainer = FakeTrainer(seed=1, fails=3)

    with pytest.raises(NoFit):
        client.run(trainer)

    assert [task.reason for task in history_of(client.home).tasks] == ["the base model does not fit"] * 3
    assert [trouble.fix for trouble in of_kind(client, Trouble)] == ["get a larger machine"] * 3
    assert hosted.coordinator.status().leases == 0


def test_one_failure_is_forgotten_once_an_update_is_made(client):
    assert client.run(FakeTrainer(seed=1, fails=1)).ending is Ending.RUN_DONE

    assert history_of(client.home).updates == 2
    assert [task.state for task in history_of(client.home).tasks] == [
        TaskState.RECEIPTED,
        TaskState.RECEIPTED,
        TaskState.ABANDONED,
    ]


def test_one_session_at_a_time_works_in_a_home(client):
    with client.home.occupied(), pytest.raises(HomeInUse):
        client.run()


def test_a_removed_member_is_told_why_and_stops(hosted, client):
    member = hosted.coordinator.history().contributions[0]
    hosted.coordinator.desk.remove(member.client_id)

    with pytest.raises(Refusal, match="no member any more") as caught:
        client.run()
    assert caught.value.code == "not_a_member"


def test_a_network_that_goes_and_comes_back_loses_nothing(hosted, tmp_path):
    """It is gone from the sealing on: the update is offered again until it is taken."""
    with chaos(hosted.port) as proxy:
        client = Client(tmp_path / "client", seed=1)
        client.enrol(hosted.coordinator.invite([proxy.address], 1))
        failed = []

        def watch(happening, _session):
            if isinstance(happening, Moved) and happening.state is TaskState.OFFERING and not failed:
                proxy.refusing = True
                proxy.cut()
            if isinstance(happening, Offline):
                failed.append(happening)
                proxy.refusing = len(failed) < 3

        ended = client.run(watch=watch)

    assert ended.ending is Ending.RUN_DONE
    assert len(failed) >= 3
    assert history_of(client.home).updates == 2
    assert hosted.coordinator.history().contributions[0].counted == 2


def test_training_goes_on_without_a_network(hosted, tmp_path):
    """A client that starts offline with a task goes on with it; only the offer needs the network."""
    with chaos(hosted.port) as proxy:
        client = Client(tmp_path / "client", seed=1)
        client.enrol(hosted.coordinator.invite([proxy.address], 1))

        def stop_at_two(happening, session):
            if isinstance(happening, Progressed) and happening.done == 2:
                session.stop()

        client.run(watch=stop_at_two)
        proxy.refusing = True
        proxy.cut()

        def back_at_offer(happening, _session):
            if isinstance(happening, Moved) and happening.state is TaskState.OFFERING:
                proxy.refusing = False

        trainer = FakeTrainer(seed=1)
        assert client.run(trainer, watch=back_at_offer).ending is Ending.RUN_DONE
        assert trainer.taken == [3, 1, 2, 3]


def test_a_task_that_takes_too_long_is_dropped_and_given_back(client):
    def stop_at_two(happening, session):
        if isinstance(happening, Progressed) and happening.done == 2:
            session.stop()

    client.run(watch=stop_at_two)
    outbox = Outbox.open(client.home.outbox)
    task = outbox.open_tasks()[0]
    outbox.spend(task.lease_id, 7 * 86_400 + 1.0)
    outbox.close()

    assert client.run().ending is Ending.RUN_DONE

    tasks = {task.lease_id: task for task in history_of(client.home).tasks}
    assert tasks[task.lease_id].state is TaskState.ABANDONED
    assert tasks[task.lease_id].reason == "too long in TRAINING"
    assert len(tasks) == 3


def test_an_update_that_rots_on_the_disk_is_never_counted(hosted, client):
    def rot(happening, _session):
        if isinstance(happening, Moved) and happening.state is TaskState.UPLOADING and not of_kind(client, Trouble):
            for path in client.home.blobs.iterdir():
                data = path.read_bytes()
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    def once(happening, session):
        rot(happening, session)
        if isinstance(happening, Moved) and happening.state is TaskState.ABANDONED:
            session.stop()

    assert client.run(watch=once).ending is Ending.INTERRUPTED

    dropped = history_of(client.home).tasks[0]
    assert dropped.state is TaskState.ABANDONED
    assert "damaged on this disk" in dropped.reason
    assert hosted.coordinator.status().received == 0


def test_status_says_what_runs_while_it_runs(hosted, client):
    seen = []

    def look(happening, session):
        if isinstance(happening, Moved) and happening.state is TaskState.TRAINING:
            seen.append(status_of(client.home))
            session.stop()

    client.run(watch=look)

    assert seen[0].running
    assert seen[0].pid
    assert seen[0].activity == "round 1: training"
    assert seen[0].tasks[0].state is TaskState.TRAINING
    assert seen[0].client_id == hosted.coordinator.history().contributions[0].client_id


def test_two_runs_of_the_same_client_do_the_same(tmp_path):
    """Same seeds, same texts, same versions: the same adapters, byte for byte."""
    versions = []
    for name in ("a", "b"):
        with hosting(tmp_path / name, two_versions()) as hosted:
            client = Client(tmp_path / f"client {name}", seed=5)
            client.enrol(hosted.invite())
            client.run()
            versions.append([version.adapter_digest for version in hosted.coordinator.history().versions])

    assert versions[0] == versions[1]
    assert len(versions[0]) == 3
