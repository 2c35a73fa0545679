"""Runs of the Flower app for tests: a tiny base, made-up plays, and nodes in this process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from carried import carried
from commands import recipe_at
from potluck.simulations.flower import app_client, app_server
from potluck.simulations.flower.app_run import settings_of
from potluck.simulations.flower.app_server import Played
from potluck.simulations.flower.grid import RUN_ID, LocalGrid, Node, as_server, nodes_of
from tiny import tiny_base

Settings = Mapping[str, bool | float | str]
SYNCHRONOUS = {"mode": "synchronous", "cohort": 3, "minimum": 2, "weights": ["examples", "staleness"]}


@dataclass(frozen=True)
class Town:
    """What all runs share: the folder with the tiny base and the text."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "Town":
        tiny_base(folder / "tiny")
        carried(folder / "cache")
        return cls(folder)

    def recipe(self, at: Path, **tables: Mapping[str, Any]) -> Path:
        """Write a recipe of two versions and three clients a round."""
        whole: dict[str, Mapping[str, Any]] = {"aggregation": SYNCHRONOUS, "codec": {"name": "int8"}, **tables}
        return recipe_at(at, self.folder / "tiny", **whole)

    def settings(self, recipe: Path, run: Path, **more: bool | float | str) -> Settings:
        """Return the run's settings as Flower hands them over."""
        given = {"recipe": str(recipe), "folder": str(run), "cache": str(self.folder / "cache")}
        return given | {name.replace("_", "-"): value for name, value in more.items()}

    def nodes(self, settings: Settings, clients: int = 5) -> dict[int, Node]:
        """Return the simulated clients of a run."""
        return nodes_of(app_client.app, clients, settings)


def owner(name: str, data: Path, settings: Settings) -> Node:
    """Return a node that brings its own text, as a SuperNode with --node-config does."""
    context = Context(RUN_ID, 1, {"name": name, "data": str(data)}, RecordDict(), dict(settings))
    return lambda message: app_client.app(message, context)


def played(settings: Settings, nodes: Mapping[int, Node]) -> Played:
    """Play the run of *settings* with *nodes*."""
    with as_server():
        return app_server.play_recipe(LocalGrid(nodes), settings_of(settings))
