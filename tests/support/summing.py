"""Runs whose updates are summed unseen: a recipe, updates that a ring holds exactly, and what must come of them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Thread
from types import MappingProxyType

import numpy as np

from fakes import Client, FakeTrainer
from potluck.aggregation import Update, start
from potluck.aggregation.errors import PotluckError
from potluck.aggregation.tensors import LORA_A, LORA_B, changed
from potluck.client.events import Happening, Moved, Phase, Progressed
from potluck.client.session import Session
from potluck.client.tasks import TaskState
from potluck.client.work import Job, Trained, Trainer
from potluck.coordinator.checkpoints import Checkpoint
from potluck.coordinator.combine import combined
from potluck.coordinator.desk import Desk
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import Manifest
from scripted import recipe

COHORT = 8
STEP = 2.0**-20
"""One step of the ring of 24 bits, 8 members and this clip, for updates of 64 numbers."""
CLIP = (2**23 - 1) // COHORT * STEP
LARGEST = 2**15
"""Steps in the largest number of an update: 64 of them stay far below the clip."""


def summed_recipe(**tables: dict[str, object]) -> Recipe:
    """Return a small recipe with sums of 5 to 8 updates, quick about everything unless told otherwise."""
    wanted: dict[str, dict[str, object]] = {
        "run": {"versions": 1},
        "aggregation": {
            "rule": "ffa",
            "weights": ["uniform"],
            "hostile": 0.0,
            "mode": "synchronous",
            "cohort": COHORT,
            "deadline_s": 600.0,
        },
        "privacy": {
            "secure_aggregation": True,
            "cohort_minimum": 5,
            "small_cohorts": True,
            "clip": CLIP,
            "rendezvous_s": 5.0,
            "answer_s": 20,
            "vector_s": 60,
        },
    }
    for name, table in tables.items():
        wanted[name] = wanted.get(name, {}) | table
    return recipe(**wanted)


def steps_of(recipe: Recipe, version: int, seed: int) -> dict[str, np.ndarray]:
    """Return the update of the volunteer *seed* in whole steps of the ring: recognisable, and the same each time."""
    rng = np.random.default_rng([seed, version])
    entries = Manifest.of(recipe, version).entries
    return {name: rng.integers(-LARGEST, LARGEST, shape, dtype=np.int32) for name, shape in entries}


def deltas_of(recipe: Recipe, version: int, seed: int) -> dict[str, np.ndarray]:
    """Return the same as float32: exactly as many steps."""
    return {name: (steps * STEP).astype(np.float32) for name, steps in steps_of(recipe, version, seed).items()}


@dataclass
class GridTrainer(FakeTrainer):
    """Finds deltas that the ring holds exactly, so that nothing is left to chance."""

    def train(self, job: Job, on_step) -> Trained | None:
        trained = super().train(job, on_step)
        return None if trained is None else replace(trained, deltas=deltas_of(job.recipe, job.version, self.seed))


def plainly(recipe: Recipe, seed: int, members: Sequence[int]) -> bytes:
    """Return the SHA-256 of the adapter that the updates of *members*, added up in plain sight, make of version 0.

    *seed* is that of version 0's starts.
    """
    return sha256(added(recipe, seed, [deltas_of(recipe, 0, member) for member in members])).digest()


def added(recipe: Recipe, seed: int, updates_of: Iterable[Mapping[str, np.ndarray]]) -> bytes:
    """Return the adapter that those updates, added up in plain sight, make of version 0."""
    begun = start(
        {},
        recipe.modules(),
        init=recipe.init,
        rank=recipe.adapter.rank,
        scale=recipe.adapter.scale,
        seed=seed,
    ).trainable
    updates = []
    for deltas in updates_of:
        trained = {
            name: changed(name, term, b=deltas.get(name + LORA_B), a=deltas.get(name + LORA_A))
            for name, term in begun.items()
        }
        updates.append(Update(trained=trained, start=begun, examples=1))
    return combined(recipe, updates, Checkpoint()).adapter


@dataclass
class Played:
    """Clients at work, each in a thread of its own."""

    clients: list[Client]
    ended: dict[int, object]
    threads: list[Thread]

    def wait(self, deadline_s: float = 60.0) -> dict[int, object]:
        """Return how each session ended: its Ending, or what it raised."""
        for thread in self.threads:
            thread.join(deadline_s)
        return self.ended


def play(
    clients: Sequence[Client],
    *,
    stops: Mapping[int, Callable[[Happening], bool]] = MappingProxyType({}),
    trainer: Callable[[int], Trainer] = GridTrainer,
) -> Played:
    """Start a session of every client; one named in *stops* is stopped at the first event that its entry picks."""
    ended: dict[int, object] = {}

    def run(client: Client) -> None:
        stop = stops.get(client.seed)

        def watch(happening: Happening, session: Session) -> None:
            if stop is not None and stop(happening):
                session.stop()

        try:
            ended[client.seed] = client.run(trainer(client.seed), watch=watch).ending
        except PotluckError as error:
            ended[client.seed] = error

    threads = [Thread(target=run, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    return Played(list(clients), ended, threads)


def entering(state: TaskState) -> Callable[[Happening], bool]:
    """Return what picks the moment in which a task enters *state*."""
    return lambda happening: isinstance(happening, Moved) and happening.state is state


def uploading(happening: Happening) -> bool:
    """Pick the moment in which a masked update is under way."""
    return isinstance(happening, Progressed) and happening.phase is Phase.UPLOAD


def enrolled(folder: Path, token: str, seeds: Iterable[int]) -> list[Client]:
    """Return clients that are members, each with a home of its own."""
    clients = [Client(folder / f"client{seed}", seed=seed, tick_s=0.2) for seed in seeds]
    for client in clients:
        client.enrol(token)
    return clients


def entries(folder: Path) -> list[dict[str, object]]:
    """Return what the coordinator in *folder* has in its log."""
    desk = Desk.open(folder)
    try:
        with desk.site.store.reading() as books:
            return [json.loads(one.entry) for one in books.log.since(0)]
    finally:
        desk.close()
