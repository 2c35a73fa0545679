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
from potluck.client.events import Moved
from potluck.client.home import Home, store
from potluck.client.identity import identity_at
from potluck.client.inspection import Gone, Inspected, inspected, receipt_signer
from potluck.client.outbox.store import Outbox
from potluck.client.parked import contribution, park
from potluck.client.records import Membership, Sealed, Terms
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
    assert len(found.signature) == 128
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
