"""An update that may be revealed in a sum goes into no other one, whatever the coordinator and the disk do."""

from dataclasses import replace
from pathlib import Path

import pytest

from cohorts import (
    ADAPTER,
    COORDINATOR,
    TERMS,
    Cohort,
    Remembered,
    client,
    cohort,
    key_of,
    proposal,
    public,
    register,
    words_of,
)
from full_disks import files_no_larger_than
from potluck.client.errors import DiskFull
from potluck.client.parked import contribution
from potluck.client.secure.participation import Participation, Standing
from potluck.client.secure.policy import Policy
from potluck.client.secure.used import BadRecord, UsedFile
from potluck.coordinator.secure.phases import Phase
from potluck.coordinator.secure.sums import SecureSum, Site
from potluck.wire.secure.messages import Step
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.registers import certificate
from potluck.wire.sums import NO_ADAPTER

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
    used.spend(SID, b"update", NODES, ADAPTER)

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
    used.spend(SID, b"update", NODES, ADAPTER)
    size = used.path.stat().st_size
    with files_no_larger_than(size + 4_000), pytest.raises(DiskFull, match="no room to note"):
        used.spend(OTHER, b"another", NODES, ADAPTER)
    assert used.path.stat().st_size == size

    used.spend(OTHER, b"another", NODES[:7], ADAPTER)
    assert used.cohorts() == [frozenset(NODES), frozenset(NODES[:7])]


def notes_of_sums(kept: UsedFile | Remembered, *policies: Policy) -> list[tuple[str, ...]]:
    """Let client 0 be in a sum for each policy, each time among five others; return what its owner is told of each."""
    told = []
    for number, own in enumerate(policies):
        register_of = register(own.terms)
        proposed = replace(proposal(own.terms, number), adapters=(own.adapter,))
        one = Cohort(SecureSum(proposed, Site(COORDINATOR, register_of, 1)), {})
        for member in (0, *range(1 + 5 * number, 6 + 5 * number)):
            key = key_of(member)
            used = kept if member == 0 else Remembered()
            word = certificate(COORDINATOR, own.terms.run_id, public(key))
            standing = Standing(key, word, register_of, used)
            name = contribution(own.terms.run_id, own.terms.version)
            one.clients[member] = Participation(standing, own, words_of(member, own.terms), name)
        assert one.run() is Phase.SUMMED
        told.append(one.clients[0].notes)
    return told


def policy(version: int, adapter: bytes = ADAPTER, base: bytes = TERMS.base) -> Policy:
    terms = replace(TERMS, version=version, base=base)
    return Policy(terms, adapter, public(COORDINATOR), small_groups=True)


def test_an_owner_is_told_where_several_sums_started_from_one_adapter(tmp_path: Path):
    """Others are in each, so that no two are nearly the same; and still they can be subtracted."""
    adapters = (ADAPTER, ADAPTER, b"\x01" * 32, ADAPTER)
    told = notes_of_sums(UsedFile(tmp_path / "sums.txt"), *(policy(3 + n, one) for n, one in enumerate(adapters)))

    assert [len(notes) for notes in told] == [0, 1, 0, 1]
    assert told[1][0].startswith("1 of your sums before started from the same shared adapter as this one: ")
    assert told[3][0].startswith("2 of your sums before")
    assert "subtract them from each other" in told[3][0]
    assert "only noise (differential privacy) helps" in told[3][0]


def test_at_version_0_sums_started_from_the_same_where_the_recipe_is_the_same(tmp_path: Path):
    """There is no adapter yet; another recipe may have another base model."""
    bare = [policy(n, NO_ADAPTER, base) for n, base in enumerate((b"\x0a" * 32, b"\x0b" * 32, b"\x0a" * 32))]

    assert [len(notes) for notes in notes_of_sums(UsedFile(tmp_path / "sums.txt"), *bare)] == [0, 0, 1]


def test_lines_of_an_older_program_are_read_and_say_no_start(tmp_path: Path):
    used = UsedFile(tmp_path / "sums.txt")
    nodes = b"".join(NODES[:5]).hex()
    used.path.write_text(f"claim {SID.hex()} {b'run/3'.hex()}\nspend {SID.hex()} {b'run/3'.hex()} {nodes}\n", "ascii")
    assert (used.cohorts(), used.starts(), used.last("run")) == ([frozenset(NODES[:5])], [], 3)
    assert used.spent(b"run/3")

    used.spend(OTHER, b"run/4", NODES[:7], ADAPTER)
    assert (len(used.cohorts()), used.starts(), used.last("run")) == (2, [ADAPTER], 4)


@pytest.mark.parametrize("start", ["ad" * 31, "ad" * 33, "", "xx" * 32, f"{'ad' * 32} {'ad' * 32}"])
def test_a_line_whose_start_names_nothing_is_damaged(tmp_path: Path, start: str):
    used = UsedFile(tmp_path / "sums.txt")
    used.path.write_text(f"spend {SID.hex()} {b'run/3'.hex()} {NODES[0].hex()} {start}\n", "ascii")
    with pytest.raises(BadRecord, match="is damaged"):
        used.claim(OTHER, b"run/4")


def test_a_line_that_a_crash_cut_off_is_no_line(tmp_path: Path):
    used = UsedFile(tmp_path / "sums.txt")
    used.claim(SID, b"update")
    with used.path.open("ab") as file:
        file.write(b"spend 0102")
    assert used.cohorts() == []
    used.claim(OTHER, b"update")
    assert len(used.path.read_text("ascii").splitlines()) == 3
