"""A version that is worse on the operator's probe never becomes the present one, and the run goes on without it."""

import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coordinators import FakeClock, Hosted, hosting
from judges import ScriptedJudge
from potluck.aggregation.errors import PotluckError
from potluck.coordinator.phases import Phase
from potluck.coordinator.probe import Judgement, Measured, Probe
from potluck.coordinator.steps import Step, When
from potluck.wire.audit import verify_log
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, attempts, enlarged, recipe

PLAIN = {"cohort": 2, "weights": ["examples", "staleness"]}


def judged(before: float, after: float, tolerance: float = 0.01) -> Judgement:
    return Judgement(Measured(before, 10), Measured(after, 10), tolerance, "ab")


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (2.0, 2.02, False),
        (2.0, 2.0201, True),
        (2.0, 1.0, False),
        (2.0, math.nan, True),
        (2.0, math.inf, True),
        (math.nan, 2.0, False),
        (math.inf, math.nan, True),
    ],
)
def test_worse_is_above_the_tolerance_or_no_number(before: float, after: float, worse: bool):  # noqa: FBT001
    assert judged(before, after).worse is worse


def test_a_loss_that_is_no_number_is_null_in_the_log():
    """JSON has no NaN, and the log is hashed as JSON."""
    facts = judged(2.0, math.nan).facts()

    assert facts == {"probe": "ab", "tokens": 10, "loss_before": 2.0, "loss_after": None, "tolerance": 0.01}
    assert "2.0000 before and nan after" in judged(2.0, math.nan).human


def entries(hosted: Hosted, kind: str) -> list[dict[str, object]]:
    with hosted.coordinator.desk.site.store.reading() as books:
        return [e for e in (json.loads(one.entry) for one in books.log.since(0)) if e["kind"] == kind]


def spoil(volunteer: Volunteer) -> pb.SubmitReply:
    """Let a volunteer send fifty times what it trained."""
    lease = volunteer.lease()
    return volunteer.deliver(lease, enlarged(volunteer.train(lease), 50))


def rounds(hosted: Hosted, volunteers: Sequence[Volunteer], *versions: int) -> None:
    """Let all contribute once for every one of *versions*, and wait until it is there."""
    for version in versions:
        for volunteer in volunteers:
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(version, 10)


def until(holds: Callable[[], bool]) -> None:
    for _ in attempts(10):
        if holds():
            return
    raise TimeoutError("it never came to that")


def refusals(hosted: Hosted) -> int:
    return sum(one.phase is Phase.REFUSED for one in hosted.coordinator.history().rounds)


def test_a_version_that_is_worse_is_refused_and_the_run_goes_on_from_the_one_before(tmp_path: Path):
    """The third round ends in the very bits of a run that the hostile update never reached."""
    with hosting(tmp_path / "calm", recipe(aggregation=PLAIN)) as calm:
        volunteers = calm.cohort(2)
        rounds(calm, volunteers, 1, 2)
        expected = [(one.version, one.checkpoint_digest) for one in calm.coordinator.history().versions]

    judge = ScriptedJudge()
    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), probe=Probe(judge, 0.05)) as hosted:
        first, second = hosted.cohort(2)
        hostile = hosted.volunteer(7)
        for volunteer in (first, second):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        kept = hosted.coordinator.status().versions[0]

        assert spoil(hostile).verdict == pb.VERDICT_ACCEPTED
        first.contribute()
        until(lambda: refusals(hosted) == 1)
        now, ended = hosted.coordinator.status(), hosted.coordinator.history().rounds[1]
        assert (now.version, now.round, now.paused, ended.version) == (1, 3, False, None)
        assert "2.0000 before and" in ended.reason
        assert "at most 5.00% worse is allowed" in ended.reason
        assert {one.name for one in (hosted.folder / "blobs").iterdir()} == {
            kept.adapter_digest.hex(),
            kept.checkpoint_digest.hex(),
        }
        assert not list((hosted.folder / "spool").iterdir())
        for volunteer in (first, second):
            lease = volunteer.lease()
            assert (lease.version, lease.adapter.digest) == (1, kept.adapter_digest)
            volunteer.deliver(lease)
        assert hosted.coordinator.wait_for_version(2, 10)

        assert [(one.version, one.checkpoint_digest) for one in hosted.coordinator.history().versions] == expected
        credit = {one.client_id: (one.credit, one.counted) for one in hosted.coordinator.history().contributions}
        assert credit == {first.client_id: (24, 2), second.client_id: (16, 2), hostile.client_id: (8, 0)}
        assert len(judge.asked) == len(set(judge.asked)) == 4  # the base, and three candidates; each once
    assert verify_log(tmp_path / "run").version == 2


def test_the_log_tells_of_a_refusal_with_its_numbers(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), probe=Probe(ScriptedJudge())) as hosted:
        honest, hostile = hosted.cohort(2)
        honest.contribute()
        spoil(hostile)
        until(lambda: refusals(hosted) == 1)

        (entry,) = entries(hosted, "version_refused")
        told = entry["probe"]
        assert (entry["round"], entry["parent"]) == (1, 0)
        assert isinstance(told, dict)
        assert (told["probe"], told["tokens"], told["loss_before"], told["tolerance"]) == ("ab" * 32, 1_000, 2.0, 0.01)
        assert told["loss_after"] > 2.02
        inputs = entry["inputs"]
        assert isinstance(inputs, list)
        assert {one["client"] for one in inputs} == {honest.client_id[:8], hostile.client_id[:8]}
        assert hosted.coordinator.history().rounds[-1].log_index is not None


def test_a_committed_version_says_how_it_did_on_the_probe(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), probe=Probe(ScriptedJudge())) as hosted:
        for volunteer in hosted.cohort(2):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)

        (entry,) = entries(hosted, "round_committed")
        assert entry["probe"] == {
            "probe": "ab" * 32,
            "tokens": 1_000,
            "loss_before": 2.0,
            "loss_after": 2.0,
            "tolerance": 0.01,
        }


def test_three_refusals_in_a_row_pause_the_run(tmp_path: Path):
    """Whoever trains again from the same version, on the same text, gets the same bits: in vain, and for ever."""
    terms = recipe(aggregation=PLAIN | {"cohort": 1})
    with hosting(tmp_path / "run", terms, probe=Probe(ScriptedJudge())) as hosted:
        volunteer = hosted.volunteer()
        for times in (1, 2, 3):
            assert not hosted.coordinator.status().paused
            spoil(volunteer)
            until(lambda: refusals(hosted) == times)  # noqa: B023 - called at once

        assert hosted.coordinator.status().paused
        assert entries(hosted, "paused") == [
            {"kind": "paused", "reason": "3 versions in a row were worse on the probe"}
        ]
        hosted.coordinator.resume()
        volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)


def test_a_synchronous_run_opens_its_next_round_from_the_kept_version(tmp_path: Path):
    terms = recipe(aggregation=PLAIN | {"mode": "synchronous"})
    with hosting(tmp_path / "run", terms, probe=Probe(ScriptedJudge())) as hosted:
        honest, hostile = hosted.cohort(2)
        spoil(hostile)
        honest.contribute()
        until(lambda: refusals(hosted) == 1)

        assert hosted.coordinator.status().phase is Phase.SELECTING
        for volunteer in (honest, hostile):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)


def test_a_probe_that_cannot_be_measured_holds_the_version_back(tmp_path: Path):
    """A check that was asked for is never skipped: the round waits, and the trouble is told."""
    broken = [1, 1]

    def fail(_: Path | None) -> None:
        if broken:
            broken.pop()
            raise PotluckError("no memory left")

    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), probe=Probe(ScriptedJudge(fail))) as hosted:
        for volunteer in hosted.cohort(2):
            volunteer.contribute()
        until(lambda: hosted.coordinator.trouble == "no memory left")
        assert hosted.coordinator.status().version == 0

        assert hosted.coordinator.wait_for_version(1, 20)


def test_clients_are_answered_while_a_version_is_measured(tmp_path: Path):
    began, go_on = threading.Event(), threading.Event()

    def wait(_: Path | None) -> None:
        began.set()
        assert go_on.wait(20)

    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), probe=Probe(ScriptedJudge(wait))) as hosted:
        volunteers = hosted.cohort(3)
        for volunteer in volunteers[:2]:
            volunteer.contribute()
        assert began.wait(10)

        reply = volunteers[2].check_in()
        assert reply.WhichOneof("answer") == "no_work"
        assert reply.no_work.reason == pb.REASON_COMBINING
        go_on.set()
        assert hosted.coordinator.wait_for_version(1, 10)


def test_stopping_gives_up_what_is_measured_and_the_next_start_judges_it(tmp_path: Path):
    clock, began = FakeClock(), threading.Event()
    first = ScriptedJudge()

    def wait(_: Path | None) -> None:
        began.set()
        assert first.closed.wait(20)

    first.meanwhile = wait
    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), clock=clock, probe=Probe(first)) as hosted:
        for volunteer in hosted.cohort(2):
            volunteer.contribute()
        assert began.wait(10)
    assert len(first.asked) == 1

    second = ScriptedJudge()
    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), clock=clock, probe=Probe(second)) as hosted:
        assert hosted.coordinator.wait_for_version(1, 10)
        assert len(second.asked) == 2


def test_a_rollback_while_a_version_is_measured_is_judged_against_what_is_then_present(tmp_path: Path):
    """The master moved, so the round is combined once more, onto the version that the operator chose."""
    moved: list[int] = []

    def on_step(step: Step, when: When) -> None:
        if (step, when) == (Step.JUDGE, When.AFTER) and hosted.coordinator.status().version == 1 and not moved:
            moved.append(hosted.coordinator.desk.rollback(0).version)

    with hosting(tmp_path / "run", recipe(aggregation=PLAIN), on_step=on_step, probe=Probe(ScriptedJudge())) as hosted:
        volunteers = hosted.cohort(2)
        rounds(hosted, volunteers, 1, 3)

        last = hosted.coordinator.history().versions[0]
        assert (moved, last.version, last.parent) == ([2], 3, 2)
        weights = [one["weight"] for one in entries(hosted, "round_committed")[-1]["inputs"]]  # type: ignore[attr-defined]
        assert sum(weights) == pytest.approx(1.0)
