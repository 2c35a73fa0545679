"""A private run as volunteers have it: a real session, a real model, TLS, a ledger; and what is shown of it."""

import json
import math
from pathlib import Path

import pytest

from coordinators import Hosted, hosting
from fakes import Client
from potluck.client.consent import promise_of
from potluck.client.endings import Ending
from potluck.client.errors import BadLedger, OverBudget
from potluck.client.identity import identity_at
from potluck.client.ledger import Ledger
from potluck.client.limits import Limits
from potluck.client.status import status_of
from potluck.client.training.bases import resolve
from potluck.client.training.completing import completed
from potluck.client.training.local import LocalTrainer
from potluck.coordinator.model_card import model_card
from potluck.wire.envelopes import Purpose, opened
from potluck.wire.recipe import Recipe
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope
from tiny import tiny_base

pytest.importorskip("dp_accounting")
VERSIONS = 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def recipe(cache: Path) -> Recipe:
    base = resolve(str(tiny_base(cache / "tiny")), cache=cache)
    written = {
        "run": {"name": "private", "versions": VERSIONS},
        "model": {"base": str(base.folder)},
        "adapter": {"rank": 2, "targets": ["q_proj"]},
        "data": {"max_tokens": 32, "held_out": 0.2},
        "training": {"steps": 3, "batch": 4, "learning_rate": 1e-2},
        "aggregation": {"rule": "ffa", "cohort": 1, "minimum": 1},
        "limits": {"poll_min_s": 0.02, "poll_max_s": 0.1, "lease_s": 60.0},
        "privacy": {"differential": {"unit": "example", "epsilon": 8.0, "noise": 2.0, "participations": 5}},
    }
    return completed(Recipe.parse(json.dumps(written)), cache)


@pytest.fixture
def hosted(recipe: Recipe, tmp_path: Path):
    with hosting(tmp_path / "coordinator", recipe) as made:
        yield made


@pytest.fixture
def client(hosted: Hosted, tmp_path: Path) -> Client:
    made = Client(tmp_path / "client", seed=1)
    made.folder.mkdir()
    lines = [json.dumps({"text": f"speech {i} of a play with {i * i} acts"}) for i in range(30)]
    (made.folder / "text.jsonl").write_text("\n".join(lines), "utf-8")
    made.enrol(hosted.invite())
    return made


def ledger_of(client: Client) -> Ledger:
    return Ledger.open(client.home.ledger, client.home.witness(identity_at(client.home.key).client_id))


def test_every_round_is_paid_and_epsilon_is_in_every_receipt(
    hosted: Hosted, client: Client, cache: Path, recipe: Recipe
):
    ended = client.run(LocalTrainer(cache))

    assert ended.ending is Ending.RUN_DONE
    ledger, status = ledger_of(client), status_of(client.home)
    assert len(ledger.entries) == VERSIONS
    receipts = [
        opened(Envelope.FromString(kept.envelope), Purpose.RECEIPT, kept.coordinator_id, pb.Receipt)
        for kept in status.receipts
    ]
    told = [(receipt.spent.unit, receipt.spent.lines) for receipt in receipts]
    assert told == [("example", 3), ("example", 2)]  # newest first; a line names the ledger
    for receipt, rounds in zip(receipts, (2, 1), strict=True):
        exact = Ledger.open(client.home.ledger, cache / "nowhere").entries[:rounds]
        assert len(exact) == rounds
        assert 0 < receipt.spent.epsilon <= 8.0
        assert receipt.spent.delta == 1e-5
    whole = ledger.spent(1e-5)
    assert whole <= receipts[0].spent.epsilon < whole + 0.1  # rounded up to a tenth, so that it tells less of N
    used = math.ceil(100 * whole) / 100
    assert status.privacy == (
        f"epsilon {used:.2f} used of the 8 that this run may tell of any one record, {used:.2f} of the 8 that you "
        "allow over all runs (delta 1e-05; the smaller, the less is told); 2 of 5 rounds"
    )
    assert status.mode.endswith("can read each update by itself, and noise hides any one record in it")
    site = hosted.coordinator.desk.site
    with site.store.reading() as books:
        updates = books.intake.rounds_of(status.client_id)
        version = books.versions.find(VERSIONS)
    assert version is not None
    assert len(updates) == VERSIONS
    assert (version.loss_before, version.loss_after) == (0.0, 0.0)  # a loss on one's text is not noised
    facts = {
        "run_id": "r",
        "coordinator_id": "c",
        "weighted_down": 0,
        "updates": 1,
        "probe": None,
        "rank": 8,
        "recipe_digest": "d",
        "log_index": 1,
        "log_hash": "h",
    }
    card = model_card(recipe, version, facts)
    assert "epsilon 8, delta 1e-05, over at most 5 rounds of a client, for one record" in card
    assert "epsilon 8 at delta 1e-05 for one record that is there or not, over at most 5 rounds" in promise_of(recipe)


def test_a_session_ends_where_the_owner_allows_no_more(client: Client, cache: Path):
    Limits(max_epsilon=0.5, min_free_disk_gib=0, min_free_ram_gib=0).write(client.home.limits)

    with pytest.raises(OverBudget, match=r"your limit allows 0\.5; nothing was trained"):
        client.run(LocalTrainer(cache))

    assert not client.home.ledger.exists()
    assert status_of(client.home).tasks == ()  # the lease was given back


def test_a_ledger_that_was_lost_with_its_witness_is_refused_by_what_the_coordinator_saw(client: Client, cache: Path):
    def one_round(happening: object, session: object) -> None:
        if type(happening).__name__ == "Received":
            session.stop()  # type: ignore[attr-defined]

    client.run(LocalTrainer(cache), watch=one_round)
    assert len(ledger_of(client).entries) == 1
    client.home.ledger.unlink()
    client.home.witness(identity_at(client.home.key).client_id).unlink()

    with pytest.raises(BadLedger, match="the ledger has 0 lines, and the coordinator has seen 2"):
        client.run(LocalTrainer(cache))
