"""A round's passes as Ray tasks: the same bits as here."""

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from adapters import low_rank, trained_from
from coordinators import hosting
from potluck.aggregation import (
    BadSetting,
    BadUpdate,
    LowRank,
    Parts,
    Pipeline,
    StoredUpdates,
    Update,
    aggregate,
    encode,
    to_tensors,
)
from potluck.simulations.ray_map import RayMap, ray_map
from scripted import recipe

# Ray leaves its own files to the collector.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::FutureWarning"
    ),
]
SHAPES = {f"m{n}": (30 + n, 20) for n in range(5)}


def trained(client: int, name: str) -> LowRank:
    """Return what one client trained of one module."""
    return trained_from(np.random.default_rng([client, int(name[1:])]), begun(name))


def begun(name: str) -> LowRank:
    """Return the start of one module."""
    return low_rank(np.random.default_rng([7, int(name[1:])]), SHAPES[name], 4, 2.0)


def opened(client: int) -> Update:
    """Return one client's update, read by module."""
    names = tuple(SHAPES)
    return Update(Parts(names, partial(trained, client)), Parts(names, begun), 1 + client % 5, key=bytes([client]))


def test_a_cluster_that_is_not_there_is_said_with_the_fix():
    """It comes before the tests that start one: Ray connects a process once at a time."""
    with pytest.raises(BadSetting, match=r"no Ray cluster answers at 127\.0\.0\.1:1") as caught, ray_map("127.0.0.1:1"):
        pass

    assert "ray start" in caught.value.__notes__[0]


def test_what_listens_and_is_no_cluster_is_said_and_not_waited_for():
    """Ray itself would wait for two minutes, and then end the process."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "127.0.0.1:{1}".format(*other.getsockname())
        with pytest.raises(BadSetting, match=f"what listens at {address} is no Ray cluster"), ray_map(address):
            pass


@pytest.fixture(scope="module")
def mapped() -> Iterator[RayMap]:
    """Give a cluster of this machine's own."""
    with ray_map() as made:
        yield made


@pytest.mark.parametrize(
    "pipeline",
    [
        Pipeline(weights=("examples", "norm_bound", "nnm", "geomedian"), f=3, rank=8),
        Pipeline(weights=("multikrum",), f=3, rank=8, exact_up_to=5),
        Pipeline(outer="nesterov", rank=8, exact_up_to=5),
    ],
    ids=["exact", "sketched", "momentum"],
)
def test_ray_gives_the_same_bits(mapped: RayMap, pipeline: Pipeline):
    """Master, momentum and report, over two rounds."""
    here, there = aggregate(StoredUpdates(17, opened), {}, pipeline), None

    there = aggregate(StoredUpdates(17, opened), {}, pipeline, mapped=mapped)
    here = aggregate(StoredUpdates(17, opened), here.master, pipeline, here.state)
    there = aggregate(StoredUpdates(17, opened), there.master, pipeline, there.state, mapped=mapped)

    assert encode(to_tensors(there.master), "fp64") == encode(to_tensors(here.master), "fp64")
    assert encode(to_tensors(there.state.momentum), "fp64") == encode(to_tensors(here.state.momentum), "fp64")
    assert there.report == here.report


def test_what_a_task_refuses_arrives_with_its_fix(mapped: RayMap):
    """An error from another process names the update as one from here does."""

    def spoiled(client: int) -> Update:
        def read(name: str) -> LowRank:
            term = trained(client, name)
            term.b[1, 1] = np.nan
            return term

        return Update(Parts(tuple(SHAPES), read), Parts(tuple(SHAPES), begun), 1, key=bytes([client]))

    with pytest.raises(BadUpdate, match=r"lora_B\[1, 1\] is NaN"):
        aggregate(StoredUpdates(3, spoiled), {}, Pipeline(weights=()), mapped=mapped)


def test_a_coordinator_hands_its_rounds_to_ray(tmp_path: Path, mapped: RayMap):
    """The same updates, the same version: inputs travel as the folder they lie in."""
    digests = []
    for name, how in (("here", map), ("there", mapped)):
        with hosting(tmp_path / name, recipe(aggregation={"cohort": 3}), mapped=how) as hosted:
            for volunteer in hosted.cohort(3):
                lease = volunteer.lease()
                volunteer.deliver(lease, volunteer.train(lease), examples=8)
            assert hosted.coordinator.wait_for_version(1, 60)
            with hosted.coordinator.desk.site.store.reading() as books:
                version = books.versions.find(1)
            assert version is not None
            digests.append((version.checkpoint_digest, version.adapter_digest))

    assert digests[0] == digests[1]
