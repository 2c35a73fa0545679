"""A fleet of Ray actors, each with a base model of its own; one that dies is replaced, and its group done again."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import ray
from ray.exceptions import RayActorError

from potluck.aggregation.errors import PotluckError
from potluck.client.lessons import Engine, Lesson, Outcome, Term
from potluck.simulations.ray_map import ray_map
from potluck.simulations.running.engines import shared_out

TRIES: Final = 3
"""Workers that may die over one group of clients."""


class WorkersDie(PotluckError):
    """A group of clients kills every worker that trains it."""


class Worker:
    """One engine in a process of its own."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._engine = make()

    def do(self, what: str, term: Term, group: Sequence[Any]) -> tuple[Any, float]:
        """Return what the engine's call gives, and its CPU-seconds; an error of ours comes back as a value."""
        began_s = time.process_time()
        try:
            result = getattr(self._engine, what)(term, group)
        except PotluckError as error:
            result = error
        return result, time.process_time() - began_s


@final
@dataclass(slots=True)
class RayFleet:
    """A Fleet whose engines are Ray actors.  Results are taken in the order of the groups."""

    make: Callable[[], Engine]
    workers: int
    threads: int
    cpu_s: float = 0.0
    replaced: int = 0
    """Workers that died and were replaced."""
    _actors: list[Any] = field(default_factory=list)

    def train(self, term: Term, groups: Sequence[Sequence[Lesson]]) -> Iterator[list[Outcome]]:
        return self._spread("train", term, groups)

    def losses(self, term: Term, groups: Sequence[Sequence[Path]]) -> Iterator[list[tuple[float, int]]]:
        return self._spread("losses", term, groups)

    def hire(self) -> Any:  # noqa: ANN401 - Ray is untyped
        """Return a new worker."""
        return ray.remote(max_restarts=0, num_cpus=self.threads)(Worker).remote(self.make)

    def dismiss(self) -> None:
        """End all workers; who is needed again is hired anew."""
        while self._actors:
            ray.kill(self._actors.pop())

    def _spread(self, what: str, term: Term, groups: Sequence[Sequence[Any]]) -> Iterator[Any]:
        """Yield what becomes of each of *groups*, in their order; every worker has one at a time."""
        while len(self._actors) < self.workers:
            self._actors.append(self.hire())
        shared = ray.put(term)
        todo, deaths = deque(range(len(groups))), [0] * len(groups)
        idle, running, done = list(range(self.workers)), {}, {}
        for place in range(len(groups)):
            while place not in done:
                while idle and todo:
                    worker, group = idle.pop(), todo.popleft()
                    running[self._actors[worker].do.remote(what, shared, groups[group])] = worker, group
                (ready, *_), _ = ray.wait(list(running), num_returns=1)
                worker, group = running.pop(ready)
                idle.append(worker)
                try:
                    done[group], cpu_s = ray.get(ready)
                    self.cpu_s += cpu_s
                except RayActorError as error:
                    deaths[group] += 1
                    self._replace(worker, deaths[group], error)
                    todo.appendleft(group)
            result = done.pop(place)
            if isinstance(result, PotluckError):
                raise result
            yield result

    def _replace(self, worker: int, deaths: int, error: RayActorError) -> None:
        if deaths >= TRIES:
            raise WorkersDie(
                f"{deaths} workers died, one after the other, over the same clients: {str(error).splitlines()[0]}",
                fix="a machine without memory ends processes: use fewer --workers, or a smaller --at-once",
            )
        self.replaced += 1
        self._actors[worker] = self.hire()


@contextmanager
def ray_fleet(
    make: Callable[[], Engine], *, workers: int | None, threads: int = 1, address: str | None = None
) -> Iterator[RayFleet]:
    """Connect to the cluster at *address*, or start one here, and end it; None *workers* use all of its cores.

    Raises:
        BadSetting: nothing answers at *address*, or more workers are asked for than there are cores.
    """
    with ray_map(address):
        available = int(ray.cluster_resources().get("CPU", 1))
        fleet = RayFleet(make, shared_out(workers, threads, available), threads)
        try:
            yield fleet
        finally:
            fleet.dismiss()
