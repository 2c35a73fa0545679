"""The three arms, on a tiny model: each number is what an independent measurement of the same thing gives."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from commands import environment, notes, recipe_text
from potluck.aggregation import LowRank
from potluck.client.starts import begun
from potluck.client.training.adapters import attach, factors, mount
from potluck.client.training.bases import Base, load, pick_device, pick_dtype, resolve
from potluck.client.training.batches import make
from potluck.client.training.completing import completed
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.export import write_peft
from potluck.client.training.local import texts_of
from potluck.client.training.loop import train
from potluck.client.work import Job
from potluck.simulations.arms import Arms, measure
from potluck.wire.recipe import Recipe
from tiny import random_adapter, tiny_base

ROUNDS = 2
PROMPT = "the cat"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    return resolve(str(tiny_base(folder / "tiny")), cache=folder / "cache")


@pytest.fixture(scope="module")
def recipe(base: Base, tmp_path_factory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(recipe_text(base.folder), "utf-8")
    return completed(Recipe.read(path), base.folder.parent / "cache")


@pytest.fixture(scope="module")
def adapter(recipe: Recipe) -> dict[str, LowRank]:
    return random_adapter(recipe.modules(), 3, seed=4)


@pytest.fixture(scope="module")
def arms(base: Base, recipe: Recipe, adapter: dict[str, LowRank], tmp_path_factory) -> Arms:
    folder = tmp_path_factory.mktemp("arms")
    write_peft(adapter, folder / "release", base=base.name)
    cache = str(base.folder.parent / "cache")
    return Arms(recipe.to_json(), cache, str(notes(folder / "notes")), str(folder / "release"), ROUNDS, PROMPT)


@pytest.fixture(scope="module")
def told(arms: Arms) -> list[dict]:
    events: list[dict] = []
    measure(arms, lambda event: events.append(dict(event)))
    return events


def losses(told: list[dict]) -> dict[str, float]:
    return {event["arm"]: event["loss"] for event in told if event["event"] == "measured"}


def test_base_and_shared_are_what_they_are_called(told, base: Base, recipe: Recipe, arms: Arms, adapter):
    model, tokenizer = load(base, pick_device(), pick_dtype(pick_device()))
    held_out = texts_of(recipe, Path(arms.data)).held_out
    expected, tokens = held_out_loss(model, tokenizer, held_out, recipe.data.max_tokens)
    shared, _ = held_out_loss(mount(model, adapter), tokenizer, held_out, recipe.data.max_tokens)

    assert losses(told)["base"] == pytest.approx(expected, rel=1e-6)
    assert losses(told)["shared"] == pytest.approx(shared, rel=1e-6)
    assert shared != pytest.approx(expected, rel=1e-3)
    assert {event["tokens"] for event in told if event["event"] == "measured"} == {tokens}


def test_alone_has_as_many_steps_as_the_volunteer_gave_and_none_of_the_others_help(
    told, base: Base, recipe: Recipe, arms: Arms
):
    """From the base, on the same text: the release must not leak into it."""
    model, tokenizer = load(base, pick_device(), pick_dtype(pick_device()))
    data = Path(arms.data)
    texts = texts_of(recipe, data)
    training = recipe.training.model_copy(update={"steps": ROUNDS * recipe.training.steps})
    began = begun(Job(recipe, None, version=0, seed=0, order=0, data=data, folder=data, threads=1))
    adapted = attach(model, began.trainable, began.tail, recipe.adapter)
    rows = make(texts.train, tokenizer, max_tokens=recipe.data.max_tokens, rows=training.batch, seed=0)
    train(adapted, rows, training)
    expected, _ = held_out_loss(adapted, tokenizer, texts.held_out, recipe.data.max_tokens)

    assert losses(told)["alone"] == pytest.approx(expected, rel=1e-6)
    assert losses(told)["alone"] < losses(told)["base"]
    assert factors(adapted, recipe.adapter)
    steps = [event for event in told if event["event"] == "step"]
    assert [event["done"] for event in steps] == list(range(1, ROUNDS * recipe.training.steps + 1))
    assert {event["total"] for event in steps} == {ROUNDS * recipe.training.steps}


def test_both_reply_to_the_prompt_and_each_result_is_told_as_it_comes(told):
    kinds = [(event["event"], event["arm"]) for event in told if event["event"] != "step"]

    assert kinds == [
        ("measured", "base"),
        ("measured", "shared"),
        ("reply", "base"),
        ("reply", "shared"),
        ("measured", "alone"),
    ]
    replies = {event["arm"]: event["text"] for event in told if event["event"] == "reply"}
    assert replies["base"] != replies["shared"]


def test_as_a_program_it_says_the_same_in_json(told, arms: Arms, tmp_path: Path):
    """And the volunteer's text is only read."""
    job = tmp_path / "job.json"
    job.write_text(json.dumps(asdict(arms)), "utf-8")
    before = {path: path.read_bytes() for path in Path(arms.data).iterdir()}

    done = subprocess.run(
        [sys.executable, "-m", "potluck.simulations.arms", str(job)],
        capture_output=True,
        text=True,
        env=environment(tmp_path / "home"),
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    again = [json.loads(line) for line in done.stdout.splitlines()]
    assert losses(again) == pytest.approx(losses(told), rel=1e-5)
    assert [event for event in again if event["event"] == "reply"] == [
        event for event in told if event["event"] == "reply"
    ]
    assert {path: path.read_bytes() for path in Path(arms.data).iterdir()} == before
