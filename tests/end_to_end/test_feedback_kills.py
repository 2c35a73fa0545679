"""A client with error feedback that is killed around sealing sends the very same updates and keeps the same rest.

Both updates of the run, and the rest after them, depend on every rest before: one that was lost, or taken twice,
would show in their digests.
"""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from coordinators import hosting
from crashing import run_client
from fakes import Client
from potluck.client.events import When
from potluck.client.outbox.store import Outbox
from potluck.client.status import history_of
from potluck.client.tasks import TaskState
from scripted import recipe

SEED = 1
RECIPE = recipe(
    run={"versions": 2},
    aggregation={"cohort": 1, "minimum": 1},
    codec={"name": "sparse2bit", "settings": {"chunk": 64, "k": 4}, "error_feedback": True},
)
POINTS = list(product([TaskState.SEALING, TaskState.OFFERING, TaskState.COMMITTING, TaskState.RECEIPTED], When))


class Outcome(NamedTuple):
    """What must not depend on whether, or where, the client was killed."""

    updates: list[bytes]
    rests: frozenset[bytes]


def play(folder: Path, *at: str) -> Outcome:
    """Let one client make two versions, while it dies once *at* a point of the first."""
    with hosting(folder / "coordinator", RECIPE) as hosted:
        client = Client(folder / "client", seed=SEED)
        client.enrol(hosted.invite())
        if at:
            assert run_client(client.folder, SEED, *at) == (-9, "")
        assert run_client(client.folder, SEED) == (0, "RUN_DONE")
        outbox = Outbox.open(client.home.outbox)
        rests = outbox.residuals.digests()
        outbox.close()
        assert all(client.home.blob(digest).exists() for digest in rests)
        return Outcome([receipt.digest for receipt in history_of(client.home).receipts], rests)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory) -> Outcome:
    return play(tmp_path_factory.mktemp("unkilled"))


def test_the_unkilled_run_makes_two_updates_and_keeps_one_rest(unkilled):
    assert len(set(unkilled.updates)) == 2
    assert len(unkilled.rests) == 2  # the rest, and the start that it is expressed in


@pytest.mark.parametrize(("state", "when"), POINTS, ids=lambda x: x.name)
def test_a_kill_around_sealing_changes_no_update_and_no_rest(tmp_path, unkilled, state, when):
    assert play(tmp_path, state.name, when.name) == unkilled
