"""The trainer of a volunteer's machine, on a real model.

The same job always ends in the same bits, and what comes out is what the coordinator puts together again.
"""

import gc
import inspect
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from potluck.aggregation import LowRank, broadcast, encode, from_deltas, start, to_tensors
from potluck.aggregation.errors import BadTensor
from potluck.client.data import NoData
from potluck.client.flags import sieve_of
from potluck.client.starts import adapter_at, begun
from potluck.client.training.adapters import attach, detach, mount
from potluck.client.training.bases import Base, load, pick_device, pick_dtype
from potluck.client.training.completing import completed
from potluck.client.training.errors import BadBase, NoBase
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.local import LocalTrainer, texts_of
from potluck.client.work import Job, Stride, Trained, Trainer, Word
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import Manifest
from tiny import random_adapter, tiny_base

STEPS = 5
SEED = 11
TEXT = "\n\n".join(
    f"{word.capitalize()} sat on the mat and ate the {word}. " * 8 for word in ("cat", "dog", "hen", "fox", "cow")
)
SETTINGS = {
    "run": {"name": "tiny"},
    "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "down_proj"]},
    "data": {"max_tokens": 48, "held_out": 0.3},
    "training": {"steps": STEPS, "batch": 2, "learning_rate": 2e-2, "checkpoint_steps": 2},
}


@pytest.fixture(scope="module")
def recipe(base: Base) -> Recipe:
    written = Recipe.parse(json.dumps(SETTINGS | {"model": {"base": str(base.folder)}}))
    return completed(written, base.folder.parent / "cache")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return notes(tmp_path)


def notes(folder: Path) -> Path:
    """Write a volunteer's text."""
    (folder / "notes").mkdir()
    (folder / "notes" / "animals.txt").write_text(TEXT, "utf-8")
    return folder / "notes"


@pytest.fixture(scope="module")
def expected(base: Base, recipe: Recipe, tmp_path_factory) -> Trained:
    """What the job gives that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = job_from(recipe, notes(folder), folder, master(recipe))
    return LocalTrainer(base.folder.parent / "cache").train(job, go)


@pytest.fixture
def trainer(base: Base) -> LocalTrainer:
    return LocalTrainer(base.folder.parent / "cache")


@pytest.fixture
def job(recipe: Recipe, data: Path, tmp_path: Path) -> Job:
    """A job that starts from a shared adapter of rank 8, four times what the volunteer trains."""
    return job_from(recipe, data, tmp_path, master(recipe))


def job_from(recipe: Recipe, data: Path, folder: Path, adapter: dict[str, LowRank] | None) -> Job:
    """Return a job whose shared adapter is in a file, as the coordinator publishes it."""
    path = None if adapter is None else blob(folder, recipe, adapter)
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    return Job(recipe, path, version=3, seed=SEED, order=5, data=data, folder=tasks, threads=1)


def blob(folder: Path, recipe: Recipe, adapter: dict[str, LowRank]) -> Path:
    """Write *adapter* as the coordinator publishes it, named by its SHA-256 as a client keeps it."""
    data = encode(to_tensors(broadcast(adapter, recipe.adapter.init)), "fp32")
    path = folder / sha256(data).hexdigest()
    path.write_bytes(data)
    return path


def master(recipe: Recipe, rank: int = 8) -> dict[str, LowRank]:
    return random_adapter(recipe.modules(), rank, seed=2)


def elsewhere(job: Job, name: str) -> Job:
    """Return the same job with a folder of its own: as another machine would do it."""
    folder = job.folder.parent / name
    folder.mkdir()
    return replace(job, folder=folder)


def bits(trained: Trained) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in trained.deltas.items()}


def go(_: Stride) -> Word:
    return Word.GO


def test_it_is_a_trainer_as_the_session_knows_one():
    for name in ("prepare", "train"):
        assert inspect.signature(getattr(LocalTrainer, name)) == inspect.signature(getattr(Trainer, name))


def test_what_looks_private_changes_no_bit_of_an_update(base: Base, job: Job):
    """A note with a key and an address in it, beside the others: left out, the update is as if it were not there."""
    cache = base.folder.parent / "cache"
    without = LocalTrainer(cache, sieve=sieve_of(keep_flagged=False)).train(job, go)
    (job.data / "private.md").write_text("Ask ann@example.org for ghp_" + "a1B2" * 9 + ". " * 200, "utf-8")

    sieved = LocalTrainer(cache, sieve=sieve_of(keep_flagged=False)).train(elsewhere(job, "sieved"), go)
    kept = LocalTrainer(cache, sieve=sieve_of(keep_flagged=True)).train(elsewhere(job, "kept"), go)

    assert bits(sieved) == bits(without)
    assert replace(sieved, deltas={}) == replace(without, deltas={})
    assert kept.examples == without.examples + 1


def test_the_same_job_ends_in_the_same_bits(trainer: LocalTrainer, base: Base, job: Job):
    """In the same process, where the base stays in memory, and in a trainer that loads it anew."""
    told: list[Stride] = []
    first = trainer.train(job, lambda stride: (told.append(stride), Word.GO)[1])

    again = trainer.train(elsewhere(job, "again"), go)
    other = LocalTrainer(base.folder.parent / "cache").train(elsewhere(job, "other"), go)

    assert bits(first) == bits(again) == bits(other)
    assert replace(first, deltas={}) == replace(again, deltas={}) == replace(other, deltas={})
    assert [(stride.done, stride.total) for stride in told] == [(n, STEPS) for n in range(1, STEPS + 1)]
    assert first.steps == STEPS
    assert first.tokens == STEPS * 2 * (48 - 1)  # a row of 48 tokens has 47 predictions
    assert first.examples == len(texts_of(job.recipe, job.data).train)


def test_another_order_is_another_update(trainer: LocalTrainer, job: Job):
    """Were the order of samples no part of it, all of a client's rounds would see the same rows."""
    assert bits(trainer.train(job, go)) != bits(trainer.train(replace(elsewhere(job, "other"), order=6), go))


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_a_suspend_at_any_step_changes_nothing(trainer: LocalTrainer, job: Job, expected: Trained, at: int):
    """The process may be another one afterwards, so the second half is done by another trainer."""
    first = trainer.train(job, lambda stride: Word.SUSPEND if stride.done == at else Word.GO)
    told: list[int] = []
    second = trainer.train(job, lambda stride: (told.append(stride.done), Word.GO)[1])

    assert (first is None) == (at < STEPS)  # after the last step there is nothing left to suspend
    assert told == list(range(at + 1, STEPS + 1))
    assert bits(second) == bits(expected)
    assert replace(second, deltas={}) == replace(expected, deltas={})


def test_suspended_at_every_step_it_still_arrives(trainer: LocalTrainer, job: Job, expected: Trained):
    """A laptop whose owner comes back every minute."""
    calls = [trainer.train(job, lambda _: Word.SUSPEND) for _ in range(STEPS)]

    assert calls[:-1] == [None] * (STEPS - 1)
    assert bits(calls[-1]) == bits(expected)


def test_stop_returns_nothing_and_keeps_nothing(trainer: LocalTrainer, job: Job):
    assert trainer.train(job, lambda _: Word.STOP) is None
    assert not list(job.folder.iterdir())


def test_a_job_whose_last_step_was_taken_returns_its_result_at_once(trainer: LocalTrainer, job: Job):
    """The program may be killed between the last step and the outbox."""
    expected = trainer.train(job, go)

    again = trainer.train(job, lambda _: pytest.fail("a step was taken"))

    assert bits(again) == bits(expected)


@pytest.mark.parametrize("init", ["continue", "orthonormal", "fresh"])
def test_the_coordinator_puts_the_very_model_together_again(
    base: Base, recipe: Recipe, data: Path, tmp_path: Path, init
):
    """Deltas off the wire + the start that the coordinator works out itself = the model that the client measured."""
    settings = recipe.adapter.model_copy(update={"init": init})
    job = job_from(recipe.model_copy(update={"adapter": settings}), data, tmp_path, master(recipe))

    trained = LocalTrainer(base.folder.parent / "cache").train(job, go)

    Manifest.of_update(recipe.modules(), settings.rank).check(trained.deltas)
    published = adapter_at(job.adapter, job.recipe)
    began = start(
        published, recipe.modules(), init=init, rank=settings.rank, scale=settings.scale, seed=SEED
    )  # as the coordinator does, from what it published
    update = from_deltas(trained.deltas, began.trainable, examples=trained.examples)
    assert loss_of(base, job, published) == pytest.approx(trained.loss_before, rel=2e-3)
    assert loss_of(base, job, summed(update.trained, began.tail)) == pytest.approx(trained.loss_after, rel=2e-3)
    assert trained.loss_before - trained.loss_after > 0.02 * trained.loss_before  # more than the tolerance: it learned


def test_version_0_starts_at_the_base(trainer: LocalTrainer, base: Base, recipe: Recipe, data: Path, tmp_path: Path):
    job = job_from(recipe, data, tmp_path, None)

    trained = trainer.train(job, go)

    assert trained.loss_before == pytest.approx(loss_of(base, job, None), rel=2e-3)
    assert 0 < trained.loss_after < trained.loss_before


def test_with_an_adapter_of_a_higher_rank_the_model_is_base_plus_master(loaded, job: Job):
    """Nothing of the shared adapter is lost where a volunteer trains less than all of it."""
    ids = torch.randint(3, 259, (2, 17), generator=torch.Generator().manual_seed(5))
    began = begun(job)
    expected = base_plus(loaded[0], adapter_at(job.adapter, job.recipe), ids)

    adapted = attach(loaded[0], began.trainable, began.tail, job.recipe.adapter)

    torch.testing.assert_close(adapted(ids).logits.double(), expected, atol=2e-4, rtol=2e-4)
    assert {term.rank for term in began.trainable.values()} == {2}
    assert {term.rank for term in began.tail.values()} == {6}


def test_prepare_changes_nothing(trainer: LocalTrainer, job: Job, expected: Trained):
    """Not the text, not the folder of the task, and not a bit of what training gives."""
    before = {path: path.read_bytes() for path in job.data.rglob("*")}

    trainer.prepare(job)

    assert not list(job.folder.iterdir())
    assert {path: path.read_bytes() for path in job.data.rglob("*")} == before
    assert bits(trainer.train(job, go)) == bits(expected)


def test_a_suspended_trainer_gives_the_memory_back(trainer: LocalTrainer, job: Job):
    """An owner who needs the machine needs its memory, too."""
    before = models()
    trainer.prepare(job)
    assert models() == before + 1

    assert trainer.train(job, lambda _: Word.SUSPEND) is None

    assert models() == before


def test_one_recipe_s_base_stays_in_memory_and_gives_way_to_another_s(
    trainer: LocalTrainer, recipe: Recipe, job: Job, tmp_path: Path
):
    before = models()
    trainer.prepare(job)
    trainer.prepare(job)
    assert models() == before + 1

    larger = json.dumps(SETTINGS | {"model": {"base": str(tiny_base(tmp_path / "larger", hidden=32))}})
    other = completed(Recipe.parse(larger), tmp_path / "cache")
    trained = trainer.train(job_from(other, job.data, tmp_path, None), go)

    assert models() == before + 1
    Manifest.of_update(other.modules(), 2).check(trained.deltas)
    assert other.modules() != recipe.modules()


def changed(job: Job, **model: object) -> Job:
    """Return *job* with another [model] in its recipe."""
    return replace(job, recipe=job.recipe.model_copy(update={"model": job.recipe.model.model_copy(update=model)}))


def damaged(job: Job) -> Job:
    """One bit of one number: the file is still a whole one, and the start would be another than the coordinator's."""
    data = bytearray(job.adapter.read_bytes())
    data[-5] ^= 1
    job.adapter.write_bytes(data)
    return job


def cut(job: Job) -> Job:
    job.adapter.write_bytes(job.adapter.read_bytes()[:-9])
    return job


def published(job: Job, modules: dict[str, tuple[int, int]], rank: int = 2) -> Job:
    """Return *job* with another adapter, whole and wrong."""
    return replace(job, adapter=blob(job.adapter.parent, job.recipe, random_adapter(modules, rank, seed=1)))


def for_another_model(job: Job) -> Job:
    return published(job, {name: (d, k + 1) for name, (d, k) in job.recipe.modules().items()})


def with_another_module(job: Job) -> Job:
    return published(job, {"lm_head": (4, 4)})


def of_too_many_modules(job: Job) -> Job:
    return published(job, {**job.recipe.modules(), "lm_head": (4, 4)})


def of_a_rank_that_the_run_does_not_have(job: Job) -> Job:
    return published(job, job.recipe.modules(), rank=40)


def with_little_text(job: Job) -> Job:
    (job.data / "animals.txt").write_text("One paragraph, no more.", "utf-8")
    return job


WRONG = {
    "another base model": (lambda job: changed(job, digest="ab" * 32), BadBase, r"has digest .*…, the run's is abab"),
    "other modules": (
        lambda job: changed(replace(job, adapter=None), modules={"model.norm": (3, 3)}),
        BadBase,
        "differs from the recipe in 5 modules",
    ),
    "no base model": (lambda job: changed(job, base="./nowhere/at all"), NoBase, "is no folder here"),
    "one changed bit in the adapter": (damaged, BadTensor, r"the shared adapter at .* is damaged"),
    "an adapter that is cut off": (cut, BadTensor, r"the shared adapter at .* is damaged"),
    "an adapter for another model": (for_another_model, BadTensor, "float32 is needed"),
    "an adapter with another module": (with_another_module, BadTensor, "not in the model, such as lm_head"),
    "an adapter of too many modules": (of_too_many_modules, BadTensor, "10 tensors of .* the limits are 8 and"),
    "an adapter of a rank too high": (of_a_rank_that_the_run_does_not_have, BadTensor, "values; the limits are 8 and"),
    "too little text": (with_little_text, NoData, "1 different sample is too little"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_named_before_a_step_is_taken(
    trainer: LocalTrainer, job: Job, expected: Trained, wrong: str
):
    """And the trainer is as good as before: the next job ends in the bits that it would have had anyway."""
    good = job.adapter.read_bytes(), (job.data / "animals.txt").read_bytes()
    spoil, error, words = WRONG[wrong]
    spoiled = spoil(job)

    with pytest.raises(error, match=words):
        trainer.prepare(spoiled)
    with pytest.raises(error, match=words):
        trainer.train(spoiled, lambda _: pytest.fail("a step was taken"))

    assert not list(job.folder.iterdir())
    job.adapter.write_bytes(good[0])
    (job.data / "animals.txt").write_bytes(good[1])
    assert bits(trainer.train(job, go)) == bits(expected)


def models() -> int:
    """Return how many models are in memory."""
    gc.collect()
    return sum(type(one) is LlamaForCausalLM for one in gc.get_objects())


def summed(first: dict[str, LowRank], second: dict[str, LowRank]) -> dict[str, LowRank]:
    """Return first + second, exactly: their factors side by side."""
    return {
        name: LowRank(
            np.hstack([first[name].b * first[name].scale, second[name].b * second[name].scale]).astype(np.float32),
            np.vstack([first[name].a, second[name].a]).astype(np.float32),
        )
        for name in first
    }


def loss_of(base: Base, job: Job, adapter: dict[str, LowRank] | None) -> float:
    """Return the loss on the job's held-out text, of the base with *adapter* mounted whole."""
    device = pick_device()
    model, tokenizer = load(base, device, pick_dtype(device))
    if adapter is not None:
        model = mount(model, adapter)
    return held_out_loss(model, tokenizer, texts_of(job.recipe, job.data).held_out, job.recipe.data.max_tokens)[0]


def base_plus(model, adapter: dict[str, LowRank], ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of base + scale·b·a by dense arithmetic in float64; *model* is as it was afterwards."""
    before = {name: model.get_submodule(name).weight.clone() for name in adapter}
    model.double()
    with torch.no_grad():
        for name, term in adapter.items():
            model.get_submodule(name).weight += torch.from_numpy(
                term.scale * term.b.astype(float) @ term.a.astype(float)
            )
        logits = model(ids).logits
        model.float()
        for name, weight in before.items():
            model.get_submodule(name).weight.copy_(weight)
    return logits


def test_the_check_by_dense_arithmetic_leaves_the_model_as_it_was(loaded, job: Job):
    """Otherwise the comparison above would compare a model with itself."""
    ids = torch.arange(3, 20)[None]
    before = loaded[0](ids).logits

    logits = base_plus(loaded[0], adapter_at(job.adapter, job.recipe), ids)

    assert not torch.allclose(logits.float(), before, atol=1e-2)
    torch.testing.assert_close(loaded[0](ids).logits, before, atol=0, rtol=0)
    began = begun(job)
    adapted = attach(loaded[0], began.trainable, began.tail, job.recipe.adapter)
    torch.testing.assert_close(detach(adapted)(ids).logits, before, atol=0, rtol=0)
