import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from potluck.client.errors import BadOutbox, IllegalEvent, NotJoined, StillHolds
from potluck.client.outbox.store import Outbox, joined
from potluck.client.records import Control, KeptReceipt, Membership, Now, Sealed, Terms, Traffic
from potluck.client.tasks import Event, MembershipState, Step, TaskState

TERMS = Terms(
    lease_id=b"l" * 16,
    run_id="run",
    round=3,
    version=2,
    adapter_digest=b"a" * 32,
    adapter_size=100,
    seed=2**64 - 1,
    manifest_digest=b"m" * 32,
    max_update_bytes=1_000,
    ttl_s=60.0,
)
SEALED = Sealed(b"d" * 32, 77, examples=8, steps=3, tokens=96, loss_before=2.0, loss_after=1.0)
MEMBERSHIP = Membership(MembershipState.ENROLLING, "t", "run", "Run", "c" * 32, "{}", b"r" * 32, "me", "/data", 37)
TO_SEALING = (Event.STARTED, Event.FETCHED, Event.BEGUN, Event.TRAINED)


def receipt(lease_id: bytes = TERMS.lease_id, serial: int = 1) -> KeptReceipt:
    return KeptReceipt(
        b"envelope", "c" * 32, "run", lease_id, 3, 2, SEALED.digest, "ACCEPTED", 8, 1.0, 8, serial, 100.0 + serial
    )


@pytest.fixture
def outbox(tmp_path):
    made = Outbox.open(tmp_path / "client.sqlite")
    yield made
    made.close()


def reopened(outbox: Outbox, tmp_path: Path) -> Outbox:
    outbox.close()
    return Outbox.open(tmp_path / "client.sqlite")


def test_a_task_is_kept_with_all_that_its_lease_says(outbox, tmp_path):
    assert outbox.add(TERMS)
    again = reopened(outbox, tmp_path)

    assert again.task(TERMS.lease_id).terms == TERMS
    assert again.task(TERMS.lease_id).state is TaskState.LEASED
    again.close()


def test_a_lease_that_is_sent_again_changes_nothing(outbox):
    outbox.add(TERMS)
    outbox.move(TERMS.lease_id, Event.STARTED)

    assert not outbox.add(replace(TERMS, round=99))
    assert outbox.task(TERMS.lease_id).terms.round == 3
    assert outbox.task(TERMS.lease_id).state is TaskState.FETCHING


def test_an_event_that_does_not_fit_leaves_the_task_alone(outbox):
    outbox.add(TERMS)

    with pytest.raises(IllegalEvent):
        outbox.move(TERMS.lease_id, Event.SENT)
    assert outbox.task(TERMS.lease_id).state is TaskState.LEASED


def test_sealing_and_its_row_are_one_transaction(outbox):
    outbox.add(TERMS)
    with pytest.raises(IllegalEvent):  # not trained: the update must not be kept either
        outbox.seal(TERMS.lease_id, SEALED)
    assert outbox.task(TERMS.lease_id).sealed is None

    for event in TO_SEALING:
        outbox.move(TERMS.lease_id, event)
    assert outbox.seal(TERMS.lease_id, SEALED) is TaskState.OFFERING
    assert outbox.task(TERMS.lease_id).sealed == SEALED


def test_a_receipt_and_the_end_of_its_task_are_one_transaction(outbox):
    outbox.add(TERMS)
    with pytest.raises(IllegalEvent):
        outbox.answer(TERMS.lease_id, receipt())
    assert outbox.receipts(10) == ()

    for event in TO_SEALING:
        outbox.move(TERMS.lease_id, event)
    outbox.seal(TERMS.lease_id, SEALED)
    outbox.answer(TERMS.lease_id, receipt())
    assert outbox.receipts(10) == (receipt(),)
    assert outbox.credit() == (1, 8)
    assert outbox.open_tasks() == ()


def test_what_is_sealed_is_delivered_before_anything_else_is_done(outbox):
    for name in (b"1", b"2", b"3"):
        outbox.add(replace(TERMS, lease_id=name * 16))
    for event in TO_SEALING:
        outbox.move(b"2" * 16, event)
    outbox.seal(b"2" * 16, SEALED)

    assert [task.lease_id[:1] for task in outbox.open_tasks()] == [b"2", b"1", b"3"]


def test_time_spent_counts_from_the_entry_into_a_state(outbox):
    outbox.add(TERMS)
    outbox.spend(TERMS.lease_id, 5.0)
    outbox.spend(TERMS.lease_id, 2.5, steps=(3, 20))
    assert outbox.task(TERMS.lease_id).spent_s == 7.5

    outbox.move(TERMS.lease_id, Event.STARTED)
    assert outbox.task(TERMS.lease_id).spent_s == 0
    assert (outbox.task(TERMS.lease_id).steps_done, outbox.task(TERMS.lease_id).steps_total) == (3, 20)


def test_a_membership_goes_its_way_and_can_be_asked_for_twice(outbox):
    with pytest.raises(NotJoined):
        joined(outbox)
    outbox.consent(MEMBERSHIP)
    outbox.consent(MEMBERSHIP)
    outbox.step(Step.ENROLLED)
    assert joined(outbox) == replace(MEMBERSHIP, state=MembershipState.READY)

    assert outbox.step(Step.FINISH) is MembershipState.FINISHING
    assert outbox.step(Step.DRAINED) is MembershipState.STOPPED
    assert outbox.step(Step.RESUMED) is MembershipState.READY
    assert outbox.step(Step.LEFT) is MembershipState.UNENROLLED
    assert outbox.membership() is None


def test_another_run_has_to_wait_until_this_one_is_delivered(outbox):
    outbox.consent(MEMBERSHIP)
    outbox.add(TERMS)

    with pytest.raises(StillHolds, match="1 unfinished"):
        outbox.consent(replace(MEMBERSHIP, run_id="another"))
    assert joined(outbox).run_id == "run"


def test_a_request_by_another_process_is_seen_by_the_running_one(outbox, tmp_path):
    other = Outbox.open(tmp_path / "client.sqlite")
    other.ask(Control(paused=True, paused_until_unix_s=123.0, finish=True))
    other.close()

    assert outbox.control() == Control(paused=True, paused_until_unix_s=123.0, finish=True)


def test_numbers_of_check_ins_are_never_used_twice(outbox, tmp_path):
    other = Outbox.open(tmp_path / "client.sqlite")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: (outbox, other)[n % 2].next_seqno(), range(40)))
    other.close()

    assert sorted(found) == list(range(1, 41))


def test_traffic_adds_up_and_the_last_word_is_kept(outbox):
    outbox.count(10, 20)
    outbox.count(1, 2)
    outbox.say(Now(7, "waiting", ("CPU_BUSY", "RAM_LOW"), 5.0, 6.0))

    assert outbox.traffic() == Traffic(11, 22)
    assert outbox.now() == Now(7, "waiting", ("CPU_BUSY", "RAM_LOW"), 5.0, 6.0)


@pytest.mark.usefixtures("outbox")
def test_only_its_owner_can_read_the_outbox(tmp_path):
    assert stat.S_IMODE((tmp_path / "client.sqlite").stat().st_mode) == 0o600


def test_an_outbox_of_another_version_is_refused_unharmed(tmp_path):
    with sqlite3.connect(tmp_path / "client.sqlite") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()

    with pytest.raises(BadOutbox, match="layout 99"):
        Outbox.open(tmp_path / "client.sqlite")


def test_a_damaged_outbox_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "client.sqlite").write_bytes(b"no database, and longer than a header of SQLite is " * 40)

    with pytest.raises(BadOutbox, match="cannot be opened"):
        Outbox.open(tmp_path / "client.sqlite")


CRASHING = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from potluck.client.outbox.store import Outbox
from potluck.client.tasks import Event

outbox = Outbox.open(Path(sys.argv[1]))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before":
    event.listen(outbox._engine, "commit", die)
outbox.move(b"l" * 16, Event.STARTED)
die()
"""


@pytest.mark.parametrize(("when", "state"), [("before", TaskState.LEASED), ("after", TaskState.FETCHING)])
def test_a_transition_is_there_after_a_kill_if_and_only_if_it_was_committed(outbox, tmp_path, when, state):
    outbox.add(TERMS)

    done = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path / "client.sqlite"), when], check=False)

    assert done.returncode == -9
    again = reopened(outbox, tmp_path)
    assert again.task(TERMS.lease_id).state is state
    again.close()
