"""The ServerApp: a recipe's run from its first round to its last, or on from where it stands."""

import json
import logging
import threading
import time
from collections.abc import Sequence
from logging import Logger
from pathlib import Path
from typing import Final, NamedTuple

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result

from potluck.aggregation.errors import BadSetting, PotluckError
from potluck.client.home import store
from potluck.coordinator.checkpoints import published
from potluck.coordinator.releases import peft_files
from potluck.coordinator.site import Folders, plan_of
from potluck.simulations.flower.app_messages import name_in
from potluck.simulations.flower.app_rows import Journal
from potluck.simulations.flower.app_run import (
    PEOPLE,
    RECIPE,
    SCENARIO,
    AppSettings,
    Standing,
    remember,
    settings_of,
)
from potluck.simulations.flower.app_strategy import RecipeStrategy
from potluck.simulations.flower.strategy import told_of
from potluck.simulations.worlds.base import Person
from potluck.simulations.worlds.building import build
from potluck.wire.recipe import Recipe

LOGGER: Final[Logger] = logging.getLogger("flwr.potluck")
LOOK_S: Final = 1.0
ADAPTER: Final = "adapter"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play the recipe that the run's settings name."""
    play_recipe(grid, settings_of(context.run_config))


class NoNodes(PotluckError):
    """There are too few nodes to play a round with."""


class Played(NamedTuple):
    """What came out of a run."""

    standing: Standing
    result: Result | None
    """Flower's own, of the rounds that were played now; None if there was nothing left to play."""


def play_recipe(grid: Grid, settings: AppSettings) -> Played:
    """Play the rounds that are left, write the shared adapter as a PEFT folder, and return where the run stands.

    Raises:
        PotluckError: the recipe, the scenario, the folder or the base model does not fit, or nodes are missing.
    """
    recipe = completed_recipe(settings)
    rounds = settings.rounds or recipe.run.versions
    if not rounds:
        raise BadSetting("the recipe has no last version, and there is no number of rounds", fix="set rounds above 0")
    folders = Folders(settings.root)
    standing = Standing.read(folders, recipe)
    nodes = nodes_of(grid, recipe, settings.timeout_s)
    folders.root.mkdir(parents=True, exist_ok=True)
    standing.write(folders)  # first of all: it says that the folder is ours
    people = prepare(settings, recipe, len(nodes))
    names = names_of(grid, nodes, settings.timeout_s) if len(nodes) > recipe.aggregation.cohort else {}
    journal = Journal.begin(folders.root, recipe, people, standing.rounds)
    strategy = RecipeStrategy(plan_of(recipe), folders, standing, journal, names, settings.measure_every)
    left = rounds - standing.rounds
    if left <= 0:
        LOGGER.info("all %d rounds are played; see %s", standing.rounds, folders.root)
        return Played(standing, None)
    if not standing.rounds:
        _measure_base(grid, strategy, settings)
    result = strategy.start(grid, strategy.arrays(), num_rounds=left, timeout=settings.timeout_s)
    write_adapter(folders, recipe, strategy.standing)
    return Played(strategy.standing, result)


def completed_recipe(settings: AppSettings) -> Recipe:
    """Return the recipe with its base model's digest and modules; the base model is fetched if need be."""
    from potluck.client.training.completing import completed  # noqa: PLC0415 - torch: Flower loads apps to look at them

    return completed(settings.read_recipe(), settings.cache_folder, LOGGER.info)


def nodes_of(grid: Grid, recipe: Recipe, patience_s: float) -> Sequence[int]:
    """Return all nodes, once there are enough for a round.

    Raises:
        NoNodes: there are still too few after *patience_s* seconds.
    """
    needed, end_s = min(recipe.aggregation.minimum, recipe.aggregation.cohort), time.monotonic() + patience_s
    never = threading.Event()
    while len(nodes := sorted(grid.get_node_ids())) < needed:
        if time.monotonic() > end_s:
            raise NoNodes(
                f"there are {len(nodes)} nodes, and a round needs {needed}",
                fix=f"start more SuperNodes, or simulate more: --federation-config num-supernodes={needed}",
            )
        never.wait(LOOK_S)
    return nodes


def prepare(settings: AppSettings, recipe: Recipe, clients: int) -> Sequence[Person]:
    """Write what the run is, and the text of its people, into its folder; on a second start it must be the same.

    Returns the people, none where nodes bring their own text.
    """
    root = settings.root
    remember(root / RECIPE, recipe.to_json(), "recipe")
    found = settings.read_scenario()
    remember(root / SCENARIO, found.model_dump_json() if found else "{}", "scenario")
    if found is None:
        return ()
    world = build(found, recipe, clients, root, LOGGER.info, settings.cache_folder)
    remember(root / PEOPLE, json.dumps([person.name for person in world.people]), "number of clients")
    return world.people


def names_of(grid: Grid, nodes: Sequence[int], patience_s: float) -> dict[int, str]:
    """Return who each node is: their ids are drawn anew in every run, and cohorts are drawn by name.

    Raises:
        NoNodes: one does not say.
    """
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    names = {}
    for reply in grid.send_and_receive(questions, timeout=patience_s):
        try:
            names[reply.metadata.src_node_id] = name_in(reply)
        except PotluckError as error:
            raise NoNodes(f"node {reply.metadata.src_node_id} does not say who it is: {told_of(error)}") from None
    if missing := [node for node in nodes if node not in names]:
        raise NoNodes(f"{len(missing)} of {len(nodes)} nodes did not answer in {patience_s:g} s")
    return names


def write_adapter(folders: Folders, recipe: Recipe, standing: Standing) -> Path | None:
    """Write the shared adapter as a PEFT folder, and return it; None at version 0."""
    if not standing.adapter:
        return None
    folder = folders.root / ADAPTER
    folder.mkdir(exist_ok=True)
    adapter = published(folders.blobs.read(bytes.fromhex(standing.adapter)))
    for name, data in peft_files(recipe, adapter).items():
        store(data, folder / name)
    LOGGER.info("version %d is in %s", standing.version, folder)
    return folder


def _measure_base(grid: Grid, strategy: RecipeStrategy, settings: AppSettings) -> None:
    """Log how the base does before the first round."""
    asked = strategy.configure_evaluate(0, strategy.arrays(), ConfigRecord(), grid)
    if asked := list(asked):
        found = strategy.aggregate_evaluate(0, grid.send_and_receive(asked, timeout=settings.timeout_s))
        LOGGER.info("the base: %s", found)
