"""A home put back from a backup has forgotten which updates were in a sum; what remembers it lies elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest

from coordinators import hosting
from fakes import Client, FakeTrainer
from potluck.client.errors import fix_of
from potluck.client.identity import identity_at
from potluck.client.parked import contribution
from potluck.client.secure.used import BadRecord, UsedFile
from summing import summed_recipe

FIRST, SECOND, THIRD = (bytes([number]) * 32 for number in range(3))
NODES, START = [b"n" * 20], b"a" * 32

READS: dict[str, Callable[[UsedFile], object]] = {
    "claim": lambda used: used.claim(THIRD, b"run/3"),
    "spent": lambda used: used.spent(b"run/2"),
    "last": lambda used: used.last("run"),
    "cohorts": UsedFile.cohorts,
    "starts": UsedFile.starts,
}


@pytest.fixture
def used(tmp_path: Path) -> UsedFile:
    """A record of one sum; its witness lies beside the base models."""
    made = UsedFile(tmp_path / "sums.txt", tmp_path / "cache" / "sums" / "me.json")
    made.claim(FIRST, b"run/1")
    made.spend(FIRST, b"run/1", NODES, START)
    return made


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("backup", ["older", "none", "another"])
def test_a_record_that_is_older_than_its_witness_is_refused_whoever_reads_it(
    used: UsedFile, read: Callable[[UsedFile], object], backup: str
):
    before = used.path.read_bytes()
    used.spend(SECOND, b"run/2", NODES, START)
    if backup == "none":
        used.path.unlink()
    else:
        used.path.write_bytes(before if backup == "older" else used.path.read_bytes().replace(b"61", b"62"))

    with pytest.raises(BadRecord, match=r"older than its witness .*, or another: \d+ bytes were seen") as caught:
        read(used)
    assert fix_of(caught.value).startswith("put the newest sums.txt back; if it is lost, leave the run and join again")
    assert "POTLUCK_HOME" in fix_of(caught.value)


def test_a_record_that_grew_while_its_witness_was_not_written_is_no_older_one(used: UsedFile):
    """The program was killed between the two, or an older one wrote the line."""
    UsedFile(used.path).spend(SECOND, b"run/2", NODES, START)
    with used.path.open("ab") as file:
        file.write(b"spend 0102")

    assert used.spent(b"run/2")
    used.claim(THIRD, b"run/3")
    assert used.last("run") == 2


def test_a_home_without_either_begins_a_record(tmp_path: Path):
    fresh = UsedFile(tmp_path / "sums.txt", tmp_path / "cache" / "sums" / "me.json")
    assert (fresh.spent(b"run/1"), fresh.last("run"), fresh.cohorts()) == (False, None, [])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"length": 1, "head": "x"}'])
def test_a_damaged_witness_is_refused(used: UsedFile, text: str):
    used.witness.write_text(text, "utf-8")  # type: ignore[union-attr]

    with pytest.raises(BadRecord, match=r"me\.json cannot be read") as caught:
        used.spent(b"run/1")
    assert fix_of(caught.value) == "delete it if sums.txt is the newest"


def test_a_client_whose_home_was_put_back_trains_and_gives_nothing(tmp_path: Path):
    client, trainer = Client(tmp_path / "client", seed=1), FakeTrainer(seed=1)
    with hosting(tmp_path / "coordinator", summed_recipe()) as hosted:
        member = client.enrol(hosted.invite())
        witness = client.home.sums_witness(identity_at(client.home.key).client_id)
        UsedFile(client.home.sums, witness).spend(FIRST, contribution("before", 1), NODES, START)
        client.home.sums.unlink()
        with pytest.raises(BadRecord, match="older than its witness"):
            client.run(trainer)
    assert (member.run_id != "before", trainer.taken) == (True, [])
