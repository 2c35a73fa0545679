"""A simulated run from its beginning to its end, or on from where it stands."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from potluck.coordinator.site import plan_of
from potluck.simulations.rows import ClientRow, RoundRow
from potluck.simulations.running.closing import Costs, measured_row
from potluck.simulations.running.fleet import Fleet
from potluck.simulations.running.kept import Asked, Folder, Rows
from potluck.simulations.running.packing import Packing
from potluck.simulations.running.play import open_doors, play_round
from potluck.simulations.running.standing import Client, Standing
from potluck.simulations.running.table import NAN, Table, terms_of
from potluck.simulations.running.teaching import term_of
from potluck.simulations.worlds.base import World
from potluck.simulations.worlds.building import build, check
from potluck.simulations.worlds.chance import generator
from potluck.simulations.worlds.tables import Scenario
from potluck.wire.recipe import Recipe


@final
class Simulation:
    """One run in its folder."""

    def __init__(self, folder: Folder, recipe: Recipe, world: World, asked: Asked, fleet: Fleet) -> None:
        """Begin a run, or take up the one that is in *folder*."""
        plan, terms = plan_of(recipe), terms_of(recipe)
        if folder.begun:
            standing, rows = folder.load()
        else:
            standing, rows = Standing([Client() for _ in world.people], terms.opening.name), Rows()
        packing = Packing(plan, folder.kept, folder.blobs)
        self.table = Table(plan, terms, world, fleet, asked, folder, packing, standing, rows)
        self._bytes = [sum(file.stat().st_size for file in person.data.iterdir()) for person in world.people]
        chosen = generator(world.seed, "measured").permutation(len(world.people))[: asked.measured]
        self._measured: list[int] = sorted(chosen.tolist())

    @property
    def digest(self) -> str:
        """SHA-256 of the present master, in hex; empty at version 0."""
        return self.table.standing.published.checkpoint

    @property
    def played(self) -> int:
        """Rounds that have ended."""
        return len(self.table.rows.rounds)

    @property
    def saved(self) -> int:
        """Rounds that are on the disk."""
        return self.table.standing.rounds_written

    def play(self, rounds: int) -> Iterator[RoundRow]:
        """Play until so many rounds have ended; yield each one's row once it and all before are on the disk.

        Raises:
            Stalled: no round ends any more.
            DiskFull: there is no room; the run stands where its last round ended.
            PotluckError: training fails.
        """
        table = self.table
        if not table.folder.begun:
            open_doors(table)
            self._measure_base()
            self._save()
        while self.played < rounds:
            costs = Costs(table.fleet.cpu_s)
            play_round(table)
            row = table.rows.rounds[-1]
            if row.ended == "COMMITTED" and (row.round % table.asked.measure_every == 0 or row.round == rounds):
                row = measured_row(row, self._losses("loss"))
            table.rows.rounds[-1] = costs.on(row, table.fleet.cpu_s)
            self._save()
            yield table.rows.rounds[-1]

    def _measure_base(self) -> None:
        """Measure the base model on the clients' held-out text."""
        self._losses("loss_base")
        for client in self.table.standing.clients:
            client.loss = client.loss_base

    def _losses(self, where: str) -> Sequence[tuple[float, int]]:
        """Measure the present version, and remember each client's loss."""
        table, size = self.table, self.table.asked.at_once
        people = [self._measured[first : first + size] for first in range(0, len(self._measured), size)]
        paths = [[table.world.people[i].data for i in group] for group in people]
        term = term_of(table, table.standing.version)
        found = [one for group in table.fleet.losses(term, paths) for one in group]
        for person, (loss, _) in zip(self._measured, found, strict=True):
            setattr(table.standing.clients[person], where, loss)
        return found

    def _save(self) -> None:
        table = self.table
        table.folder.save(table.standing, table.rows, [self._client(i) for i in range(len(table.world.people))])

    def _client(self, person: int) -> ClientRow:
        who, client = self.table.world.people[person], self.table.standing.clients[person]
        return ClientRow(
            client=who.name,
            device=who.device.name,
            rank=who.rank or self.table.plan.recipe.adapter.rank,
            examples=client.examples,
            bytes_of_text=self._bytes[person],
            hostile=who.hostile,
            leases=client.leases,
            counted=client.counted,
            loss_base=NAN if client.loss_base is None else client.loss_base,
            loss=NAN if client.loss is None else client.loss,
        )


@final
@dataclass(frozen=True, slots=True)
class Order:
    """What is to be simulated."""

    recipe: Recipe
    """A completed one: its base model is pinned."""
    scenario: Scenario
    asked: Asked
    resume: bool = False
    """Whether to go on with the run in the folder, which was asked for as it says itself."""


def simulation(
    root: Path,
    order: Order,
    fleet: Fleet,
    progress: Callable[[str], None] = lambda _: None,
    cache: Path | None = None,
) -> Simulation:
    """Return the run of *order* in the folder *root*; *cache* is where texts are fetched to.

    Raises:
        AnotherRun: the folder holds another run, or none to resume, or one that is not to be resumed.
        Impossible, TooLittleText, EmptyPartition, NoText, CannotWrite: the world cannot be.
        BadState: the run's state is damaged.
    """
    folder, recipe, asked = Folder(root), order.recipe, order.asked
    facts = recipe.to_json(), order.scenario.model_dump_json()
    if order.resume:
        asked = folder.see_that_it_is(*facts)
    else:
        check(order.scenario, recipe, asked.clients)
        folder.begin(*facts, asked)
    world = build(order.scenario, recipe, asked.clients, root, progress, cache)
    return Simulation(folder, recipe, world, asked, fleet)
