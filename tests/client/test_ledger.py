"""The ledger is only added to, survives crashes, and an old copy of it does not forget what was told."""

import json
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import pytest

from potluck.client.accounting import Spending, epsilon
from potluck.client.errors import BadLedger
from potluck.client.ledger import Ledger

pytest.importorskip("dp_accounting")
ROUND = Spending(records=200, batch=32, noise=1.5, steps=10)
SEED, OTHER_SEED = "5e" * 32, "07" * 32


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "ledger.jsonl", tmp_path / "elsewhere" / "client.json"


def charged(paths: tuple[Path, Path], *leases: int, run: str = "run") -> Ledger:
    ledger = Ledger.open(*paths)
    for lease in leases:
        ledger.charge(run, bytes([lease]) * 16, ROUND, SEED, 1_000.0 + lease)
    return ledger


def test_what_was_written_is_there_after_a_restart(paths):
    first = charged(paths, 1, 2)
    again = Ledger.open(*paths)

    assert again.entries == first.entries
    assert again.head == first.head
    assert again.length == 3  # the first line names the ledger
    assert again.entries[1].spending == ROUND
    assert paths[0].stat().st_mode & 0o077 == 0


def test_a_lease_is_paid_once(paths):
    ledger = charged(paths, 1, 1, 1)

    assert len(ledger.entries) == 1
    assert ledger.holds("run", bytes([1]) * 16, ROUND, SEED)
    assert not ledger.holds("run", bytes([2]) * 16, ROUND, SEED)


def test_a_lease_that_is_trained_again_on_less_text_is_paid_again(paths):
    ledger, smaller = charged(paths, 1), replace(ROUND, records=32)

    assert not ledger.holds("run", bytes([1]) * 16, smaller, SEED)
    ledger.charge("run", bytes([1]) * 16, smaller, SEED, 2_000.0)

    assert Ledger.open(*paths).spendings("run") == [ROUND, smaller]
    assert ledger.rounds("run") == {(bytes([1]) * 16, SEED)}  # of the run's participations it is one


def test_a_lease_whose_noise_was_drawn_anew_is_paid_again(paths):
    """The coordinator names the lease: after a purge it can name the same one, and would see the text twice."""
    ledger = charged(paths, 1)

    assert not ledger.holds("run", bytes([1]) * 16, ROUND, OTHER_SEED)
    ledger.charge("run", bytes([1]) * 16, ROUND, OTHER_SEED, 2_000.0)

    again = Ledger.open(*paths)
    assert again.spendings("run") == [ROUND, ROUND]
    assert again.spent(1e-5) > epsilon([ROUND], 1e-5)
    assert len(again.rounds("run")) == 2
    assert all(again.holds("run", bytes([1]) * 16, ROUND, seed) for seed in (SEED, OTHER_SEED))


def test_a_lease_of_one_run_pays_for_no_other(paths):
    ledger = charged(paths, 1, run="one")

    assert not ledger.holds("other", bytes([1]) * 16, ROUND, SEED)
    ledger.charge("other", bytes([1]) * 16, ROUND, SEED, 2_000.0)

    assert [entry.run_id for entry in ledger.entries] == ["one", "other"]


def test_lines_from_before_noise_was_named_are_read_and_pay_for_nothing(paths):
    """A ledger as this program wrote it at first."""
    facts = {"run_id": "run", "lease_id": "01" * 16, "accountant": "dp-accounting 0.6.0 PLD", "at_unix_s": 1.0}
    lines, head = b"", bytes(32)
    for more in ({"ledger": "ab"}, facts | {"spending": asdict(ROUND)}):
        line = json.dumps({"previous": head.hex(), **more}, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        lines, head = lines + line, sha256(b"potluck/ledger\0" + head + line).digest()
    paths[0].write_bytes(lines)

    ledger = Ledger.open(*paths)

    assert ledger.spendings("run") == [ROUND]  # it was told, and counts
    assert not ledger.holds("run", bytes([1]) * 16, ROUND, "")
    assert not ledger.holds("run", bytes([1]) * 16, ROUND, SEED)
    ledger.charge("run", bytes([1]) * 16, ROUND, SEED, 2.0)
    assert Ledger.open(*paths).spendings("run") == [ROUND, ROUND]


def test_epsilon_composes_over_all_runs(paths):
    charged(paths, 1, 2, run="one")
    ledger = charged(paths, 3, run="other")

    assert ledger.spent(1e-5, "other") < ledger.spent(1e-5, "one") < ledger.spent(1e-5)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_a_crash_cut_short_never_counted(paths, cut: int):
    charged(paths, 1)
    whole = paths[0].read_bytes()
    paths[1].unlink()  # the witness is written after the line
    paths[0].write_bytes(whole + whole[-cut - 1 : -1])

    ledger = charged(paths, 2)

    assert [entry.lease_id[:2] for entry in ledger.entries] == ["01", "02"]
    assert Ledger.open(*paths).entries == ledger.entries


def test_a_changed_line_is_refused(paths):
    charged(paths, 1, 2, 3)
    text = paths[0].read_text("utf-8")
    paths[0].write_text(text.replace('"noise":1.5', '"noise":9.5', 1), "utf-8")

    with pytest.raises(BadLedger, match="does not follow"):
        Ledger.open(*paths)


def test_a_lost_line_is_refused(paths):
    charged(paths, 1, 2, 3)
    lines = paths[0].read_text("utf-8").splitlines(keepends=True)
    paths[0].write_text("".join(lines[:1] + lines[2:]), "utf-8")

    with pytest.raises(BadLedger, match=r"line 2 .* does not follow"):
        Ledger.open(*paths)


def test_a_restored_backup_is_refused(paths):
    charged(paths, 1)
    backup = paths[0].read_bytes()
    charged(paths, 2)
    paths[0].write_bytes(backup)

    with pytest.raises(BadLedger, match=r"has 2 lines, and its witness .* has seen 3") as refused:
        Ledger.open(*paths)
    assert "newest ledger" in refused.value.__notes__[0]


@pytest.mark.parametrize("read", ["ledger", "witness"])
def test_a_charge_while_it_is_opened_is_no_damage(paths, read: str):
    """`potluck status` looks at it at any moment, also between the two files."""
    charged(paths, 1)

    class Busy(type(paths[0])):  # type: ignore[misc]
        """A file after whose reading a session adds a line."""

        def read_bytes(self) -> bytes:
            found: bytes = super().read_bytes()
            charged(paths, 2)
            return found

        def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
            return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    ledger = Ledger.open(Busy(paths[0]), paths[1]) if read == "ledger" else Ledger.open(paths[0], Busy(paths[1]))

    assert ledger.length == {"ledger": 2, "witness": 3}[read]
    assert Ledger.open(*paths).length == 3


def test_a_deleted_ledger_is_refused(paths):
    charged(paths, 1)
    paths[0].unlink()

    with pytest.raises(BadLedger, match="has 0 lines"):
        Ledger.open(*paths)


def test_another_ledger_of_the_same_length_is_refused(paths):
    charged(paths, 1)
    paths[0].unlink()
    charged((paths[0], paths[1].with_name("other.json")), 1)

    with pytest.raises(BadLedger, match="is not the one that"):
        Ledger.open(*paths)


def test_the_coordinators_memory_is_a_witness_too(paths):
    ledger = charged(paths, 1)
    ledger.compare(2, "the coordinator")

    with pytest.raises(BadLedger, match="the coordinator has seen 7"):
        ledger.compare(7, "the coordinator")


@pytest.mark.parametrize("text", ["nonsense\n", '{"previous": 1}\n', '{"previous":""}\n', "[]\n"])
def test_what_is_no_ledger_is_refused(paths, text: str):
    paths[0].write_text(text, "utf-8")

    with pytest.raises(BadLedger):
        Ledger.open(*paths)


def test_a_damaged_witness_is_refused(paths):
    charged(paths, 1)
    paths[1].write_text("nonsense", "utf-8")

    with pytest.raises(BadLedger, match="cannot be read"):
        Ledger.open(*paths)


def test_the_file_holds_what_was_done_and_not_what_it_cost(paths):
    charged(paths, 1)

    entry = json.loads(paths[0].read_text("utf-8").splitlines()[1])

    assert entry["spending"] == {"records": 200, "batch": 32, "noise": 1.5, "steps": 10, "cap": 0}
    assert "epsilon" not in entry
    assert entry["seed_digest"] == SEED
    assert entry["accountant"].startswith("dp-accounting ")
