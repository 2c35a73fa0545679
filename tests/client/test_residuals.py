"""The ledger of what codecs left out: nothing is lost and nothing is sent twice, whatever happens to an update."""

import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.client.errors import IllegalEvent
from potluck.client.outbox.store import Outbox
from potluck.client.records import KeptReceipt, Left, Membership, Sealed, Terms
from potluck.client.tasks import Event, MembershipState, Step

FIT, OTHER = b"f" * 32, b"g" * 32
SEALED = Sealed(b"d" * 32, 77, examples=8, steps=3, tokens=96, loss_before=2.0, loss_after=1.0)
TO_SEALING = (Event.STARTED, Event.FETCHED, Event.BEGUN, Event.TRAINED)
MEMBERSHIP = Membership(MembershipState.ENROLLING, "t", "run", "Run", "c" * 32, "{}", b"r" * 32, "me", "/data", 37)


def terms(lease_id: bytes, run_id: str = "run") -> Terms:
    return Terms(lease_id, run_id, 3, 2, b"a" * 32, 100, 7, b"m" * 32, 1_000, 60.0)


def left(name: str, fit: bytes = FIT) -> Left:
    return Left(fit, name.encode() * 32, b"b" * 32)


def receipt(lease_id: bytes, verdict: str) -> KeptReceipt:
    return KeptReceipt(b"e", "c" * 32, "run", lease_id, 3, 2, SEALED.digest, verdict, 8, 1.0, 8, 1, 100.0)


@pytest.fixture
def outbox(tmp_path):
    made = Outbox.open(tmp_path / "client.sqlite")
    yield made
    made.close()


def sealed(outbox: Outbox, lease_id: bytes, made: Left, run_id: str = "run") -> None:
    """Take a new lease to OFFERING; its update leaves *made*."""
    outbox.add(terms(lease_id, run_id))
    for event in TO_SEALING:
        outbox.move(lease_id, event)
    outbox.seal(lease_id, SEALED, made)


def ended(outbox: Outbox, lease_id: bytes, how: str) -> None:
    if how in {"DROPPED", "TIMED_OUT"}:
        outbox.move(lease_id, Event[how])
    else:
        outbox.answer(lease_id, receipt(lease_id, how))


def free(outbox: Outbox) -> list[str]:
    return [chr(kept.digest[0]) for kept in outbox.residuals.free("run", FIT)]


def test_an_update_that_counts_leaves_its_own_rest_and_no_other(outbox):
    sealed(outbox, b"1", left("x"))
    assert free(outbox) == []  # not yet: nobody knows whether it counts
    ended(outbox, b"1", "ACCEPTED")
    assert free(outbox) == ["x"]
    sealed(outbox, b"2", left("y"))
    assert free(outbox) == []
    ended(outbox, b"2", "ACCEPTED")

    assert free(outbox) == ["y"]
    assert outbox.residuals.digests() == {b"y" * 32, b"b" * 32}


@pytest.mark.parametrize("how", ["DROPPED", "TIMED_OUT", "TOO_LATE", "REJECTED", "VERDICT 9"])
def test_an_update_that_never_counts_gives_back_what_it_took(outbox, how):
    sealed(outbox, b"1", left("x"))
    ended(outbox, b"1", "ACCEPTED")

    sealed(outbox, b"2", left("y"))
    ended(outbox, b"2", how)

    assert free(outbox) == ["x"]
    assert outbox.residuals.digests() == {b"x" * 32, b"b" * 32}


def test_a_task_that_ends_before_it_is_sealed_touches_nothing(outbox):
    sealed(outbox, b"1", left("x"))
    ended(outbox, b"1", "ACCEPTED")
    outbox.add(terms(b"2"))
    outbox.move(b"2", Event.DROPPED)

    assert free(outbox) == ["x"]


def test_a_seal_that_fails_takes_nothing(outbox):
    """One transaction: a task that cannot be sealed leaves no trace in the ledger."""
    sealed(outbox, b"1", left("x"))
    ended(outbox, b"1", "ACCEPTED")
    outbox.add(terms(b"2"))

    with pytest.raises(IllegalEvent):
        outbox.seal(b"2", SEALED, left("y"))
    assert free(outbox) == ["x"]


def test_an_answer_that_fails_settles_nothing(outbox):
    sealed(outbox, b"1", left("x"))
    ended(outbox, b"1", "ACCEPTED")

    with pytest.raises(IllegalEvent):
        ended(outbox, b"1", "TOO_LATE")
    assert free(outbox) == ["x"]


def test_the_ledger_is_on_the_disk(outbox, tmp_path):
    sealed(outbox, b"1", left("x"))
    ended(outbox, b"1", "ACCEPTED")
    sealed(outbox, b"2", left("y"))
    outbox.close()

    again = Outbox.open(tmp_path / "client.sqlite")
    assert free(again) == []
    ended(again, b"2", "TOO_LATE")
    assert free(again) == ["x"]
    again.close()


def test_what_belongs_to_another_run_or_shape_is_forgotten_and_counted(outbox):
    sealed(outbox, b"1", left("x"))
    sealed(outbox, b"2", left("y", OTHER))
    sealed(outbox, b"3", left("z"), run_id="old")
    for lease_id in (b"1", b"2", b"3"):
        ended(outbox, lease_id, "ACCEPTED")

    assert outbox.residuals.free("run", OTHER) == (left("y", OTHER),)
    assert outbox.residuals.forget_others("run", FIT) == 2
    assert outbox.residuals.forget_others("run", FIT) == 0
    assert free(outbox) == ["x"]
    assert outbox.residuals.free("old", FIT) == ()


def test_another_updates_rest_is_not_taken_across_runs(outbox):
    sealed(outbox, b"1", left("x"), run_id="old")
    ended(outbox, b"1", "ACCEPTED")
    sealed(outbox, b"2", left("y"))
    ended(outbox, b"2", "ACCEPTED")

    assert outbox.residuals.free("old", FIT) == (left("x"),)


def test_what_a_sealed_update_holds_is_not_forgotten_while_it_waits(outbox):
    """It may yet be given back, and then dropped as any other."""
    sealed(outbox, b"1", left("x", OTHER))
    ended(outbox, b"1", "ACCEPTED")
    sealed(outbox, b"2", left("y", OTHER))

    assert outbox.residuals.forget_others("run", FIT) == 0
    ended(outbox, b"2", "TOO_LATE")
    assert outbox.residuals.forget_others("run", FIT) == 1


def test_leaving_forgets_everything(outbox):
    outbox.consent(MEMBERSHIP)
    outbox.step(Step.ENROLLED)
    sealed(outbox, b"1", left("x"))
    ended(outbox, b"1", "ACCEPTED")

    outbox.step(Step.LEFT)

    assert outbox.residuals.digests() == frozenset()


def test_an_outbox_of_the_layout_before_gets_the_ledger_and_keeps_its_tasks(tmp_path):
    path = tmp_path / "client.sqlite"
    made = Outbox.open(path)
    made.add(terms(b"1"))
    made.close()
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE residuals")
        file.execute("PRAGMA user_version = 1")
    file.close()

    again = Outbox.open(path)

    assert again.task(b"1").terms == terms(b"1")
    assert again.next_seqno() == 1
    sealed(again, b"2", left("x"))
    ended(again, b"2", "ACCEPTED")
    assert free(again) == ["x"]
    again.close()
    assert Outbox.open(path).residuals.free("run", FIT) == (left("x"),)


@settings(deadline=None, max_examples=30)  # each example is a dozen fsyncs
@given(script=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ACCEPTED", "TOO_LATE", "DROPPED"])), max_size=12))
def test_in_any_order_of_answers_what_counted_and_what_waits_is_all_there_was(tmp_path_factory, script):
    """Every update adds a change of 1 to what it takes, sends half of it, and leaves the other half.

    Sent by those that count + waiting = the changes of those that count, though several updates wait for answers at
    once: with beta = 1, the promise of error feedback.
    """
    outbox = Outbox.open(tmp_path_factory.mktemp("ledger") / "client.sqlite")
    worth: dict[bytes, float] = {}
    sent: dict[bytes, float] = {}
    open_leases: list[bytes] = []
    counted = 0.0
    expected = 0
    for number, (place, how) in enumerate(script):
        lease_id, digest = bytes([number]), bytes([number]) * 32
        total = 1.0 + sum(worth[kept.digest] for kept in outbox.residuals.free("run", FIT))
        sealed(outbox, lease_id, replace(left("x"), digest=digest))
        worth[digest] = sent[lease_id] = total / 2
        open_leases.append(lease_id)
        if place < len(open_leases):
            over = open_leases.pop(place)
            ended(outbox, over, how)
            counted += sent[over] if how == "ACCEPTED" else 0.0
            expected += how == "ACCEPTED"
    for over in open_leases:
        ended(outbox, over, "DROPPED")

    assert counted + sum(worth[kept.digest] for kept in outbox.residuals.free("run", FIT)) == expected
    outbox.close()
