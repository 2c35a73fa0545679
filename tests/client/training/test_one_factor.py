"""Rules that train one factor: the other one is frozen to the last bit, does not travel, and the model still learns."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from potluck.aggregation import Pipeline, aggregate, broadcast, encode, from_deltas, start, to_tensors
from potluck.client.training.adapters import attach, detach, factors, trained_factors, trained_parameters
from potluck.client.training.bases import Base, shapes
from potluck.client.training.completing import completed
from potluck.client.training.local import LocalTrainer
from potluck.client.work import Job, Stride, Word
from potluck.wire.recipe import Adapter, Recipe
from potluck.wire.tensors import Manifest
from tiny import random_adapter

SETTINGS = Adapter(rank=2, alpha=4.0, targets=("q_proj", "v_proj"))
TEXT = "\n\n".join(
    f"{word.capitalize()} sat on the mat and ate the {word}. " * 8 for word in ("cat", "dog", "hen", "fox", "cow")
)


@pytest.mark.parametrize(("moves", "learns"), [("both", {"lora_A", "lora_B"}), ("b", {"lora_B"}), ("a", {"lora_A"})])
def test_only_the_factor_that_moves_is_learned(loaded, base: Base, moves, learns: set[str]):
    """It gets a gradient and changes; the other one, and the tail, have neither."""
    sides = shapes(base.folder, SETTINGS.targets)
    begun, tail = random_adapter(sides, 2, seed=1, scale=2.0), random_adapter(sides, 3, seed=2)
    adapted = attach(loaded[0], begun, tail, SETTINGS, moves)
    ids = torch.randint(3, 259, (2, 17), generator=torch.Generator().manual_seed(5))

    optimiser = torch.optim.AdamW(trained_parameters(adapted).values(), lr=1e-2, weight_decay=0.1)
    adapted(ids, labels=ids).loss.backward()
    optimiser.step()

    assert {name.split(".")[-3] for name in trained_parameters(adapted)} == learns
    assert all(p.grad is None for name, p in adapted.named_parameters() if name not in trained_parameters(adapted))
    assert len(trained_factors(adapted)) == len(sides)
    ended = factors(adapted, SETTINGS)
    for name, term in begun.items():
        assert np.array_equal(ended[name].b, term.b) == ("lora_B" not in learns)
        assert np.array_equal(ended[name].a, term.a) == ("lora_A" not in learns)
    detach(adapted)


# -- whole jobs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "animals.txt").write_text(TEXT, "utf-8")
    return tmp_path / "notes"


def recipe_of(base: Base, rule: str, **tables: dict[str, object]) -> Recipe:
    whole: dict[str, dict[str, object]] = {
        "run": {"name": "tiny"},
        "model": {"base": str(base.folder)},
        "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "down_proj"]},
        "data": {"max_tokens": 48, "held_out": 0.3},
        "training": {"steps": 8, "batch": 2, "learning_rate": 2e-2, "checkpoint_steps": 2},
        "aggregation": {"rule": rule},
    }
    for name, table in tables.items():
        whole[name] = whole[name] | table
    return completed(Recipe.parse(json.dumps(whole)), base.folder.parent / "cache")


def job_of(recipe: Recipe, data: Path, folder: Path, published, version: int, order: int = 5) -> Job:
    path = None
    if published:
        sealed = encode(to_tensors(published), "fp32")
        path = folder / sha256(sealed).hexdigest()
        path.write_bytes(sealed)
    tasks = folder / f"task-{version}-{order}"
    tasks.mkdir()
    return Job(recipe, path, version=version, seed=100 + version, order=order, data=data, folder=tasks, threads=1)


@pytest.mark.parametrize("rule", ["ffa", "rolora", "fedsvd", "median"])
def test_versions_of_one_factor_learn_at_half_the_upload(base: Base, data: Path, tmp_path: Path, rule: str):
    """Four versions of two clients, as the coordinator combines them: each begins where the one before ended, lower.

    The update has the tensors of its version, half as many bytes as both factors would have, and its start is worked
    out again from what was published.
    """
    recipe = recipe_of(base, rule)
    trainer, modules, settings = LocalTrainer(base.folder.parent / "cache"), recipe.modules(), recipe.adapter
    master, state, losses, sent, whole = {}, None, [], 0, 0
    for version in range(4):
        published = broadcast(master, recipe.init) if master else {}
        updates = []
        for client in range(2 if rule != "median" else 3):
            job = job_of(recipe, data, tmp_path, published, version, order=5 + client)
            trained = trainer.train(job, lambda _: Word.GO)
            Manifest.of(recipe, version).check(trained.deltas)
            begun = start(
                published, modules, init=recipe.init, rank=settings.rank, scale=settings.scale, seed=job.seed
            ).trainable
            update = from_deltas(
                trained.deltas, begun, examples=trained.examples, steps=trained.steps, moves=recipe.moves(version)
            )
            updates.append(update)
            losses.append((version, trained.loss_before, trained.loss_after))
            sent += len(encode(trained.deltas, "fp16"))
            whole += len(encode(to_tensors(begun), "fp16"))
        result = aggregate(updates, master, recipe.pipeline(len(updates)), state)
        master, state = result.master, result.state

    assert all(after < before for _, before, after in losses)
    begins = [next(before for number, before, _ in losses if number == version) for version in range(4)]
    assert begins == sorted(begins, reverse=True)
    assert begins[0] - begins[3] > 0.03 * begins[0]
    assert 0.4 < sent / whole < 0.6


def test_the_public_factor_is_one_to_the_last_bit_for_every_client_of_a_version(base: Base, data: Path, tmp_path: Path):
    """At version 0 drawn from its seed; later read from what was published: bits that the coordinator has, too."""
    recipe = recipe_of(base, "ffa")
    trainer = LocalTrainer(base.folder.parent / "cache")
    jobs = [job_of(recipe, data, tmp_path, {}, 0, order=order) for order in (5, 6)]
    first, second = (trainer.train(job, lambda _: Word.GO).deltas for job in jobs)
    assert set(first) == {name for name, _ in Manifest.of(recipe, 0).entries}
    assert all(name.endswith(".lora_B") for name in first)
    assert any(not np.array_equal(first[name], second[name]) for name in first)

    drawn = start({}, recipe.modules(), init=recipe.init, rank=2, scale=2.0, seed=100).trainable
    updates = [from_deltas(one, drawn, examples=1, moves="b") for one in (first, second)]
    master = aggregate(updates, {}, Pipeline("ffa", rank=8)).master
    after = start(
        broadcast(master, recipe.init), recipe.modules(), init=recipe.init, rank=2, scale=2.0, seed=101
    ).trainable

    for name in recipe.modules():
        assert after[name].a.tobytes() == drawn[name].a.tobytes()
        mean = (first[name + ".lora_B"].astype(float) + second[name + ".lora_B"]) / 2
        np.testing.assert_allclose(after[name].b, mean, atol=1e-7)


@pytest.mark.parametrize("version", [0, 1])
def test_an_interrupted_job_of_one_factor_ends_in_the_same_bits_and_counts_its_steps(
    base: Base, data: Path, tmp_path: Path, version: int
):
    """Steps are what FedNova divides by: all that were taken, before the interruption and after it."""
    recipe = recipe_of(base, "rolora", training={"proximal": 0.1})
    published = broadcast(random_adapter(recipe.modules(), 2, seed=4), recipe.init) if version else {}
    trainer = LocalTrainer(base.folder.parent / "cache")
    expected = trainer.train(job_of(recipe, data, tmp_path, published, version, order=1), lambda _: Word.GO)
    job = replace(job_of(recipe, data, tmp_path, published, version, order=2), order=1)
    taken: list[int] = []

    def interrupt(stride: Stride) -> Word:
        taken.append(stride.done)
        return Word.SUSPEND if stride.done == 5 else Word.GO

    assert trainer.train(job, interrupt) is None
    ended = trainer.train(job, interrupt)

    assert {name: value.tobytes() for name, value in ended.deltas.items()} == {
        name: value.tobytes() for name, value in expected.deltas.items()
    }
    assert taken == [1, 2, 3, 4, 5, 6, 7, 8]
    assert ended.steps == expected.steps == len(taken)
