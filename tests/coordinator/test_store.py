"""What the store promises: all or nothing, one at a time, and no word that only one database knows."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from potluck.coordinator.phases import Phase
from potluck.coordinator.store.database import NoRun, Store, Superseded, WrongLayout
from potluck.coordinator.store.records import (
    InviteRecord,
    LeaseRecord,
    LeaseState,
    Member,
    Standing,
    UpdateRecord,
    UpdateState,
)
from potluck.coordinator.store.tables import Table

MEMBER = Member("c", b"k" * 32, "", Standing.ACTIVE, b"i" * 16, b"d" * 32, 0.0, b"", 0, 0.0)
LEASE = LeaseRecord(b"l" * 16, "c", 1, 0, LeaseState.OPEN, 100.0, 60.0)
UPDATE = UpdateRecord(b"l" * 16, "c", 1, 0, b"d" * 32, 9, 8, 3, 0, 1, 0.0, 0.0, UpdateState.WAITING)


@pytest.fixture
def store(tmp_path: Path):
    made = Store.open(f"sqlite:///{tmp_path / 'test.db'}")
    with made.writing() as books:
        books.create_run("run", "{}")
        books.members.add(MEMBER)
        books.rounds.open(Phase.FILLING, 0.0)
        books.leases.grant(LEASE)
    yield made
    made.close()


def test_a_transaction_that_fails_leaves_nothing(store: Store):
    def write_and_fail() -> None:
        with store.writing() as books:
            books.intake.accept(UPDATE)
            books.log.append("something")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()

    with store.reading() as books:
        assert books.intake.received(1) == 0
        assert books.log.head() is None


def test_a_lease_has_one_update_whatever_the_code_above_believes(store: Store):
    with store.writing() as books:
        books.intake.accept(UPDATE)

    with pytest.raises(IntegrityError), store.writing() as books:
        books.intake.accept(replace(UPDATE, digest=b"e" * 32))


def test_credit_for_one_lease_and_reason_is_given_once(store: Store):
    with store.writing() as books:
        books.intake.credit("c", LEASE.lease_id, "accepted", 8, 0.0)

    with pytest.raises(IntegrityError), store.writing() as books:
        books.intake.credit("c", LEASE.lease_id, "accepted", 8, 0.0)
    with store.reading() as books:
        assert books.intake.credit_of("c") == 8


def test_a_coordinator_that_was_replaced_can_write_nothing(store: Store):
    with store.writing() as books:
        books.change_run(fence=2)

    with pytest.raises(Superseded, match="number 1, the one in charge has 2"), store.writing(fence=1) as books:
        pytest.fail("a stale coordinator got in")


def test_an_invite_is_used_exactly_as_often_as_it_says(store: Store):
    with store.writing() as books:
        books.invites.add(InviteRecord(b"v" * 16, "token", 5, 0, 1e12, revoked=False, created_s=0.0))

    def use(_: int) -> bool:
        with store.writing() as books:
            return books.invites.use(b"v" * 16)

    with ThreadPoolExecutor(8) as pool:
        used = list(pool.map(use, range(40)))

    assert sum(used) == 5


def test_writers_take_turns_so_serials_and_log_entries_have_no_gap(store: Store):
    def write(_: int) -> int:
        with store.writing() as books:
            return books.log.append("entry").index

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(write, range(40))) == list(range(40))


def test_a_reader_sees_one_moment(store: Store):
    with store.reading() as before:
        assert before.intake.received(1) == 0
        with store.writing() as books:
            books.intake.accept(UPDATE)
        assert before.intake.received(1) == 0
    with store.reading() as after:
        assert after.intake.received(1) == 1


def test_a_lease_lives_for_its_duration(store: Store):
    with store.reading() as books:
        assert (books.leases.alive_in(1, 159.9), books.leases.alive_in(1, 160.0)) == (1, 0)
    assert LEASE.alive(159.9)
    assert not LEASE.alive(160.0)


def test_an_ended_lease_stays_ended(store: Store):
    """An abort that arrives late must not undo a receipt."""
    with store.writing() as books:
        books.leases.end(LEASE.lease_id, LeaseState.CLOSED)
        books.leases.end(LEASE.lease_id, LeaseState.ABORTED)
    with store.reading() as books:
        assert books.leases.find(LEASE.lease_id) == replace(LEASE, state=LeaseState.CLOSED)


def test_an_empty_database_holds_no_run(tmp_path: Path):
    empty = Store.open(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(NoRun), empty.reading() as books:
        books.run()
    empty.close()


def test_what_was_confirmed_is_on_disk(store: Store):
    """WAL with synchronous=FULL: a commit is fsynced before it is answered."""
    with store.reading() as books:
        connection = books.session.connection()
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    assert found == ["wal", 2, 1]


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_every_table_can_be_made_on_every_database(dialect: object):
    for table in Table.metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=dialect))  # type: ignore[arg-type]
        for index in table.indexes:
            assert str(CreateIndex(index).compile(dialect=dialect))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER TABLE rounds DROP COLUMN log_index", "its table 'rounds' lacks log_index"),
        ("ALTER TABLE members ADD COLUMN shoe_size INTEGER", "its table 'members' has shoe_size, which is unknown"),
        ("DROP TABLE log", ""),
    ],
)
def test_a_database_of_another_version_is_refused_with_its_difference(tmp_path: Path, change: str, words: str):
    """Not a traceback at the first question that meets the difference; a table that is missing is simply made."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    Store.open(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(change)
    engine.dispose()

    if not words:
        Store.open(url).close()
        return
    with pytest.raises(WrongLayout, match=words) as caught:
        Store.open(url)
    assert caught.value.__notes__ == ["fix: go on with the version that made it, or host the recipe in another folder"]


def test_names_fit_into_postgresql():
    names = [index.name for table in Table.metadata.tables.values() for index in table.indexes]

    assert all(len(str(name)) <= 63 for name in names)
