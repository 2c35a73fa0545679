"""The Flower app: a recipe is played by Flower's own loop, and ends where volunteers and a coordinator would."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from peft import PeftModel
from transformers import AutoModelForCausalLM

from flower_app import SYNCHRONOUS, Town, played
from potluck.aggregation import decode
from potluck.aggregation.codecs.feedback import OWN
from potluck.aggregation.errors import BadSetting, PotluckError, UnknownName
from potluck.client.lessons import Term
from potluck.client.training.completing import completed
from potluck.coordinator.site import plan_of
from potluck.simulations.flower import app_client
from potluck.simulations.flower.app_client import WAITING, sealed
from potluck.simulations.flower.app_messages import record_of
from potluck.simulations.flower.app_run import APP, AnotherRun, AppSettings
from potluck.simulations.flower.grid import Node
from potluck.simulations.reports.runs import read_run
from potluck.simulations.reports.tables import ROUNDS, read_rows
from potluck.simulations.rows import RoundRow
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import Manifest


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Town:
    return Town.at(tmp_path_factory.mktemp("town"))


def test_a_recipe_is_played_to_its_last_version(town: Town, tmp_path: Path):
    """Five roles, three of them a round: everybody's held-out loss falls, and PEFT opens what came out."""
    settings = town.settings(town.recipe(tmp_path / "recipe.toml"), tmp_path / "run")

    standing, result = played(settings, town.nodes(settings))

    assert (standing.rounds, standing.version) == (2, 2)
    trained = result.train_metrics_clientapp
    assert [trained[r]["potluck-updates"] for r in (1, 2)] == [3, 3]
    assert all(trained[r]["loss-after"] < trained[r]["loss-before"] - 0.01 for r in (1, 2))
    losses = [trained[1]["loss-before"], *(result.evaluate_metrics_clientapp[r]["loss"] for r in (1, 2))]
    assert losses[0] > losses[1] > losses[2]
    model = AutoModelForCausalLM.from_pretrained(town.folder / "tiny")
    before = sum(1 for _ in model.parameters())
    mounted = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter")
    moved = [p for name, p in mounted.named_parameters() if "lora_B" in name and p.abs().max() > 1e-3]
    assert len(moved) == 4
    assert sum(1 for _ in mounted.parameters()) == before + 8


def test_the_rows_of_a_run_are_those_of_a_simulation(town: Town, tmp_path: Path):
    """As reports read them: who took part, what it cost, and the losses that Flower was told; also after a stop."""
    settings = town.settings(town.recipe(tmp_path / "recipe.toml"), tmp_path / "run")
    first = played(settings | {"rounds": 1}, town.nodes(settings)).result.evaluate_metrics_clientapp[1]
    second = played(settings, town.nodes(settings)).result.evaluate_metrics_clientapp[1]

    run = read_run(tmp_path / "run")

    assert [(row.round, row.version, row.ended, row.updates) for row in run.rounds] == [
        (1, 1, "COMMITTED", 3),
        (2, 2, "COMMITTED", 3),
    ]
    assert [row.loss for row in run.rounds] == [first["loss"], second["loss"]]
    assert run.base_loss > run.rounds[0].loss > run.rounds[1].loss
    assert run.rounds[0].bytes_down == 0 < run.rounds[1].bytes_down
    assert 0 < run.rounds[0].ended_h == run.rounds[1].began_h < run.rounds[1].ended_h
    assert len(run.updates) == 6
    assert sum(row.weight for row in run.updates if row.round == 2) == pytest.approx(1)
    assert sum(row.bytes_up for row in run.updates) == sum(row.bytes_up for row in run.rounds)
    assert len(run.clients) == 5
    assert sum(row.counted for row in run.clients) == 6
    assert all(row.loss < row.loss_base for row in run.clients)


def test_who_is_asked_and_what_comes_out_do_not_depend_on_flowers_node_ids(town: Town, tmp_path: Path):
    recipe = town.recipe(tmp_path / "recipe.toml")
    runs = []
    for place, ids in enumerate(([1, 2, 3, 4, 5], [91, 17, 55, 23, 8])):
        settings = town.settings(recipe, tmp_path / f"run-{place}", measure_every=0)
        nodes = town.nodes(settings)
        runs.append(played(settings, dict(zip(ids, nodes.values(), strict=True))).standing)

    assert runs[0] == runs[1]
    assert runs[0].adapter


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(town: Town, tmp_path: Path):
    recipe = town.recipe(tmp_path / "recipe.toml")
    straight = town.settings(recipe, tmp_path / "straight", measure_every=0)
    halves = town.settings(recipe, tmp_path / "halves", measure_every=0)

    whole = played(straight, town.nodes(straight)).standing
    first = played(halves | {"rounds": 1}, town.nodes(halves)).standing
    second = played(halves, town.nodes(halves)).standing
    third = played(halves, town.nodes(halves))

    assert (first.version, second) == (1, whole)
    assert (third.standing, third.result) == (whole, None)


def test_what_a_coarse_codec_leaves_out_waits_in_the_clients_state(town: Town, tmp_path: Path):
    """All that was sent, and what waits, add up to all that was learned."""
    codec = {"name": "topk", "error_feedback": True, "beta": 1.0}
    recipe = completed(Recipe.read(town.recipe(tmp_path / "recipe.toml", codec=codec)), town.folder / "cache")
    term = Term(recipe, 0, plan_of(recipe).seed_of(0), b"")
    rng = np.random.default_rng(0)
    learned = [
        {name: rng.normal(size=shape).astype("f4") for name, shape in Manifest.of(recipe, 0).entries} for _ in range(3)
    ]
    state = RecordDict()

    sent = [decode(sealed(term, deltas, state), limits=OWN) for deltas in learned]

    waiting = decode(state[WAITING]["left"], limits=OWN)
    assert sum(float(np.abs(value).sum()) for value in waiting.values()) > 1
    for name in learned[0]:
        total = sum(deltas[name] for deltas in learned)
        assert sum(message[name] for message in sent) + waiting[name] == pytest.approx(total, abs=1e-3)


# -- what does not fit ------------------------------------------------------------------------------------------------


def noise(message: Message) -> Message:
    return Message(RecordDict({"arrays": record_of(b"no adapter at all")}), reply_to=message)


def huge(node: Node) -> Node:
    """Return a node whose updates are its own, but for a claim of 10^9 examples."""

    def boasting(message: Message) -> Message:
        reply = node(message)
        if message.metadata.message_type == "train":
            reply.content["metrics"]["num-examples"] = 1_000_000_000
        return reply

    return boasting


def stranger(message: Message) -> Message:
    """Answer as a client of Flower's FedAvg does."""
    arrays = ArrayRecord([np.zeros((2, 2), np.float32)])
    return Message(RecordDict({"arrays": arrays}), reply_to=message)


def killed(message: Message) -> Message:
    raise RuntimeError(f"killed at a {message.metadata.message_type}")


def test_replies_that_do_not_fit_are_left_out_and_named(town: Town, tmp_path: Path):
    recipe = town.recipe(tmp_path / "recipe.toml", aggregation=SYNCHRONOUS | {"cohort": 6}, run={"versions": 1})
    settings = town.settings(recipe, tmp_path / "run")
    nodes = town.nodes(settings, 6)
    nodes |= {2: noise, 3: stranger, 4: killed, 5: huge(nodes[5])}

    standing, result = played(settings, nodes)

    metrics = result.train_metrics_clientapp[1]
    assert standing.version == 1
    assert sorted(metrics["potluck-left-out-nodes"]) == [2, 3, 4]
    assert sorted(metrics["potluck-nodes"]) == [1, 5, 6]
    assert metrics["potluck-capped-nodes"] == [5]
    assert metrics["num-examples"] < 10_100
    assert sorted(result.evaluate_metrics_clientapp[1]["potluck-left-out-nodes"]) == [2, 3, 4]


def test_a_round_with_too_few_updates_makes_no_version(town: Town, tmp_path: Path):
    recipe = town.recipe(tmp_path / "recipe.toml")
    settings = town.settings(recipe, tmp_path / "run", measure_every=0)
    nodes = town.nodes(settings, 3) | {1: noise, 2: killed}

    standing, result = played(settings, nodes)

    assert (standing.rounds, standing.version, standing.adapter) == (2, 0, "")
    assert [result.train_metrics_clientapp[r]["potluck-refused"] for r in (1, 2)] == [1, 1]
    assert not (tmp_path / "run" / "adapter").exists()
    rows = read_rows(tmp_path / "run" / ROUNDS, RoundRow)
    assert [(row.ended, row.reason, row.updates, row.late, row.dropped) for row in rows] == [
        ("ABANDONED", "1 updates fit, and 2 are needed", 0, 1, 2)
    ] * 2


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"folder": "here"}, BadSetting, "folder is 'here', and Flower's processes run"),
        ({"scenario": "one-in-five-hostile"}, BadSetting, "has attack"),
        ({"scenario": "mixed-ranks"}, BadSetting, "has ranks"),
        ({"scenario": "phones-at-night"}, BadSetting, "has availability"),
        ({"scenario": "stedy"}, UnknownName, "no scenario is called 'stedy'"),
        ({"recipe": "/nowhere/recipe.toml"}, BadSetting, "nowhere"),
        ({"round": 3}, UnknownName, "no setting is called round"),
        ({"threads": 0}, BadSetting, "threads"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_settings_that_cannot_be_are_refused_with_a_fix(
    town: Town, tmp_path: Path, changed: dict[str, object], kind: type[PotluckError], text: str
):
    settings = town.settings(town.recipe(tmp_path / "recipe.toml"), tmp_path / "run")

    with pytest.raises(kind, match=text) as caught:
        played(settings | changed, town.nodes(settings))

    assert caught.value.__notes__


def test_a_folder_of_another_run_is_refused(town: Town, tmp_path: Path):
    settings = town.settings(town.recipe(tmp_path / "recipe.toml"), tmp_path / "run", rounds=1, measure_every=0)
    played(settings, town.nodes(settings))
    other = town.recipe(tmp_path / "other.toml", training={"steps": 5})
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").touch()

    with pytest.raises(AnotherRun, match="holds a run of recipe"):
        played(settings | {"recipe": str(other)}, town.nodes(settings))
    with pytest.raises(AnotherRun, match="another scenario"):
        played(settings | {"scenario": "uneven"}, town.nodes(settings))
    with pytest.raises(AnotherRun, match="another number of clients"):
        played(settings, town.nodes(settings, 4))
    with pytest.raises(AnotherRun, match="is not empty"):
        played(settings | {"folder": str(tmp_path / "letters")}, town.nodes(settings))


def test_a_node_without_text_is_told_what_to_do(town: Town, tmp_path: Path):
    """It answers with an error that has the fix; the operator sees who it is and why."""
    recipe = town.recipe(tmp_path / "recipe.toml", aggregation=SYNCHRONOUS | {"cohort": 2})
    settings = town.settings(recipe, tmp_path / "run", scenario="")

    with pytest.raises(PotluckError, match=r"has no text of its own.*--node-config"):
        played(settings, town.nodes(settings, 3))


def test_the_app_states_every_setting_and_its_default():
    table = tomllib.loads((APP / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]

    assert {name.replace("-", "_"): value for name, value in table["config"].items()} == AppSettings().model_dump()
    assert table["components"]["clientapp"] == f"{app_client.__name__}:app"


def test_the_page_has_every_setting_with_its_default_and_what_it_means():
    page = (Path(__file__).parents[2] / "docs" / "flower.md").read_text("utf-8")

    for name, about in AppSettings.model_fields.items():
        assert f"| `{name.replace('_', '-')}` | `{json.dumps(about.default)}` | {about.description} |" in page
