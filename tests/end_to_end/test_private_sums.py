"""Both protections at once: sums that nobody can take apart, of updates that are noised, or with noise on them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import pytest

from coordinators import Hosted, hosting
from fakes import Client
from potluck.aggregation import decode, from_tensors, start
from potluck.client.endings import Ending
from potluck.client.identity import identity_at
from potluck.client.ledger import Ledger
from potluck.client.status import status_of
from potluck.client.training.bases import resolve
from potluck.client.training.completing import completed
from potluck.client.training.local import LocalTrainer
from potluck.client.work import Job, Stride, Trained, Word
from potluck.coordinator.checkpoints import TRUSTED
from potluck.coordinator.noising import release_of
from potluck.wire.audit import LOG_FILE
from potluck.wire.envelopes import Purpose, opened
from potluck.wire.recipe import Recipe
from potluck.wire.releases import verify_release
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope
from summing import COHORT, added, deltas_of, enrolled, play, summed_recipe
from tiny import tiny_base

MEMBERS = 5


def dense(adapter: bytes) -> np.ndarray:
    """Return all products of an adapter, one after another."""
    terms = from_tensors(decode(adapter, limits=TRUSTED))
    return np.concatenate([terms[name].dense().ravel() for name in sorted(terms)])


def version_of(hosted: Hosted) -> np.ndarray:
    """Return all products of version 1."""
    site = hosted.coordinator.desk.site
    return dense(site.folders.blobs.read(hosted.coordinator.history().versions[0].adapter_digest))


def in_b(recipe: Recipe, seed: int, products: np.ndarray) -> np.ndarray:
    """Return a change of all *products* of version 0 as one of its factors B, against the public A."""
    adapter = recipe.adapter
    begun = start({}, recipe.modules(), init=recipe.init, rank=adapter.rank, scale=adapter.scale, seed=seed).trainable
    parts = []
    for name, (d, k) in sorted(recipe.modules().items()):
        product, products = products[: d * k].reshape(d, k), products[d * k :]
        parts.append(product @ np.linalg.pinv(begun[name].a.astype(float)) / adapter.scale)
    return np.concatenate([part.ravel() for part in parts])


def receipt_of(client: Client) -> pb.Receipt:
    """Return the only receipt of a client, verified."""
    (kept,) = status_of(client.home).receipts
    return opened(Envelope.FromString(kept.envelope), Purpose.RECEIPT, kept.coordinator_id, pb.Receipt)


def logged(folder: Path, kind: str) -> list[dict[str, object]]:
    """Return the entries of that kind in the log of a coordinator that has ended."""
    lines = (folder / LOG_FILE).read_text("utf-8").splitlines()
    return [entry for entry in (json.loads(line)["entry"] for line in lines) if entry["kind"] == kind]


@dataclass
class Recording:
    """The real trainer, one client at a time; updates are kept to compare with what came of their sum."""

    inner: LocalTrainer
    turn: Lock = field(default_factory=Lock)
    made: list[Mapping[str, np.ndarray]] = field(default_factory=list)

    def prepare(self, job: Job) -> None:
        with self.turn:
            self.inner.prepare(job)

    def train(self, job: Job, on_step: Callable[[Stride], Word]) -> Trained | None:
        with self.turn:
            trained = self.inner.train(job, on_step)
        assert trained is not None
        self.made.append(trained.deltas)
        return trained


@pytest.fixture
def by_example(tmp_path: Path) -> Recipe:
    """Return a recipe of five members of a tiny model who protect single records in a secure sum."""
    base = resolve(str(tiny_base(tmp_path / "tiny")), cache=tmp_path)
    unit = {"unit": "example", "noise": 2.0, "participations": 2}
    written = summed_recipe(
        model={"base": str(base.folder), "digest": "", "modules": {}},
        data={"max_tokens": 32, "held_out": 0.2},
        training={"steps": 1, "batch": 2, "learning_rate": 1e-3},
        aggregation={"cohort": MEMBERS},
        privacy={"differential": unit},
        limits={"lease_s": 60.0},
    )
    return completed(written, tmp_path)


def test_records_are_protected_inside_a_secure_sum(by_example: Recipe, tmp_path: Path):
    """Each member pays from its own ledger for what nobody sees but in the sum, and the coordinator is its witness."""
    pytest.importorskip("dp_accounting")
    trainer = Recording(LocalTrainer(tmp_path))
    with hosting(tmp_path / "run", by_example) as hosted:
        clients = enrolled(tmp_path, hosted.invite(), range(MEMBERS))
        for client in clients:
            text = [json.dumps({"text": f"line {i} of member {client.seed}, of {i * i}"}) for i in range(12)]
            (client.folder / "text.jsonl").write_text("\n".join(text), "utf-8")
        ended = play(clients, trainer=lambda _: trainer).wait()
        assert ended == dict.fromkeys(range(MEMBERS), Ending.RUN_DONE)

        begun = hosted.coordinator.history().versions[-1]
        plain = dense(added(by_example, begun.seed, trainer.made))
        assert np.abs(version_of(hosted) - plain).max() < 1e-5 * np.abs(plain).max() + 1e-6
        made = hosted.coordinator.history().versions[0]
        assert (made.loss_before, made.loss_after) == (0.0, 0.0)  # a loss on one's text is not noised, so it stays
        site = hosted.coordinator.desk.site
        for client in clients:
            ledger = Ledger.open(client.home.ledger, client.home.witness(identity_at(client.home.key).client_id))
            assert len(ledger.entries) == 1
            status = status_of(client.home)
            receipt = receipt_of(client)
            assert (receipt.spent.unit, receipt.spent.lines, receipt.spent.delta) == ("example", 2, 1e-5)
            assert ledger.spent(1e-5) <= receipt.spent.epsilon < ledger.spent(1e-5) + 0.1
            with site.store.reading() as books:
                assert books.intake.ledger_lines(status.client_id) == 2


def test_a_secure_sum_is_noised_before_anybody_else_sees_it(tmp_path: Path):
    """The coordinator adds up what it cannot read, and publishes it with the noise that the recipe claims."""
    unit = {"unit": "user-central", "epsilon": 20.0, "participations": 1}
    recipe, folder = summed_recipe(privacy={"differential": unit}), tmp_path / "run"
    with hosting(folder, recipe) as hosted:
        clients = enrolled(tmp_path, hosted.invite(), range(COHORT))
        assert play(clients).wait() == dict.fromkeys(range(COHORT), Ending.RUN_DONE)

        begun = hosted.coordinator.history().versions[-1]
        plain = dense(added(recipe, begun.seed, [deltas_of(recipe, 0, seed) for seed in range(COHORT)]))
        noise = in_b(recipe, begun.seed, version_of(hosted) - plain)
        told = [receipt_of(client).spent for client in clients]
    release = release_of(recipe)
    assert release.rounding > 0
    assert noise.size == 64
    assert 0.6 < noise.std() / (release.scale / COHORT) < 1.4  # of 64 numbers: 4.5 of its own deviations
    assert np.linalg.norm(plain) > 0
    assert [(one.unit, one.epsilon) for one in told] == [("user-central", 20.0)] * COHORT
    (revealed,) = logged(folder, "sum_revealed")
    (committed,) = logged(folder, "round_committed")
    assert not {"clipped", "digest", "sum_digest"} & set(revealed)
    assert len(revealed["members"]) == COHORT
    assert (committed["noised"], committed["summed"]) == (COHORT, COHORT)
    assert verify_release(folder / "releases" / "v0001").facts["loss_after"] == 0.0
