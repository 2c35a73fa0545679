"""A coordinator that is killed at any point of a commit comes back to the very same run.

The process is a real one and the signal is SIGKILL, sent by the process to itself from inside the step, so nothing of
it (no `finally`, no flush, no rollback) runs after that point.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from potluck.coordinator.desk import Desk
from potluck.coordinator.phases import Phase
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.records import Standing
from potluck.wire.audit import verify_log
from potluck.wire.releases import verify_release
from potluck.wire.v1.work_pb2 import VERDICT_ACCEPTED, Receipt
from scripted import Volunteer, attempts, recipe

SCRIPT = Path(__file__).parents[1] / "support" / "crashing_coordinator.py"
RECIPE = recipe(run={"versions": 2}, aggregation={"weights": ["examples", "staleness"]})
COHORT = 3
POINTS = [(step, when) for step, when in product(Step, When) if step is not Step.REVEAL]  # of secure sums
REFUSING = list(product((Step.COMPUTE, Step.BLOB, Step.JUDGE, Step.COMMIT), When))
PATIENCE_S = 30.0


@dataclass
class Process:
    """A coordinator's process, started again on the same port whenever it was killed."""

    folder: Path
    port: int = 0
    deaths: int = 0
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self, *at: str) -> None:
        """Start it, to kill itself at that point."""
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.folder), RECIPE.to_json(), str(self.port), *at],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the coordinator ended with {self._process.wait()} before it listened"
        self.port = int(line)

    def wait_for_death(self) -> None:
        """Wait until the process has killed itself."""
        assert self._process is not None
        assert self._process.wait(PATIENCE_S) == -9
        self._close()
        self.deaths += 1

    def stop(self) -> None:
        """End it in good order."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE_S) == 0
        self._close()

    def end(self) -> None:
        """End it somehow, at the end of a test that failed."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def process(folder: Path) -> Iterator[Process]:
    made = Process(folder)
    try:
        yield made
    finally:
        made.end()


Rounds = tuple[tuple[int, float], ...]
TWO_ROUNDS: Rounds = ((0, 1.0), (1, 1.0))
"""The version that the volunteers start from, and how many times as large the first of them sends what it trained."""
ONE_REFUSED: Rounds = ((0, 1.0), (1, 50.0), (1, 1.0))


def play(folder: Path, *at: str, rounds: Rounds = TWO_ROUNDS) -> tuple[Process, list[Receipt]]:
    """Let three volunteers make two versions, while the coordinator dies once *at* a point; return their receipts."""
    with process(folder) as host, ThreadPoolExecutor(1) as undertaker:
        host.start(*at)
        desk = Desk.open(folder)
        token = desk.invites.make([f"127.0.0.1:{host.port}"], COHORT)
        desk.close()
        revival = undertaker.submit(lambda: (host.wait_for_death(), host.start())) if at else None
        volunteers = [Volunteer(token, seed=seed) for seed in range(COHORT)]
        try:
            for volunteer in volunteers:
                volunteer.stubbornly(volunteer.enroll)
            receipts = [
                volunteer.contribute_stubbornly(version, times if volunteer is volunteers[0] else 1.0)
                for version, times in rounds
                for volunteer in volunteers
            ]
            wait_until_done(volunteers[0])
        finally:
            for volunteer in volunteers:
                volunteer.close()
        if revival is not None:
            revival.result(PATIENCE_S)
        host.stop()
    return host, receipts


def wait_until_done(volunteer: Volunteer) -> None:
    """Check in until the run is done."""
    for _ in attempts(PATIENCE_S):
        if volunteer.stubbornly(volunteer.check_in).WhichOneof("answer") == "run_done":
            return
    raise TimeoutError(f"the run was not done after {PATIENCE_S} s")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, bytes, bytes]]:
    """The versions of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    play(folder)
    return versions_of(folder)


def versions_of(folder: Path) -> list[tuple[int, bytes, bytes]]:
    desk = Desk.open(folder)
    try:
        return [(v.version, v.checkpoint_digest, v.adapter_digest) for v in desk.history().versions]
    finally:
        desk.close()


@pytest.mark.parametrize(("step", "when"), POINTS, ids=lambda x: x.name)
def test_a_kill_at_any_point_changes_nothing(
    tmp_path: Path, undisturbed: list[tuple[int, bytes, bytes]], step: Step, when: When
):
    """Same digests, every update counted exactly once, credit exact, the log whole, the release signed."""
    folder = tmp_path / "run"

    host, receipts = play(folder, step.name, when.name, "2")

    assert host.deaths == 1
    assert versions_of(folder) == undisturbed
    assert_counted_once(folder, receipts)
    assert verify_log(folder).version == 2
    assert verify_release(folder / "releases" / "v0002").adapter_digest == undisturbed[0][2].hex()
    assert not list((folder / "spool").iterdir())
    assert not list((folder / "partial").iterdir())


@pytest.mark.parametrize(("step", "when"), REFUSING, ids=lambda x: x.name)
def test_a_kill_while_a_version_is_refused_changes_nothing(
    tmp_path: Path, undisturbed: list[tuple[int, bytes, bytes]], step: Step, when: When
):
    """The second of three rounds is refused, once, and the third ends in the bits of a run that never had it."""
    folder = tmp_path / "run"

    host, receipts = play(folder, step.name, when.name, "2", rounds=ONE_REFUSED)

    assert host.deaths == 1
    assert versions_of(folder) == undisturbed
    assert {receipt.verdict for receipt in receipts} == {VERDICT_ACCEPTED}
    assert verify_log(folder).version == 2
    desk = Desk.open(folder)
    try:
        ended = [(one.phase, one.version) for one in reversed(desk.history().rounds)]
        given = sorted((one.counted, one.credit) for one in desk.history().contributions)
    finally:
        desk.close()
    assert ended == [(Phase.COMMITTED, 1), (Phase.REFUSED, None), (Phase.COMMITTED, 2)]
    assert given == [(2, 24), (2, 27), (2, 30)]
    assert len(list((folder / "blobs").iterdir())) == 4
    assert not list((folder / "spool").iterdir())


def assert_counted_once(folder: Path, receipts: list[Receipt]) -> None:
    """Six receipts, six counted updates, and the credit that the receipts promise."""
    desk = Desk.open(folder)
    try:
        contributions = desk.history().contributions
        with desk.site.store.reading() as books:
            inputs = [one for number in (1, 2) for one in books.rounds.inputs(number)]
    finally:
        desk.close()
    assert {receipt.verdict for receipt in receipts} == {VERDICT_ACCEPTED}
    assert sorted(receipt.serial for receipt in receipts) == list(range(1, 7))
    assert sorted(one.lease_id for one in inputs) == sorted(receipt.lease_id for receipt in receipts)
    promised: dict[str, int] = {}
    for receipt in receipts:
        promised[receipt.client_id] = promised.get(receipt.client_id, 0) + receipt.credit
    assert {one.client_id: one.credit for one in contributions} == promised
    assert {(one.counted, one.standing) for one in contributions} == {(2, Standing.ACTIVE)}
