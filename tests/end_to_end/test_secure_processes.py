"""A coordinator and eight clients, each a process of its own: what the coordinator has is searched for any one update.

The coordinator is stopped at moments and all its memory and all its files are read.  That the search would find an
update is shown by a run that reads updates one by one, and by words that the coordinator does keep.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakes import Client
from potluck.coordinator.desk import Desk
from potluck.wire.recipe import Recipe
from scripted import Volunteer, recipe
from searching import files_of, found, memory_of, needles
from summing import COHORT, STEP, deltas_of, plainly, steps_of, summed_recipe

SUPPORT = Path(__file__).parents[1] / "support"
MOMENTS = ("REVEAL:AFTER", "SPOOL:BEFORE", "COMMIT:AFTER")
RECIPE = summed_recipe(privacy={"rendezvous_s": 60.0})
PATIENCE_S = 120.0


def process(script: str, *words: object) -> "subprocess.Popen[str]":
    """Start one of the scripts beside the tests."""
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / script), *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(running: "subprocess.Popen[str]") -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def go_on(running: "subprocess.Popen[str]") -> None:
    assert running.stdin is not None
    running.stdin.write("\n")
    running.stdin.flush()


@contextmanager
def coordinator(folder: Path, recipe: Recipe, *points: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Host *recipe* in a process of its own; yield it with an invite."""
    running = process("summing_coordinator.py", folder, recipe.to_json(), 0, *points)
    try:
        port = line_of(running)
        desk = Desk.open(folder)
        invite = desk.invites.make([f"127.0.0.1:{port}"], 100, 3_600.0)
        desk.close()
        yield running, invite
    finally:
        running.stdin.close()  # type: ignore[union-attr]
        running.wait(PATIENCE_S)
        running.stdout.close()  # type: ignore[union-attr]


def test_no_memory_and_no_file_of_the_coordinator_ever_holds_one_update(tmp_path: Path):
    folder = tmp_path / "coordinator"
    wanted = [needle for seed in range(COHORT) for needle in needles(steps_of(RECIPE, 0, seed), STEP)]
    names = [f"client {seed}".encode() for seed in range(COHORT)]
    with coordinator(folder, RECIPE, *MOMENTS) as (running, invite):
        for seed in range(COHORT):
            Client(tmp_path / str(seed), seed=seed).enrol(invite)
        clients = [process("summing_client.py", tmp_path / str(seed), seed) for seed in range(COHORT)]
        for moment in MOMENTS:
            assert line_of(running) == moment
            assert not found(wanted, memory_of(running.pid)), moment
            assert not found(wanted, files_of(folder)), moment
            if sys.platform.startswith("linux"):
                assert found(names, memory_of(running.pid)), "the search reads no memory"
            go_on(running)
        assert [line_of(client) for client in clients] == ["RUN_DONE"] * COHORT
        for client in clients:
            client.wait(PATIENCE_S)
            client.stdin.close()  # type: ignore[union-attr]
            client.stdout.close()  # type: ignore[union-attr]
    desk = Desk.open(folder)
    last, first = desk.history().versions
    desk.close()
    assert last.adapter_digest == plainly(RECIPE, first.seed, range(COHORT))
    assert last.contributors == COHORT


def test_the_same_search_finds_an_update_where_they_are_read_one_by_one(tmp_path: Path):
    how = {"rule": "ffa", "weights": ["uniform"], "hostile": 0.0, "mode": "synchronous", "cohort": COHORT, "minimum": 2}
    seen = recipe(run={"versions": 1}, aggregation=how, codec={"name": "fp32", "lossless": False})
    with coordinator(tmp_path / "coordinator", seen) as (_, invite):
        volunteer = Volunteer(invite, seed=3)
        volunteer.enroll()
        lease = volunteer.lease()
        data = seen.codec.choose(("fp32",)).encode(deltas_of(seen, 0, 3))
        volunteer.deliver(lease, data)
        volunteer.close()

        assert found(list(needles(steps_of(seen, 0, 3), STEP)), files_of(tmp_path / "coordinator"))
