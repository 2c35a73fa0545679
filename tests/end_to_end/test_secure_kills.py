"""A coordinator that is killed in the middle of a sum loses the sum, never more, and counts no update twice.

The process is a real one and the signal is SIGKILL, sent by the process to itself from inside the step.
"""

import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from potluck.client.endings import Ending
from potluck.client.status import history_of
from potluck.coordinator.desk import Desk
from potluck.coordinator.steps import Step, When
from potluck.wire.audit import verify_log
from summing import COHORT, enrolled, entries, plainly, play, summed_recipe

SCRIPT = Path(__file__).parents[1] / "support" / "crashing_coordinator.py"
RECIPE = summed_recipe(run={"versions": 2})
PATIENCE_S = 60.0
POINTS = list(product((Step.REVEAL, Step.SPOOL, Step.PREPARE, Step.COMPUTE, Step.BLOB, Step.COMMIT), When))
WORST = (Step.SPOOL, When.INSIDE)
"""The masks are off, and nothing of that is on the disk."""


def host(folder: Path, port: int, *at: str) -> tuple["subprocess.Popen[str]", int]:
    """Host the run in a process, to kill itself at that point; return it with its port."""
    running = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), RECIPE.to_json(), str(port), *at],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    return running, int(running.stdout.readline())


def end(running: "subprocess.Popen[str]") -> None:
    for stream in (running.stdin, running.stdout):
        stream.close()  # type: ignore[union-attr]
    running.wait(PATIENCE_S)


def lost(step: Step, when: When) -> bool:
    """Whether a kill there comes after members were written down and before the sum was."""
    if step is Step.REVEAL:
        return when is When.AFTER
    return step in {Step.SPOOL, Step.PREPARE} and when is not When.AFTER  # one transaction holds both


@pytest.mark.parametrize(
    ("step", "when"),
    [
        pytest.param(step, when, marks=() if (step, when) == WORST else pytest.mark.slow_privacy)
        for step, when in POINTS
    ],
    ids=lambda point: point.name,
)
def test_a_kill_loses_a_sum_at_most_and_counts_nothing_twice(tmp_path: Path, step: Step, when: When):
    folder = tmp_path / "coordinator"
    running, port = host(folder, 0, step.name, when.name, "1")
    desk = Desk.open(folder)
    token = desk.invites.make([f"127.0.0.1:{port}"], 100, 3_600.0)
    clients = enrolled(tmp_path, token, range(COHORT))
    played = play(clients)
    assert running.wait(PATIENCE_S) == -9
    end(running)
    again, _ = host(folder, port)
    try:
        assert played.wait(PATIENCE_S) == dict.fromkeys(range(COHORT), Ending.RUN_DONE)
    finally:
        end(again)

    versions, contributions = desk.history().versions, desk.history().contributions
    desk.close()
    kinds = Counter(entry["kind"] for entry in entries(folder))
    verify_log(folder)
    assert versions[0].version == 2
    assert kinds["sum_lost"] == kinds["version_renewed"] == int(lost(step, when))
    assert kinds["sum_revealed"] == kinds["round_committed"] == 2 - int(lost(step, when))
    assert {one.counted for one in contributions} == {kinds["sum_revealed"]}
    verdicts = Counter(receipt.verdict for client in clients for receipt in history_of(client.home).receipts)
    assert verdicts == Counter({"ACCEPTED": COHORT * kinds["sum_revealed"], "TOO_LATE": COHORT * int(lost(step, when))})
    if not lost(step, when):
        assert versions[1].adapter_digest == plainly(RECIPE, versions[2].seed, range(COHORT))
