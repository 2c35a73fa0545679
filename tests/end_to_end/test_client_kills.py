"""A client that is killed on either side of any transition comes back and delivers its one update, the very same.

The process is a real one and the signal is SIGKILL, sent by the process to itself, so nothing of it (no `finally`, no
flush, no rollback) runs after that point.  Only the trainer and the sensors are fakes.
"""

import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from coordinators import hosting
from fakes import Client
from potluck.client.events import When
from potluck.client.status import history_of, status_of
from potluck.client.tasks import TaskState
from scripted import recipe

SCRIPT = Path(__file__).parents[1] / "support" / "crashing_client.py"
RECIPE = recipe(run={"versions": 1}, aggregation={"cohort": 2, "minimum": 2})
POINTS = list(product(TaskState, When))
PATIENCE_S = 30.0
SEED = 1


@dataclass(frozen=True)
class Outcome:
    """What must not depend on whether, or where, the client was killed."""

    adapter: bytes
    """SHA-256 of the version that the round made."""
    digest: bytes
    """Of the client's update."""
    receipt: tuple[str, int, int, int, float]
    """Verdict, round, version, credit and weight of the client's one receipt."""
    counted: tuple[int, int]
    """The client's updates and credit, as the coordinator knows them."""


def run(folder: Path, *at: str) -> tuple[int, str]:
    """Run one session of the client; return its exit status and what it said."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(SEED), *at],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def play(folder: Path, *at: str) -> Outcome:
    """Let a scripted volunteer and the client make one version, while the client dies once *at* a point."""
    with hosting(folder / "coordinator", RECIPE) as hosted:
        client = Client(folder / "client", seed=SEED)
        client.enrol(hosted.invite())
        hosted.volunteer(seed=2).contribute()
        if at:
            assert run(client.folder, *at) == (-9, "")
        assert run(client.folder) == (0, "RUN_DONE")

        assert hosted.coordinator.wait_for_version(1, PATIENCE_S)
        version = hosted.coordinator.history().versions[0]
        (receipt,) = history_of(client.home).receipts
        known = {one.client_id: one for one in hosted.coordinator.history().contributions}
        mine = known[status_of(client.home).client_id]
        assert status_of(client.home).tasks == ()
        return Outcome(
            adapter=version.adapter_digest,
            digest=receipt.digest,
            receipt=(receipt.verdict, receipt.round, receipt.version, receipt.credit, receipt.staleness_weight),
            counted=(mine.counted, mine.credit),
        )


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory) -> Outcome:
    """The run in which nothing happens."""
    return play(tmp_path_factory.mktemp("unkilled"))


def test_the_unkilled_run_counts_one_update(unkilled):
    assert unkilled.receipt == ("ACCEPTED", 1, 0, 8, 1.0)
    assert unkilled.counted == (1, 8)


@pytest.mark.parametrize(("state", "when"), POINTS, ids=lambda x: x.name)
def test_a_kill_on_either_side_of_a_state_changes_nothing(tmp_path, unkilled, state, when):
    """Same adapter, same update, one receipt, counted once."""
    assert play(tmp_path, state.name, when.name) == unkilled
