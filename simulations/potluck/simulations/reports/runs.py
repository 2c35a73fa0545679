"""A run as its folder holds it, and what it came to."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

from potluck.aggregation.errors import PotluckError
from potluck.simulations.reports.tables import CLIENTS, ROUNDS, UPDATES, read_rows
from potluck.simulations.rows import ClientRow, RoundRow, UpdateRow
from potluck.wire.recipe import Recipe

RECIPE: Final = "recipe.json"
SCENARIO: Final = "scenario.json"


class NotARun(PotluckError):
    """A folder that holds no run of a simulation, or only a part of one."""


@final
@dataclass(frozen=True, slots=True)
class Run:
    """What a run was asked to be, and the rows that it wrote."""

    folder: Path
    recipe: Recipe
    scenario: Mapping[str, Any]
    """As it was written down: only shown, and compared with another run's."""
    rounds: tuple[RoundRow, ...]
    updates: tuple[UpdateRow, ...]
    clients: tuple[ClientRow, ...]

    @property
    def measured(self) -> tuple[RoundRow, ...]:
        """Rounds after which the shared adapter was measured; a loss of infinity was."""
        return tuple(row for row in self.rounds if not math.isnan(row.loss))

    @property
    def base_loss(self) -> float:
        """Held-out loss of the base: the clients' mean, by bytes of text, in nats per token; NaN if not measured."""
        return mean([(row.loss_base, row.bytes_of_text) for row in self.clients])

    @property
    def last_loss(self) -> float:
        """Held-out loss of the last version that was measured, in nats per token; NaN if none was."""
        return self.measured[-1].loss if self.measured else math.nan

    @property
    def best_loss(self) -> float:
        """Lowest held-out loss of all its versions, in nats per token; NaN if none was measured."""
        return min((row.loss for row in self.measured), default=math.nan)

    @property
    def hours(self) -> float:
        """Simulated hours that it took."""
        return max((row.ended_h for row in self.rounds), default=0.0)

    @property
    def lost(self) -> float:
        """Share of its leases that came to nothing: the client went away, or its time ran out; 0 to 1."""
        leases = sum(row.leases for row in self.rounds)
        return sum(row.dropped for row in self.rounds) / leases if leases else 0.0

    @property
    def hostile(self) -> float:
        """Share of the updates that it combined that were hostile, 0 to 1."""
        combined = sum(row.updates for row in self.rounds)
        return sum(row.hostile for row in self.rounds) / combined if combined else 0.0


def read_run(folder: Path) -> Run:
    """Return the run in *folder*.

    Raises:
        NotARun: there is no such folder, or it lacks a file that every run has.
        BadTable: its rows are damaged, or another version of Potluck wrote them.
        BadSetting: so is its recipe.
    """
    if not folder.is_dir():
        raise NotARun(f"{folder} is no folder", fix="name the folder that `potluck simulate` wrote")
    names = (RECIPE, SCENARIO, ROUNDS, UPDATES, CLIENTS)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise NotARun(
            f"{folder} holds no run: {len(missing)} of its {len(names)} files are missing: {', '.join(missing)}",
            fix="name the folder that `potluck simulate` wrote, or let it finish a round first",
        )
    return Run(
        folder,
        Recipe.read(folder / RECIPE),
        _scenario(folder / SCENARIO),
        tuple(read_rows(folder / ROUNDS, RoundRow)),
        tuple(read_rows(folder / UPDATES, UpdateRow)),
        tuple(read_rows(folder / CLIENTS, ClientRow)),
    )


def _scenario(path: Path) -> Mapping[str, Any]:
    try:
        scenario = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise NotARun(f"{path} is not JSON: {error}", fix="repeat the run: its folder is damaged") from None
    if not isinstance(scenario, dict):
        raise NotARun(f"{path} holds no table of settings", fix="repeat the run: its folder is damaged")
    return MappingProxyType(scenario)


def mean(weighed: Sequence[tuple[float, float]]) -> float:
    """Return the mean of (value, weight) pairs over those whose value is a number; NaN if there are none."""
    known = [(value, weight) for value, weight in weighed if not math.isnan(value)]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if total else math.nan
