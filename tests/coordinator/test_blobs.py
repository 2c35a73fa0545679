"""A blob is there whole or not at all, and an upload goes on where it stopped."""

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.coordinator.blobs import BlobFolder, Partials
from potluck.wire.refusals import Refusal

ID = b"u" * 16


@pytest.fixture
def spool(tmp_path: Path) -> BlobFolder:
    made = BlobFolder(tmp_path / "spool")
    made.prepare()
    return made


@pytest.fixture
def partials(tmp_path: Path) -> Partials:
    made = Partials(tmp_path / "partial")
    made.prepare()
    return made


def code(caught: pytest.ExceptionInfo[Refusal]) -> str:
    return caught.value.code


def test_a_blob_comes_back_by_its_digest(spool: BlobFolder):
    digest = spool.put(b"hello")

    assert digest == hashlib.sha256(b"hello").digest()
    assert spool.read(digest) == b"hello"
    assert spool.read(digest, 1, 3) == b"ell"
    assert (spool.size(digest), spool.all()) == (5, {digest})


def test_nobody_else_can_read_a_blob(spool: BlobFolder):
    assert stat.S_IMODE(spool.path(spool.put(b"x")).stat().st_mode) == 0o600


def test_a_blob_that_breaks_off_leaves_nothing_and_a_crash_leaves_only_what_is_swept(spool: BlobFolder):
    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        spool.put(b"x", on_written=fail)
    assert not list(spool.root.iterdir())

    (spool.root / "ab.cd.tmp").write_bytes(b"half")
    spool.prepare()
    assert not list(spool.root.iterdir())


def test_a_blob_that_is_not_there_is_refused(spool: BlobFolder):
    with pytest.raises(Refusal) as caught:
        spool.read(bytes(32))
    assert code(caught) == "no_blob"
    spool.delete([bytes(32)])


@settings(max_examples=50)
@given(data=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_way_of_cutting_an_upload_gives_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
):
    """Each chunk is sent twice, as after a lost answer."""
    root = tmp_path_factory.mktemp("u")
    partials, spool = Partials(root / "p"), BlobFolder(root / "s")
    partials.prepare()
    spool.prepare()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})

    for begin, end in pairwise(ends):
        for _ in range(2):
            assert partials.append(ID, begin, data[begin:end], size=len(data)) == end
    partials.complete(ID, hashlib.sha256(data).digest(), spool)

    assert spool.read(hashlib.sha256(data).digest()) == data
    assert partials.committed(ID) == 0


@pytest.mark.parametrize(
    ("offset", "data", "expected"),
    [(6, b"x", "wrong_offset"), (4, b"xx", "wrong_offset"), (5, b"x" * 6, "too_large"), (10, b"x", "too_large")],
    ids=["gap", "overlap", "beyond the ticket", "all beyond the ticket"],
)
def test_a_chunk_that_does_not_fit_changes_nothing(partials: Partials, offset: int, data: bytes, expected: str):
    partials.append(ID, 0, b"12345", size=10)

    with pytest.raises(Refusal) as caught:
        partials.append(ID, offset, data, size=10)

    assert code(caught) == expected
    assert partials.path(ID).read_bytes() == b"12345"


def test_a_tail_that_a_crash_cut_off_is_sent_again(partials: Partials, spool: BlobFolder):
    partials.append(ID, 0, b"1234567890", size=10)
    with partials.path(ID).open("r+b") as file:
        file.truncate(4)

    assert partials.committed(ID) == 4
    partials.append(ID, 4, b"567890", size=10)
    partials.complete(ID, hashlib.sha256(b"1234567890").digest(), spool)


def test_bytes_that_are_not_what_was_offered_are_dropped(partials: Partials, spool: BlobFolder):
    partials.append(ID, 0, b"evil", size=4)

    with pytest.raises(Refusal) as caught:
        partials.complete(ID, hashlib.sha256(b"good").digest(), spool)

    assert (code(caught), caught.value.retryable) == ("wrong_digest", True)
    assert partials.committed(ID) == 0
    assert not spool.all()


def test_sixteen_threads_that_append_the_same_chunk_write_it_once(partials: Partials):
    with ThreadPoolExecutor(16) as pool:
        ends = list(pool.map(lambda _: partials.append(ID, 0, b"x" * 1000, size=1000), range(16)))

    assert ends == [1000] * 16
    assert partials.committed(ID) == 1000


def test_uploads_that_nobody_waits_for_are_swept(partials: Partials):
    partials.append(ID, 0, b"x", size=1)
    partials.append(b"v" * 16, 0, b"y", size=1)

    partials.sweep([ID])

    assert (partials.committed(ID), partials.committed(b"v" * 16)) == (1, 0)
