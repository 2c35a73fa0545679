"""An update that may be revealed in a sum goes into no other one, whatever the coordinator and the disk do."""

from dataclasses import replace
from pathlib import Path

import pytest

from cohorts import ADAPTER, COORDINATOR, TERMS, Cohort, Remembered, client, cohort, key_of, proposal, public, register
from full_disks import files_no_larger_than
from potluck.client.errors import DiskFull
from potluck.client.secure.used import UsedFile
from potluck.coordinator.secure.phases import Phase
from potluck.coordinator.secure.sums import SecureSum, Site
from potluck.wire.secure.messages import Step
from potluck.wire.secure.reasons import Reason, SumRefusal

SID, OTHER = b"\x01" * 32, b"\x02" * 32
NODES = [bytes([number]) * 20 for number in range(128)]


def test_who_signed_a_sum_and_heard_no_more_of_it_is_in_no_second_one():
    """The others reveal the sum; a second one with the same update, without theirs, would differ by theirs alone."""
    first = cohort(7)
    kept = Remembered()
    first.clients[0] = client(0, replace(TERMS, cohort_min=5), kept)
    first.run(until=Step.AGREE)
    assert first.advance(Step.UNMASK, lambda number: number == 0) is Phase.SUMMED  # client 0 is told nothing

    terms = replace(TERMS, cohort_min=5)
    again = Cohort(SecureSum(proposal(terms, 1), Site(COORDINATOR, register(terms), 1)), {})
    again.clients.update({0: client(0, terms, kept), **{number: client(number, terms) for number in range(7, 12)}})
    again.advance(Step.ADVERTISE)
    with pytest.raises(SumRefusal) as caught:
        again.clients[0].take(Step.ADVERTISE, again.sum.message(Step.ADVERTISE, public(key_of(0))) or b"")
    assert caught.value.reason is Reason.SPENT


def test_what_failed_before_anybody_signed_may_be_summed_again():
    kept = Remembered()
    first = cohort(7)
    first.clients[0] = client(0, replace(TERMS, cohort_min=5), kept)
    first.run(until=Step.MASK)
    assert kept.spent == []


@pytest.mark.parametrize("adapters", [(ADAPTER, b"\x01" * 32), (b"\x01" * 32, ADAPTER), (b"\x01" * 32,)])
def test_a_sum_over_other_adapters_than_ones_own_is_refused(adapters: tuple[bytes, ...]):
    """One of two could be made such that updates of it are nothing: the sum would be the updates of the other."""
    terms = replace(TERMS, cohort_min=5)
    proposed = replace(proposal(terms), adapters=tuple(sorted(adapters)))
    opened = SecureSum(proposed, Site(COORDINATOR, register(terms), 1))
    with pytest.raises(SumRefusal) as caught:
        client(0, terms).take(Step.OPEN, opened.message(Step.OPEN, public(key_of(0))) or b"")
    assert caught.value.reason is Reason.ADAPTER


def test_what_is_spent_is_spent_in_the_next_process(tmp_path: Path):
    used = UsedFile(tmp_path / "sums.txt")
    used.claim(SID, b"update")
    used.spend(SID, b"update", NODES)

    again = UsedFile(used.path)
    assert again.cohorts() == [frozenset(NODES)]
    with pytest.raises(SumRefusal) as caught:
        again.claim(OTHER, b"update")
    assert caught.value.reason is Reason.SPENT
    with pytest.raises(SumRefusal) as caught:
        again.claim(SID, b"another")
    assert caught.value.reason is Reason.USED_SUM


def test_a_line_that_does_not_fit_on_the_disk_is_not_taken_for_written(tmp_path: Path):
    """The disk is full in the middle of it: what would have left on its account does not leave."""
    used = UsedFile(tmp_path / "sums.txt")
    used.spend(SID, b"update", NODES)
    size = used.path.stat().st_size
    with files_no_larger_than(size + 4_000), pytest.raises(DiskFull, match="no room to note"):
        used.spend(OTHER, b"another", NODES)
    assert used.path.stat().st_size == size

    used.spend(OTHER, b"another", NODES[:7])
    assert used.cohorts() == [frozenset(NODES), frozenset(NODES[:7])]


def test_a_line_that_a_crash_cut_off_is_no_line(tmp_path: Path):
    used = UsedFile(tmp_path / "sums.txt")
    used.claim(SID, b"update")
    with used.path.open("ab") as file:
        file.write(b"spend 0102")
    assert used.cohorts() == []
    used.claim(OTHER, b"update")
    assert len(used.path.read_text("ascii").splitlines()) == 3
