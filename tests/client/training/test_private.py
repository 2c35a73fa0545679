"""Private training on a real model: exact gradients of single records, noise of the claimed size, and what is paid."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from potluck.aggregation import start
from potluck.client.account import Account
from potluck.client.accounting import Spending
from potluck.client.errors import NotPaid, OverBudget
from potluck.client.ledger import Ledger
from potluck.client.readers import Part, Sample
from potluck.client.training.adapters import attach, trained_factors, trained_parameters
from potluck.client.training.bases import Base, load
from potluck.client.training.batches import Tokens
from potluck.client.training.completing import completed
from potluck.client.training.local import LocalTrainer
from potluck.client.training.losses import loss_sum
from potluck.client.training.private import Privately, clipped_sum, noise_at, put_gradient
from potluck.client.training.private_gradients import ENGINES, checked_engine, norms
from potluck.client.training.private_records import Records, records_of
from potluck.client.work import Job, Stride, Trained, Word
from potluck.wire.noise import SecretNoise
from potluck.wire.recipe import Adapter, Recipe

dp = pytest.importorskip("dp_accounting")
CPU = torch.device("cpu")
SEED = bytes(range(32))
SEED_DIGEST = SecretNoise(SEED).digest
CLIP = 0.3
ROWS = tuple(
    Tokens(tuple(ord(c) + 3 for c in text), (True,) * len(text))
    for text in ("the cat sat on the mat", "a dog", "hens and foxes, hens and foxes", "cow", "zebras do not moo")
)
RECORDS = Records(ROWS, 0)


def adapted(model, moves: str = "b"):
    """Put a LoRA adapter of rank 2 on the tiny model, away from its start."""
    shapes = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(("q_proj", "down_proj"))
    }
    settings = Adapter(rank=2, alpha=4.0)
    began = start({}, shapes, init="continue", rank=2, scale=settings.scale, seed=1)
    lora = attach(model, began.trainable, began.tail, settings, moves)
    with torch.no_grad():
        for i, parameter in enumerate(factor for b, a, _ in trained_factors(lora) for factor in (b, a)):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return lora.train()


def privately(noise: float = 4.0, batch: int = 1, seed: bytes = SEED, cap: int = 0) -> Privately:
    return Privately(RECORDS, Spending(len(RECORDS), batch, noise, 40, cap), CLIP, SecretNoise(seed))


# -- gradients of single records ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("moves", ["b", "a", "both"])
def test_every_engine_gives_autograds_gradient_of_every_record(loaded, engine: str, moves: str):
    model = adapted(loaded[0], moves)
    parameters = trained_parameters(model)

    found, _ = ENGINES[engine](model, RECORDS.batch(range(5)))

    for i in range(5):
        alone = RECORDS.batch([i])
        loss = loss_sum(model, alone) / alone.trained_tokens
        wanted = torch.autograd.grad(loss, list(parameters.values()))
        size = math.sqrt(sum(float(g.square().sum()) for g in wanted))
        gap = math.sqrt(
            sum(float((found[name][i] - g).square().sum()) for name, g in zip(parameters, wanted, strict=True))
        )
        assert size > 1e-3
        assert gap <= 1e-5 * size
    assert all(parameter.grad is None for parameter in parameters.values())


def test_the_quick_engine_is_taken_where_it_is_exact(loaded):
    assert checked_engine(adapted(loaded[0]), RECORDS.batch([0, 1])) is ENGINES["hooks"]


def test_where_a_batch_changes_a_records_rounding_records_are_taken_one_by_one(base: Base, caplog):
    model, _ = load(base, CPU, torch.bfloat16)
    caplog.set_level(logging.INFO)

    assert checked_engine(adapted(model), RECORDS.batch([0, 1])) is ENGINES["loop"]
    assert "engine_refused engine=hooks" in caplog.text


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_one_record_never_moves_the_sum_further_than_the_clip(loaded, engine: str):
    model, how = adapted(loaded[0]), replace(privately(), clip=0.02)
    everybody, _ = clipped_sum(model, how, list(range(5)), ENGINES[engine])

    for left_out in range(5):
        without, _ = clipped_sum(model, how, [i for i in range(5) if i != left_out], ENGINES[engine])
        moved = math.sqrt(sum(float((everybody[name] - without[name]).square().sum()) for name in everybody))
        assert moved == pytest.approx(0.02, rel=1e-3)  # every record's gradient is longer, and is shrunk to it


def test_nobody_drawn_is_a_sum_of_nothing(loaded):
    total, seen = clipped_sum(adapted(loaded[0]), privately(), [], ENGINES["hooks"])

    assert float(norms({name: value[None] for name, value in total.items()})) == 0.0
    assert seen.tolist() == [0.0, 0.0]


# -- who is drawn ---------------------------------------------------------------------------------------------------


def test_records_are_drawn_by_coins_of_their_own():
    many = Records(ROWS * 40, 0)
    how = Privately(many, Spending(200, 20, 1.0, 1), CLIP, SecretNoise(SEED))
    drawn = np.zeros((2_000, 200))
    for step in range(2_000):
        drawn[step, how.drawn(step)] = 1

    counts = drawn.sum(axis=1)
    assert counts.mean() == pytest.approx(20, abs=0.5)
    assert counts.var() == pytest.approx(200 * 0.1 * 0.9, rel=0.15)  # a batch of a fixed size has none
    assert drawn.mean(axis=0) == pytest.approx(0.1, abs=0.035)
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01


def test_a_cap_keeps_a_random_choice_of_those_drawn():
    many = Records(ROWS * 40, 0)
    free = Privately(many, Spending(200, 20, 1.0, 1), CLIP, SecretNoise(SEED))
    capped = replace(free, spending=Spending(200, 20, 1.0, 1, cap=22))
    cut = [step for step in range(500) if len(free.drawn(step)) > 22]

    assert len(cut) > 50
    assert all(len(capped.drawn(step)) == 22 and set(capped.drawn(step)) <= set(free.drawn(step)) for step in cut)
    assert all(capped.drawn(step) == free.drawn(step) for step in range(500) if step not in cut)
    kept = np.mean(
        [np.mean([free.drawn(step).index(i) for i in capped.drawn(step)]) / len(free.drawn(step)) for step in cut]
    )
    assert kept == pytest.approx(0.5, abs=0.05)  # not the first ones


# -- noise of the claimed size, on the code that trains; and that a wrong one is found --------------------------------

Step = Callable[[object, Privately, int], list[np.ndarray]]


def real_step(model, how: Privately, step: int) -> list[np.ndarray]:
    """Return the gradient that the optimiser gets, as training makes it."""
    parameters = trained_parameters(model)
    total, _ = clipped_sum(model, how, how.drawn(step), ENGINES["hooks"])
    put_gradient(parameters, total, how, step)
    return [parameter.grad.numpy().ravel() for parameter in parameters.values()]


def fixed_seed(model, how: Privately, step: int) -> list[np.ndarray]:
    parameters = trained_parameters(model)
    total, _ = clipped_sum(model, how, how.drawn(step), ENGINES["hooks"])
    put_gradient(parameters, total, how, 0)
    return [parameter.grad.numpy().ravel() for parameter in parameters.values()]


def skips_empty(model, how: Privately, step: int) -> list[np.ndarray]:
    found = real_step(model, how, step)
    return found if how.drawn(step) else [np.zeros_like(value) for value in found]


def divides_by_those_drawn(model, how: Privately, step: int) -> list[np.ndarray]:
    drawn = max(1, len(how.drawn(step)))
    return [value * how.spending.batch / drawn for value in real_step(model, how, step)]


def no_noise(model, how: Privately, step: int) -> list[np.ndarray]:
    return real_step(model, replace(how, spending=replace(how.spending, noise=0.0)), step)


def findings(model, how: Privately, take: Step) -> list[str]:
    """Return what is wrong with the noise of *take*, over 40 steps of about 500 numbers."""
    steps = np.array([np.concatenate(take(model, how, step)) for step in range(40)])
    claimed = how.spending.noise * how.clip / how.spending.batch
    sizes = steps.std(axis=1) / claimed
    directions = steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-12)
    likeness = (directions @ directions.T)[np.triu_indices(40, 1)]
    found = []
    if abs(np.sqrt((sizes**2).mean()) - 1) > 0.03:
        found.append("the noise is of another size")
    if (np.abs(sizes - 1) > 0.25).any():
        found.append("a step has noise of another size")
    if np.abs(likeness).max() > 0.3:
        found.append("steps share their noise")
    return found


def test_the_noise_of_training_is_what_is_claimed(loaded):
    model, how = adapted(loaded[0]), privately()

    assert [] in [how.drawn(step) for step in range(40)]  # empty steps are among them
    assert findings(model, how, real_step) == []


@pytest.mark.parametrize(
    ("take", "words"),
    [
        (fixed_seed, "steps share their noise"),
        (skips_empty, "a step has noise of another size"),
        (divides_by_those_drawn, "a step has noise of another size"),
        (no_noise, "the noise is of another size"),
    ],
)
def test_a_mistake_with_the_noise_is_found(loaded, take: Step, words: str):
    assert words in findings(adapted(loaded[0]), privately(), take)


def test_every_lease_has_a_secret_seed_of_its_own(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "chmod", lambda *_, **__: pytest.fail("it was open to others before"))
    one, other = noise_at(tmp_path / "one"), noise_at(tmp_path / "other")

    assert not (one.gaussian("x", 9) == other.gaussian("x", 9)).any()
    assert (one.gaussian("x", 9) == noise_at(tmp_path / "one").gaussian("x", 9)).all()
    assert (tmp_path / "one" / "noise.seed").stat().st_mode & 0o077 == 0


# -- records --------------------------------------------------------------------------------------------------------


def test_a_record_is_one_row_and_equal_ones_are_one(shared):
    tokenizer = shared[1]
    samples = [Sample((Part("", text, trained=True),)) for text in ("abc" * 40, "hello", "hello", "x")]

    records = records_of(samples, tokenizer, 16)

    assert [len(row.ids) for row in records.rows] == [16, 6, 2]
    assert records.rows[0].ids == tuple(ord(c) + 3 for c in "abcabcabcabcabca")


# -- a whole round --------------------------------------------------------------------------------------------------

SETTINGS = {
    "run": {"name": "tiny"},
    "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "down_proj"]},
    "data": {"max_tokens": 32, "held_out": 0.2, "format": "auto"},
    "training": {"steps": 5, "batch": 4, "learning_rate": 2e-2, "checkpoint_steps": 2},
    "aggregation": {"rule": "ffa"},
    "privacy": {"differential": {"unit": "example", "epsilon": 8.0, "participations": 3, "noise": 2.0}},
}


@pytest.fixture(scope="module")
def recipe(base: Base) -> Recipe:
    written = Recipe.parse(json.dumps(SETTINGS | {"model": {"base": str(base.folder)}}))
    return completed(written, base.folder.parent / "cache")


class Steady:
    """A clock that stands."""

    def wall_s(self) -> float:
        return 5.0

    def monotonic_s(self) -> float:
        return 5.0


@pytest.fixture
def job(recipe: Recipe, tmp_path: Path) -> Job:
    lines = [json.dumps({"text": f"animal number {i} sat on mat {i * i}"}) for i in range(30)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines), "utf-8")
    ledger = Ledger.open(tmp_path / "ledger.jsonl", tmp_path / "witness.json")
    account = Account(ledger, "run", bytes(16), 8.0, Steady())
    return Job(recipe, None, 0, 7, 7, tmp_path / "text.jsonl", tmp_path / "task", 1, account)


def trained(job: Job, base: Base, on_step: Callable[[Stride], Word] = lambda _: Word.GO) -> Trained | None:
    trainer = LocalTrainer(base.folder.parent / "cache")
    trainer.prepare(job)
    return trainer.train(job, on_step)


def test_a_round_is_paid_once_and_tells_nothing_that_is_not_noised(job: Job, base: Base):
    done = trained(job, base)

    assert done is not None
    assert (done.loss_before, done.loss_after, done.tokens) == (0.0, 0.0, 0)
    assert done.examples == 20  # what the recipe says, whoever was drawn
    assert {name.rpartition(".")[2] for name in done.deltas} == {"lora_B"}
    assert all(np.abs(value).max() > 0 for value in done.deltas.values())
    assert len(job.account.ledger.entries) == 1
    assert trained(job, base) is not None  # after a crash, from the checkpoint
    assert len(job.account.ledger.entries) == 1


def test_the_same_seed_makes_other_noise_for_other_text(job: Job, base: Base):
    """As many records, one of them edited: under one noise the difference of two updates would be free of it."""
    first = trained(job, base)
    seed = (job.folder / "noise.seed").read_bytes()
    edited = job.data.read_text("utf-8").replace("number 1 sat", "number one sat")
    assert edited != job.data.read_text("utf-8")
    job.data.write_text(edited, "utf-8")
    second = trained(job, base)

    assert (job.folder / "noise.seed").read_bytes() == seed
    assert first is not None
    assert second is not None
    paid = job.account.ledger.entries
    assert [entry.spending for entry in paid] == [paid[0].spending] * 2
    assert len({entry.seed_digest for entry in paid} | {SecretNoise(seed).digest}) == 3
    norm = math.sqrt(sum(float(np.square(first.deltas[name] - second.deltas[name]).sum()) for name in first.deltas))
    size = math.sqrt(sum(float(np.square(value).sum()) for value in first.deltas.values()))
    assert norm > 0.5 * size


def test_the_same_lease_with_other_noise_is_paid_again_or_refused(job: Job, base: Base):
    """The home was purged, or its outbox moved away, and the coordinator gives the lease of before once more."""
    told = []
    for _ in range(3):  # as many as the recipe's participations
        done = trained(job, base)
        assert done is not None
        told.append(done.deltas)
        shutil.rmtree(job.folder)

    assert len(job.account.ledger.entries) == 3
    assert all((told[0][name] != told[1][name]).any() for name in told[0])
    with pytest.raises(OverBudget, match="took part in 3 rounds of this run, and its recipe allows 3"):
        trained(job, base)
    other_run = replace(job, account=replace(job.account, run_id="other"))
    before = job.account.ledger.spent(1e-5)
    assert trained(other_run, base) is not None
    assert job.account.ledger.spent(1e-5) > before


class Looking(Steady):
    """A clock that notes what is in a folder whenever it is looked at, which a charge does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[bytes] = []

    def wall_s(self) -> float:
        self.seen.append((self.folder / "noise.seed").read_bytes())
        return 5.0


def test_the_seed_that_is_paid_for_is_on_the_disk_before_the_charge(job: Job, base: Base):
    clock = Looking(job.folder)

    assert trained(replace(job, account=replace(job.account, clock=clock)), base) is not None

    assert clock.seen == [(job.folder / "noise.seed").read_bytes()]
    assert [len(seed) for seed in clock.seen] == [32]


def test_the_ledgers_epsilon_is_dp_accountings_for_what_was_done(job: Job, base: Base):
    for lease in range(3):
        again = replace(job, account=replace(job.account, lease_id=bytes([lease]) * 16), folder=job.folder / str(lease))
        assert trained(again, base) is not None
    records = job.account.ledger.entries[0].spending.records
    counter = dp.pld.PLDAccountant()
    counter.compose(dp.PoissonSampledDpEvent(4 / records, dp.GaussianDpEvent(2.0)), 15)

    assert 20 <= records < 30
    assert job.account.ledger.spent(1e-5) == counter.get_epsilon(1e-5)


def test_an_interrupted_round_ends_in_the_same_bits(job: Job, base: Base):
    whole = trained(job, base)
    cut = replace(job, folder=job.folder.with_name("cut"), account=replace(job.account, lease_id=bytes([9]) * 16))
    cut.folder.mkdir()
    (cut.folder / "noise.seed").write_bytes((job.folder / "noise.seed").read_bytes())

    assert trained(cut, base, lambda stride: Word.SUSPEND if stride.done == 3 else Word.GO) is None
    assert not job.account.ledger.entries[1:]  # nothing can be seen of it yet
    resumed = trained(cut, base)

    assert whole is not None
    assert resumed is not None
    assert all((whole.deltas[name] == resumed.deltas[name]).all() for name in whole.deltas)


def test_a_round_over_the_owners_budget_is_refused_before_training(job: Job, base: Base):
    poor = replace(job, account=replace(job.account, max_epsilon=0.5))

    with pytest.raises(
        OverBudget, match=r"from 0\.000 to \d\.\d+ at delta 1e-05, and your limit allows 0\.5"
    ) as refused:
        LocalTrainer(base.folder.parent / "cache").prepare(poor)
    assert "potluck limits max_epsilon" in refused.value.__notes__[0]
    with pytest.raises(OverBudget):
        LocalTrainer(base.folder.parent / "cache").train(poor, lambda _: Word.GO)
    assert job.account.ledger.length == 0


def test_a_round_that_was_paid_for_more_records_is_checked_again(job: Job):
    """Paid on 2,000 records, killed, and trained again after most of the text was deleted: epsilon is another."""
    terms = job.recipe.privacy.differential.model_copy(update={"noise": 0.8})
    privacy = job.recipe.privacy.model_copy(update={"differential": terms})
    recipe = job.recipe.model_copy(update={"privacy": privacy})
    many = job.account.check(recipe, 2_000, SEED_DIGEST)
    job.account.charge(many, SEED_DIGEST)

    with pytest.raises(OverBudget, match="the run's recipe allows 8"):
        job.account.check(recipe, 5, SEED_DIGEST)
    assert job.account.check(recipe, 2_000, SEED_DIGEST) == many  # the same round again costs nothing
    some = job.account.check(recipe, 1_500, SEED_DIGEST)
    job.account.charge(some, SEED_DIGEST)
    assert job.account.ledger.spendings() == [many, some]


def test_a_run_is_over_for_a_text_after_its_participations(job: Job, base: Base):
    for lease in range(3):
        job.account.ledger.charge("run", bytes([lease + 1]) * 16, Spending(24, 4, 50.0, 5), SEED_DIGEST, 0.0)

    with pytest.raises(OverBudget, match="took part in 3 rounds of this run, and its recipe allows 3"):
        LocalTrainer(base.folder.parent / "cache").prepare(job)


def test_without_a_ledger_nothing_is_trained(job: Job, base: Base):
    with pytest.raises(NotPaid):
        LocalTrainer(base.folder.parent / "cache").prepare(replace(job, account=None))


def test_noise_that_the_recipe_leaves_open_spends_its_epsilon(job: Job):
    terms = job.recipe.privacy.differential.model_copy(update={"noise": 0.0, "epsilon": 3.0})
    privacy = job.recipe.privacy.model_copy(update={"differential": terms})
    open_ended = replace(job, recipe=job.recipe.model_copy(update={"privacy": privacy}))

    spending = open_ended.account.check(open_ended.recipe, 24, SEED_DIGEST)
    for lease in range(3):
        job.account.ledger.charge("run", bytes([lease + 1]) * 16, spending, SEED_DIGEST, 0.0)

    assert 2.97 < job.account.ledger.spent(1e-5) <= 3.0
