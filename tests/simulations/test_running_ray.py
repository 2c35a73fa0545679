"""A fleet of Ray actors: the bits of a local one, whoever dies on the way."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from potluck.client.data import NoData
from potluck.client.lessons import Lesson, Term
from potluck.client.work import Trained
from potluck.simulations.running.fleet import Fleet, LocalFleet
from potluck.simulations.running.fleet_ray import RayFleet, WorkersDie, ray_fleet
from potluck.simulations.running.kept import Asked
from potluck.simulations.running.run import Order, Simulation, simulation
from toy_engine import ToyEngine, toy_recipe, toy_scenario

# Ray leaves its own files to the collector.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::FutureWarning"
    ),
]
TICKS = {"poll_min_s": 1.0, "poll_max_s": 5.0}


@dataclass
class Mortal:
    """A toy engine whose process is killed in the middle of its work, so many times in all."""

    folder: Path
    deaths: int
    toy: ToyEngine = field(default_factory=ToyEngine)

    def train(self, term: Term, lessons: Sequence[Lesson]) -> list[Trained]:
        for death in range(self.deaths):
            if term.version == 1 and not (mark := self.folder / str(death)).exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.toy.train(term, lessons)

    def losses(self, term: Term, data: Sequence[Path]) -> list[tuple[float, int]]:
        return self.toy.losses(term, data)


class Starved:
    """An engine that finds no text."""

    def train(self, term: Term, lessons: Sequence[Lesson]) -> list[Trained]:
        raise NoData(f"{len(lessons)} clients have no text", fix="give them some")

    def losses(self, term: Term, data: Sequence[Path]) -> list[tuple[float, int]]:
        return [(1.0, 1)] * len(data)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayFleet]:
    with ray_fleet(ToyEngine, workers=2) as fleet:
        yield fleet


def begun(folder: Path, fleet: Fleet) -> Simulation:
    asked = Asked(clients=12, at_once=3, measured=6)
    return simulation(folder / "run", Order(toy_recipe(limits=TICKS), toy_scenario(folder), asked), fleet)


@pytest.fixture
def local(tmp_path: Path) -> str:
    run = begun(tmp_path / "local", LocalFleet(ToyEngine()))
    list(run.play(4))
    return run.digest


def test_workers_give_the_bits_of_one_engine_here(cluster: RayFleet, local: str, tmp_path: Path):
    run = begun(tmp_path / "ray", cluster)
    rows = list(run.play(4))

    assert run.digest == local
    assert cluster.cpu_s > 0
    assert all(row.cpu_s > 0 for row in rows)


def test_a_worker_that_is_killed_is_replaced_and_its_clients_are_run_again(
    cluster: RayFleet, local: str, tmp_path: Path
):
    """Twice: the second time it is the one that came in its place."""
    fleet = RayFleet(partial(Mortal, tmp_path, 2), workers=1, threads=1)
    cluster.dismiss()
    run = begun(tmp_path / "ray", fleet)
    list(run.play(4))
    fleet.dismiss()

    assert fleet.replaced == 2
    assert run.digest == local


def test_clients_that_kill_every_worker_end_the_run_with_a_reason(cluster: RayFleet, tmp_path: Path):
    fleet = RayFleet(partial(Mortal, tmp_path, 99), workers=1, threads=1)
    cluster.dismiss()
    run = begun(tmp_path / "ray", fleet)
    with pytest.raises(WorkersDie, match="3 workers died"):
        list(run.play(4))
    fleet.dismiss()

    assert run.saved == run.played == 2  # nobody starts from version 1 before


def test_what_an_engine_refuses_is_told_as_it_would_be_here(cluster: RayFleet, tmp_path: Path):
    fleet = RayFleet(Starved, workers=1, threads=1)
    cluster.dismiss()
    with pytest.raises(NoData, match="clients have no text") as refused:
        list(begun(tmp_path / "ray", fleet).play(1))
    fleet.dismiss()

    assert refused.value.__notes__ == ["fix: give them some"]
