"""What a run of the Flower app is: its settings, its folder, and which text each of its clients has."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Self, final

from flwr.app import Context
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from potluck.aggregation.errors import BadSetting, PotluckError
from potluck.client.home import cache_of_user, store
from potluck.coordinator.site import Folders
from potluck.simulations.worlds.scenarios import scenario
from potluck.simulations.worlds.tables import Scenario
from potluck.wire.recipe import Recipe
from potluck.wire.settings import Settings

Location = Annotated[str, Field(max_length=4_096)]
APP: Final = Path(__file__).with_name("app")
"""What `flwr run` takes."""
RECIPE: Final = "recipe.json"
SCENARIO: Final = "scenario.json"
PEOPLE: Final = "people.json"
STANDING: Final = "standing.json"


class AnotherRun(PotluckError):
    """A folder that holds another run."""


@final
class AppSettings(Settings):
    """The table [tool.flwr.app.config] and what `flwr run --run-config` changes of it; dashes are underscores here."""

    recipe: Location = ""
    """The recipe's file, in full; empty: the demonstration's."""
    scenario: Location = "steady"
    """Who holds what text: the name of a scenario, or its file in full; empty: nodes bring their own, see who_is."""
    folder: Location = "~/potluck-flower"
    """Where the run is written, in full; the same one again goes on with it."""
    cache: Location = ""
    """Where base models and texts are kept; empty: where `potluck join` keeps them."""
    rounds: NonNegativeInt = 0
    """Rounds; 0: the recipe's run.versions."""
    measure_every: NonNegativeInt = 1
    """Rounds between two measurements of the shared adapter on everybody's held-out text; 0: never."""
    measured: bool = True
    """Whether clients measure their own held-out text before and after training, as volunteers do."""
    threads: PositiveInt = 1
    """Threads of each of Flower's workers."""
    timeout_s: PositiveFloat = 3_600.0
    """Longest wait for the replies of a round, in seconds."""

    @property
    def root(self) -> Path:
        """The run's folder."""
        return _in_full(self.folder, "folder")

    @property
    def cache_folder(self) -> Path:
        """Where base models and texts are kept."""
        return _in_full(self.cache, "cache") if self.cache else cache_of_user(os.environ)

    def read_recipe(self) -> Recipe:
        """Read the recipe.

        Raises:
            BadSetting, UnknownName: it cannot be read, or holds what it must not.
        """
        shipped = Path(str(files("potluck.simulations") / "recipes" / "demo.toml"))
        return Recipe.read(_in_full(self.recipe, "recipe") if self.recipe else shipped)

    def read_scenario(self) -> Scenario | None:
        """Read the scenario, or return None where nodes bring their own text.

        Raises:
            UnknownName: there is none of that name.
            BadSetting: it has what Flower cannot play.
        """
        if not self.scenario:
            return None
        found = scenario(str(_in_full(self.scenario, "scenario")) if self.scenario.endswith(".toml") else self.scenario)
        there = found.availability
        unplayed = {
            "attack": bool(found.attack.name),
            "ranks": bool(found.ranks),
            "availability": bool(there.dropout or there.diurnal or there.churn or there.trace),
        }
        if odd := [name for name, given in unplayed.items() if given]:
            raise BadSetting(
                f"the scenario {found.name!r} has {', '.join(odd)}, and Flower's engine has neither a clock nor "
                "hostile clients, and its clients train one rank",
                fix="use `potluck simulate`, which plays all of it, or a scenario without, such as 'steady'",
            )
        return found


def settings_of(run_config: Mapping[str, bool | float | str]) -> AppSettings:
    """Return the settings in Flower's *run_config*.

    Raises:
        UnknownName, BadSetting: a key that is none, or a value out of range.
    """
    return AppSettings.parse(json.dumps({key.replace("-", "_"): value for key, value in run_config.items()}))


def _in_full(given: str, what: str) -> Path:
    """Return the path *given*, which must not depend on where a process of Flower happens to run."""
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise BadSetting(
            f"{what} is {given!r}, and Flower's processes run in a folder of their own",
            fix=f"give the whole path: --run-config '{what}=\"/…/{path.name}\"'",
        )
    return path


@final
@dataclass(frozen=True, slots=True)
class Who:
    """A client: its name, which decides the order of its samples, and its text."""

    name: str
    data: Path


def who_is(context: Context) -> Who:
    """Return which client a node is.

    A node that was started with `--node-config 'data="…" name="…"'` has its own text; Flower's simulation gives it a
    partition-id, its place among the people of the run's scenario.

    Raises:
        BadSetting: it has neither, or the run's folder cannot be seen from here.
    """
    own = context.node_config
    if "data" in own:
        return Who(str(own.get("name", f"node-{context.node_id}")), _in_full(str(own["data"]), "data"))
    settings = settings_of(context.run_config)
    path = settings.root / PEOPLE
    try:
        people = json.loads(path.read_text("utf-8"))
        name = people[int(own["partition-id"])]
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise BadSetting(
            f"node {context.node_id} has no text of its own and no place in {path}: {type(error).__name__}: {error}",
            fix="start SuperNodes with --node-config 'data=\"/…/notes\"', or simulate where the folder can be seen",
        ) from None
    return Who(name, settings.root / "data" / name)


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands; digests are in hex, empty at version 0."""

    recipe: str
    """Digest of the recipe."""
    rounds: int = 0
    """That have ended, with or without a version."""
    version: int = 0
    checkpoint: str = ""
    adapter: str = ""

    @classmethod
    def read(cls, folders: Folders, recipe: Recipe) -> Self:
        """Return where the run in *folders* stands, or the beginning.

        Raises:
            AnotherRun: the folder is another recipe's, or not a run's at all.
        """
        path, digest = folders.root / STANDING, recipe.digest().hex()
        if not path.exists():
            if folders.root.exists() and any(folders.root.iterdir()):
                raise AnotherRun(f"{folders.root} is not empty, and holds no run", fix=_ANOTHER)
            return cls(digest)
        found = cls(**json.loads(path.read_text("utf-8")))
        if found.recipe != digest:
            raise AnotherRun(
                f"{folders.root} holds a run of recipe {found.recipe[:16]}…, and this one is {digest[:16]}…",
                fix=_ANOTHER,
            )
        return found

    def write(self, folders: Folders) -> None:
        """Put it on the disk, whole or not at all."""
        store(json.dumps(asdict(self), indent=1).encode(), folders.root / STANDING)


_ANOTHER: Final = "name another folder: --run-config 'folder=\"/…\"', or delete that one"


def remember(path: Path, text: str, what: str) -> None:
    """Write *text* to *path*, or see that it is there already.

    Raises:
        AnotherRun: something else is there.
    """
    if path.exists() and path.read_text("utf-8") != text:
        raise AnotherRun(f"{path.parent} holds a run of another {what}", fix=_ANOTHER)
    store(text.encode(), path)
