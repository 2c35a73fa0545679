"""What `potluck inspect` shows is what lies in the outbox and what leaves, to the last number."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from coordinators import hosting
from fakes import Client
from potluck.aggregation import encode
from potluck.aggregation.errors import BadTensor, UnknownName
from potluck.cli.inspecting import beside, tell_update
from potluck.client.accounting import Spending
from potluck.client.consent import update_bytes
from potluck.client.events import Moved
from potluck.client.home import Home, store
from potluck.client.identity import identity_at
from potluck.client.inspection import Gone, Inspected, inspected, receipt_signer
from potluck.client.ledger import Ledger
from potluck.client.outbox.store import Outbox
from potluck.client.parked import contribution, park
from potluck.client.records import Membership, Sealed, Terms
from potluck.client.secure.used import UsedFile
from potluck.client.tasks import Event, MembershipState, TaskState
from potluck.wire.envelopes import BadSignature
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import Manifest
from scripted import recipe

SUMMED = {
    "aggregation": {
        "rule": "ffa",
        "weights": ["uniform"],
        "hostile": 0.0,
        "mode": "synchronous",
        "cohort": 12,
        "minimum": 2,
    },
    "privacy": {"secure_aggregation": True, "clip": 0.5},
    "run": {"name": "summed", "versions": 3},
}


def waiting(folder: Path, run: Recipe, *, parked: bool) -> tuple[Home, dict[str, np.ndarray]]:
    """Return a home with one sealed update in its outbox, and the update's tensors."""
    home = Home.at(folder)
    identity = identity_at(home.key)
    member = Membership(
        MembershipState.ENROLLING, "t", "run-1", "Run", "c" * 32, run.to_json(), run.digest(), "me", "/data", 37
    )
    terms = Terms(b"\xab" * 16, "run-1", 3, 2, b"", 0, 1, b"m" * 32, 10**6, 60.0)
    manifest, rng = Manifest.of(run, 2), np.random.default_rng(4)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in manifest.entries}
    data = encode(tensors, "fp32")
    data = park(data, identity.key, contribution("run-1", 2)) if parked else data
    sealed = Sealed(sha256(data).digest(), len(data), examples=8, steps=3, tokens=96, loss_before=2.0, loss_after=1.0)
    store(data, home.blob(sealed.digest))
    outbox = Outbox.open(home.outbox)
    outbox.consent(member)
    outbox.add(terms)
    for step in (Event.STARTED, Event.FETCHED, Event.BEGUN, Event.TRAINED):
        outbox.move(terms.lease_id, step)
    outbox.seal(terms.lease_id, sealed)
    outbox.close()
    return home, tensors


@pytest.mark.parametrize("parked", [False, True], ids=["plain", "for a secure sum"])
def test_every_number_is_that_of_the_update(tmp_path: Path, parked: bool):  # noqa: FBT001
    run = recipe(**SUMMED) if parked else recipe()
    home, tensors = waiting(tmp_path, run, parked=parked)

    found = inspected(home)

    assert isinstance(found, Inspected)
    assert {tensor.name: tensor.shape for tensor in found.tensors} == {n: t.shape for n, t in tensors.items()}
    for tensor in found.tensors:
        exact = tensors[tensor.name].astype(np.float64)
        assert tensor.norm == pytest.approx(np.sqrt((exact**2).sum()), rel=1e-12)
        assert tensor.largest == np.abs(exact).max()
    whole = np.concatenate([tensor.ravel() for tensor in tensors.values()]).astype(np.float64)
    assert found.norm == pytest.approx(np.linalg.norm(whole), rel=1e-12)
    assert found.numbers == len(whole)
    assert (found.round, found.version, found.examples, found.steps) == (3, 2, 8, 3)
    assert found.state == TaskState.OFFERING.value
    assert found.signer == identity_at(home.key).client_id
    assert len(found.signature) == (0 if parked else 128)  # in a sum each message is signed, and not this
    assert found.path.read_bytes()[:7] == (b"potluck" if parked else found.path.read_bytes()[:7])


def test_it_says_who_can_read_it(tmp_path: Path):
    plain = inspected(waiting(tmp_path / "plain", recipe(), parked=False)[0])
    summed = inspected(waiting(tmp_path / "summed", recipe(**SUMMED), parked=True)[0])

    assert isinstance(plain, Inspected)
    assert isinstance(summed, Inspected)
    assert "can read every number" in plain.travels
    assert plain.clip is None
    assert "the sum of at least 10 updates" in summed.travels
    assert "1/3 of the members" in summed.travels
    assert summed.clip == 0.5
    assert summed.noise == plain.noise == "none"


def test_what_is_told_of_an_update_for_a_sum_is_part_of_the_sum(tmp_path: Path, capsys):
    """Nobody who reads it may think that tokens and losses travel by themselves, or what stays here at all."""
    run = recipe(**SUMMED)
    home, _ = waiting(tmp_path, run, parked=True)
    found = inspected(home)
    assert isinstance(found, Inspected)

    tell_update(found, as_json=False)

    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    told = {name: value.strip() for name, value in lines.items()}
    assert told["beside it"] == (
        "added up with the others', never seen singly: 1 update, whether it was shrunk, 96 tokens, "
        "loss 1.0000 after training"
    )
    assert told["stays here"] == "8 examples, 3 steps"
    assert told["codec"] == "ring of 24 bits a number"
    assert found.upload == update_bytes(run)
    assert "2.0000" not in "".join(told.values())


def test_it_says_whether_a_sum_may_have_revealed_it(tmp_path: Path, capsys):
    home, _ = waiting(tmp_path, recipe(**SUMMED), parked=True)
    fresh = inspected(home)
    UsedFile(home.sums).spend(b"s" * 32, contribution("run-1", 2), [b"n" * 20], b"a" * 32)
    with home.sums.open("ab") as file:
        file.write(b"claim of a line that another process is writi")
    spent, as_it_was = inspected(home), home.sums.read_bytes()
    assert isinstance(fresh, Inspected)
    assert isinstance(spent, Inspected)

    assert (fresh.spent, spent.spent) == (False, True)
    assert home.sums.read_bytes() == as_it_was  # looking changes nothing
    tell_update(spent, as_json=False)
    assert "yes: a sum may have revealed it, and it goes into no other" in capsys.readouterr().out


def test_what_leaves_of_the_ledger_is_shown(tmp_path: Path):
    pytest.importorskip("dp_accounting")
    run = recipe(run={"versions": 3}, privacy={"differential": {"unit": "example", "epsilon": 4.0}})
    home, _ = waiting(tmp_path, run, parked=False)
    ledger = Ledger.open(home.ledger, home.witness(identity_at(home.key).client_id))
    ledger.charge("run-1", b"\xab" * 16, Spending(200, 32, 1.5, 10), "5e" * 32, 1_000.0)

    found = inspected(home)

    assert isinstance(found, Inspected)
    assert 2.0 < ledger.spent(1e-5) < 2.1
    assert found.privacy == "epsilon 2.1 at delta 1e-05 for one record so far, rounded up, and 2 lines of a ledger"
    assert "no losses" in beside(found)["beside it"]


def test_noise_is_named_where_the_recipe_adds_it(tmp_path: Path):
    run = recipe(run={"versions": 3}, privacy={"differential": {"unit": "example", "epsilon": 4.0, "delta": 1e-6}})

    found = inspected(waiting(tmp_path, run, parked=False)[0])

    assert isinstance(found, Inspected)
    assert "epsilon 4 over the run, delta 1e-06" in found.noise


def test_an_update_is_found_by_the_start_of_its_lease_or_digest(tmp_path: Path):
    home, _ = waiting(tmp_path, recipe(), parked=False)
    whole = inspected(home)
    assert isinstance(whole, Inspected)

    assert inspected(home, "abab") == inspected(home, whole.digest[:6].upper()) == whole
    with pytest.raises(UnknownName, match="no update in the outbox is called 'ff00'") as caught:
        inspected(home, "ff00")
    assert "abababababab" in str(caught.value.__notes__)


def test_a_damaged_update_is_not_shown(tmp_path: Path):
    home, _ = waiting(tmp_path, recipe(), parked=False)
    (path,) = home.blobs.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(BadTensor, match="is not what was sealed"):
        inspected(home)


def test_a_parked_update_opens_for_its_own_device_alone(tmp_path: Path):
    home, _ = waiting(tmp_path / "a", recipe(**SUMMED), parked=True)
    home.key.unlink()
    identity_at(home.key)

    with pytest.raises(BadTensor, match="another device's"):
        inspected(home)


def test_what_has_left_shows_its_verified_receipt(tmp_path: Path):
    """From a real coordinator: stopped before it left, then sent; what waits and what has left are one update."""
    run = recipe(run={"versions": 1}, aggregation={"cohort": 1, "minimum": 1})
    with hosting(tmp_path / "coordinator", run) as hosted:
        client = Client(tmp_path / "client", seed=1)
        member = client.enrol(hosted.invite())

        def stop_before_it_leaves(happening, session) -> None:
            if isinstance(happening, Moved) and happening.state is TaskState.OFFERING:
                session.stop()

        client.run(watch=stop_before_it_leaves)
        before = inspected(client.home)
        client.run()
        after = inspected(client.home, before.digest[:12] if isinstance(before, Inspected) else "")

    assert isinstance(before, Inspected)
    assert isinstance(after, Gone)
    assert after.receipt.digest.hex() == before.digest
    assert after.receipt.verdict == "ACCEPTED"
    assert after.signer == member.coordinator_id
    with pytest.raises(UnknownName, match="no update waits"):
        inspected(client.home)


def test_an_altered_receipt_is_refused(tmp_path: Path):
    run = recipe(run={"versions": 1}, aggregation={"cohort": 1, "minimum": 1})
    with hosting(tmp_path / "coordinator", run) as hosted:
        client = Client(tmp_path / "client", seed=1)
        member = client.enrol(hosted.invite())
        client.run()
    outbox = Outbox.open(client.home.outbox)
    (receipt,) = outbox.receipts(5)
    outbox.close()
    at = receipt.envelope.index(b"run") if b"run" in receipt.envelope else len(receipt.envelope) // 2
    altered = bytearray(receipt.envelope)
    altered[at] ^= 1

    with pytest.raises(BadSignature):
        receipt_signer(member, replace(receipt, envelope=bytes(altered)))
