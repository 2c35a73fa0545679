"""Many clients in one batch end where each would end alone.

The SequentialEngine runs the very code of a volunteer's machine, so it says what is right.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from potluck.aggregation import broadcast, encode, to_tensors
from potluck.client.lessons import Lesson, Term
from potluck.client.training.bases import Base
from potluck.client.training.completing import completed
from potluck.client.training.errors import TrainingDiverged
from potluck.client.training.local import LocalTrainer
from potluck.client.training.together.batched import BatchedEngine
from potluck.client.training.together.llama import GATED, LINEAR
from potluck.client.training.together.sequential import SequentialEngine
from potluck.client.work import Job, Trained, Word
from potluck.wire.recipe import Recipe
from tiny import random_adapter

LINES = (*LINEAR, *GATED)
SEED = 11
WORDS = ("cat", "dog", "hen", "fox", "cow", "ant", "owl")
SETTINGS = {
    "run": {"name": "together"},
    "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "k_proj", "o_proj", "down_proj"]},
    "data": {"max_tokens": 48, "held_out": 0.3},
    "training": {"steps": 4, "batch": 2, "learning_rate": 2e-2},
}


@dataclass(frozen=True, slots=True)
class Town:
    """Clients' texts, and a recipe for them."""

    recipe: Recipe
    cache: Path
    text: tuple[Path, ...]


@pytest.fixture(scope="module")
def town(base: Base, tmp_path_factory) -> Town:
    """Three with plain text of different length, one with prompts and completions, whose rows are seldom full."""
    cache = base.folder.parent / "cache"
    recipe = completed(Recipe.parse(json.dumps(SETTINGS | {"model": {"base": str(base.folder)}})), cache)
    return Town(recipe, cache, texts(tmp_path_factory.mktemp("town")))


def texts(folder: Path) -> tuple[Path, ...]:
    files = []
    for count in (3, 5, 7):
        pieces = (f"{word.capitalize()} sat on the mat and ate the {word}. " * 8 for word in WORDS[:count])
        files.append(folder / f"plain-{count}.txt")
        files[-1].write_text("\n\n".join(pieces), "utf-8")
    pairs = [{"prompt": f"Who is the {word}? ", "completion": f"The {word}" + "!" * i} for i, word in enumerate(WORDS)]
    files.append(folder / "pairs.jsonl")
    files[-1].write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
    return tuple(files)


def neox(target: Path) -> Path:
    """Write a model that is no Llama, with the tokenizer of tiny_base, and return its folder."""
    torch.manual_seed(0)
    tokenizer = ByT5Tokenizer(extra_ids=0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=1,
    )
    GPTNeoXForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def changed(recipe: Recipe, **tables: dict[str, object]) -> Recipe:
    """Return *recipe* with other settings in some of its tables."""
    found = {name: getattr(recipe, name).model_copy(update=settings) for name, settings in tables.items()}
    return recipe.model_copy(update=found)


def term(recipe: Recipe, *, version: int = 2, rank: int = 6) -> Term:
    """Return a term whose shared adapter has more columns than most clients train, as the coordinator publishes it."""
    master = random_adapter(recipe.modules(), rank, seed=2)
    return Term(recipe, version, SEED, encode(to_tensors(broadcast(master, recipe.init)), "fp32"))


def lessons(town: Town) -> list[Lesson]:
    """Return lessons of which no two agree in text, order, rank and steps."""
    return [
        Lesson(town.text[0], order=1, rank=3, steps=2),
        Lesson(town.text[1], order=2, measured=True),
        Lesson(town.text[2], order=3, rank=8, steps=7, measured=True),
        Lesson(town.text[3], order=4, rank=1, steps=5),
        Lesson(town.text[3], order=5, measured=True),
        Lesson(town.text[0], order=6, rank=4, steps=1),
    ]


def furthest(found: list[Trained], expected: list[Trained]) -> float:
    """Return the largest difference of two numbers in the same place of two lists of updates."""
    for one, other in zip(found, expected, strict=True):
        assert replace(one, deltas={}, loss_before=0, loss_after=0) == replace(
            other, deltas={}, loss_before=0, loss_after=0
        )
        assert {name: (v.shape, v.dtype) for name, v in one.deltas.items()} == {
            name: (v.shape, v.dtype) for name, v in other.deltas.items()
        }
    pairs = zip(found, expected, strict=True)
    return max(float(abs(one.deltas[name] - other.deltas[name]).max()) for one, other in pairs for name in one.deltas)


def engines(town: Town, dtype: str, **settings: int) -> tuple[BatchedEngine, SequentialEngine]:
    return BatchedEngine(town.cache, dtype=dtype, **settings), SequentialEngine(town.cache, dtype=dtype)


@pytest.mark.parametrize("init", ["continue", "orthonormal"])
def test_the_measure_of_what_is_right_gives_a_volunteers_very_bits(town: Town, tmp_path: Path, init: str):
    """So a simulated round can be compared with one over the wire by its digest."""
    here = term(changed(town.recipe, adapter={"init": init}))
    adapter = tmp_path / hashlib.sha256(here.adapter).hexdigest()
    adapter.write_bytes(here.adapter)
    job = Job(here.recipe, adapter, here.version, SEED, 5, town.text[1], tmp_path, threads=1)
    alone = LocalTrainer(town.cache).train(job, lambda _: Word.GO)

    _, found = SequentialEngine(town.cache).train(
        here, [Lesson(town.text[0], order=1), Lesson(town.text[1], order=5, measured=True)]
    )

    assert {n: v.tobytes() for n, v in found.deltas.items()} == {n: v.tobytes() for n, v in alone.deltas.items()}
    assert replace(found, deltas={}) == replace(alone, deltas={})


@pytest.mark.parametrize("init", ["continue", "fresh", "half", "orthonormal"])
def test_every_client_ends_where_it_would_alone(town: Town, init: str):
    """Mixed ranks, lengths and step counts in one batch."""
    here = term(changed(town.recipe, adapter={"init": init}))
    batched, sequential = engines(town, "float64", at_once=6)

    found, expected = batched.train(here, lessons(town)), sequential.train(here, lessons(town))

    assert furthest(found, expected) < 1e-6
    assert min(abs(np.concatenate([d.ravel() for d in one.deltas.values()])).max() for one in expected) > 1e-2
    for one, other in zip(found, expected, strict=True):
        assert (one.loss_before, one.loss_after) == pytest.approx((other.loss_before, other.loss_after), rel=1e-6)
    assert [one.loss_before > one.loss_after for one in expected] == [lesson.measured for lesson in lessons(town)]


@pytest.mark.parametrize(
    ("rule", "version", "moves"), [("ffa", 2, "lora_B"), ("rolora", 2, "lora_B"), ("rolora", 3, "lora_A")]
)
def test_factors_that_a_rule_freezes_do_not_move(town: Town, rule: str, version: int, moves: str):
    here = term(changed(town.recipe, aggregation={"rule": rule}), version=version)
    batched, sequential = engines(town, "float64", at_once=6)

    found, expected = batched.train(here, lessons(town)), sequential.train(here, lessons(town))

    assert furthest(found, expected) < 1e-6
    assert {name.rsplit(".", 1)[1] for one in found for name in one.deltas} == {moves}


@pytest.mark.parametrize(
    "training",
    [
        {"proximal": 0.5},
        {"weight_decay": 0.1, "warmup_steps": 3},
        {"clip_grad_norm": 0.01},
        {"clip_grad_norm": 0.0, "batch": 1},
    ],
    ids=str,
)
def test_what_a_recipe_asks_of_training_holds_for_each_client(town: Town, training: dict[str, object]):
    """Were a norm, a decay or a pull taken over the whole batch, nobody would end where it should."""
    here = term(changed(town.recipe, training=training))
    batched, sequential = engines(town, "float64", at_once=6)

    assert furthest(batched.train(here, lessons(town)), sequential.train(here, lessons(town))) < 1e-6


@pytest.mark.parametrize(
    "targets",
    [("gate_proj", "up_proj", "down_proj"), ("v_proj",), tuple(name.rsplit(".")[-1] for name in LINES)],
    ids=str,
)
def test_any_module_may_carry_an_adapter(town: Town, targets: tuple[str, ...]):
    bare = changed(town.recipe, adapter={"targets": targets}, model={"modules": {}})
    here = term(completed(bare, town.cache))
    batched, sequential = engines(town, "float64", at_once=6)

    assert furthest(batched.train(here, lessons(town)), sequential.train(here, lessons(town))) < 1e-6


def test_another_architecture_is_trained_through_hooks(town: Town, tmp_path: Path):
    """One matrix for queries, keys and values, attention beside the feed-forward, and a head of its own."""
    base = neox(tmp_path / "neox")
    written = {"model": {"base": str(base)}, "adapter": SETTINGS["adapter"] | {"targets": ["query_key_value", "dense"]}}
    here = term(completed(Recipe.parse(json.dumps(SETTINGS | written)), town.cache))
    batched, sequential = engines(town, "float64", at_once=6)

    found, expected = batched.train(here, lessons(town)), sequential.train(here, lessons(town))

    assert furthest(found, expected) < 1e-6
    for one, other in zip(found, expected, strict=True):
        assert (one.loss_before, one.loss_after) == pytest.approx((other.loss_before, other.loss_after), rel=1e-6)


def test_the_first_version_starts_at_the_base(town: Town):
    here = Term(town.recipe, 0, SEED, b"")
    batched, sequential = engines(town, "float64", at_once=6)

    assert furthest(batched.train(here, lessons(town)), sequential.train(here, lessons(town))) < 1e-6


def test_who_shares_a_batch_changes_rounding_alone(town: Town):
    """In float32, where sums of other lengths round otherwise."""
    here = term(town.recipe)
    alone, some, all_at_once = (BatchedEngine(town.cache, dtype="float32", at_once=n) for n in (1, 4, 6))
    sequential = SequentialEngine(town.cache, dtype="float32")
    expected = sequential.train(here, lessons(town))

    assert furthest(alone.train(here, lessons(town)), expected) < 1e-3
    assert furthest(some.train(here, lessons(town)), expected) < 1e-3
    assert furthest(all_at_once.train(here, lessons(town)), expected) < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_lessons_give_the_same_bits(town: Town, dtype: str):
    """Also from an engine that has trained others before, and from a new one."""
    here = term(town.recipe)
    first, second = (BatchedEngine(town.cache, dtype=dtype) for _ in range(2))
    expected = first.train(here, lessons(town))
    first.train(here, lessons(town)[::-1])

    again, other = first.train(here, lessons(town)), second.train(here, lessons(town))

    for one, two, three in zip(expected, again, other, strict=True):
        assert {n: v.tobytes() for n, v in one.deltas.items()} == {n: v.tobytes() for n, v in two.deltas.items()}
        assert {n: v.tobytes() for n, v in one.deltas.items()} == {n: v.tobytes() for n, v in three.deltas.items()}


def test_a_base_in_bfloat16_teaches_as_much(town: Town):
    """Its rounding is coarse: every client ends elsewhere in the digits, and as wise."""
    here = term(town.recipe)
    batched, sequential = engines(town, "bfloat16", at_once=6)

    found, expected = batched.train(here, lessons(town)), sequential.train(here, lessons(town))

    assert furthest(found, expected) < 0.1
    for one, other in zip(found, expected, strict=True):
        assert (one.loss_before, one.loss_after) == pytest.approx((other.loss_before, other.loss_after), rel=0.02)


def test_losses_of_the_shared_adapter_are_those_of_the_mounted_model(town: Town):
    batched, sequential = engines(town, "float64")

    for here in (term(town.recipe), Term(town.recipe, 0, SEED, b"")):
        found, expected = batched.losses(here, town.text), sequential.losses(here, town.text)

        assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
        assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=1e-6)


def test_only_whoever_is_asked_for_is_measured(town: Town):
    """Of a batch with mixed ranks, so that each is measured with the tail of its own."""
    here, asked = term(town.recipe), [replace(one, measured=i in {2, 5}) for i, one in enumerate(lessons(town))]
    batched, sequential = engines(town, "float64", at_once=6)

    found, expected = batched.train(here, asked), sequential.train(here, asked)

    assert [i for i, one in enumerate(found) if one.loss_before and one.loss_after] == [2, 5]
    for one, other in zip(found, expected, strict=True):
        assert (one.loss_before, one.loss_after) == pytest.approx((other.loss_before, other.loss_after), rel=1e-6)


def test_a_run_can_fix_the_room_that_an_engine_would_take(town: Town):
    """A batch chosen on one machine can be had on another one, where more memory would change it."""
    here, engine = term(town.recipe), BatchedEngine(town.cache, dtype="float32")

    size = engine.room(town.recipe, rank=8)

    assert size == 21  # 2,048 tokens, 96 a client
    fixed = BatchedEngine(town.cache, dtype="float32", at_once=size).train(here, lessons(town))
    assert furthest(engine.train(here, lessons(town)), fixed) == 0


@pytest.mark.parametrize("engine", [BatchedEngine, SequentialEngine])
def test_who_diverges_is_named_and_disturbs_nobody(town: Town, engine):
    """One in a thousand: who?  At a rate that no second step survives, beside clients who take one."""
    here = Term(changed(town.recipe, training={"learning_rate": 1e37}), 0, SEED, b"")
    todo = [Lesson(town.text[i], order=i, steps=taken) for i, taken in enumerate((1, 2, 1, 3))]

    first, lost, third, also = engine(town.cache, dtype="float32").train(here, todo)

    assert isinstance(lost, TrainingDiverged)
    assert isinstance(also, TrainingDiverged)
    assert "nan at step 2 of 2" in str(lost)
    assert "nan at step 2 of 3" in str(also)
    assert engine is SequentialEngine or all(todo[i].data.name in str(one) for i, one in ((1, lost), (3, also)))
    alone = engine(town.cache, dtype="float32").train(here, [todo[0], todo[2]])
    for one, right in zip((first, third), alone, strict=True):
        for name, delta in one.deltas.items():
            assert np.abs(delta - right.deltas[name]).max() <= 1e-3 * 1e37
        assert max(np.abs(delta).max() for delta in one.deltas.values()) == pytest.approx(1e37, rel=1e-2)
