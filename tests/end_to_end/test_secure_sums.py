"""Updates that are summed unseen: real clients, the real coordinator, TLS; only what is trained is made up."""

from pathlib import Path

import pytest

from coordinators import Hosted, hosting
from potluck.client.endings import Ending
from potluck.client.identity import identity_at
from potluck.client.secure.used import BadRecord, UsedFile
from potluck.client.status import history_of, status_of
from potluck.client.tasks import TaskState
from potluck.coordinator.secure.phases import Phase
from potluck.wire.audit import verify_log
from scripted import attempts
from summing import COHORT, enrolled, entering, entries, plainly, play, summed_recipe, uploading

ALL = range(COHORT)
SLOW = pytest.mark.slow_privacy


def adapters(hosted) -> list[bytes]:
    """Return the adapter of every version, the first one first."""
    return [version.adapter_digest for version in reversed(hosted.coordinator.history().versions)]


@pytest.mark.parametrize("rule", ["ffa", pytest.param("fedsvd", marks=SLOW)])
def test_a_secure_run_makes_what_the_plain_sum_makes_to_the_bit(tmp_path: Path, rule: str):
    recipe = summed_recipe(aggregation={"rule": rule})
    with hosting(tmp_path / "coordinator", recipe) as hosted:
        clients = enrolled(tmp_path, hosted.invite(), ALL)
        assert play(clients).wait() == dict.fromkeys(ALL, Ending.RUN_DONE)

        begun = hosted.coordinator.history().versions[-1]
        assert adapters(hosted)[1] == plainly(recipe, begun.seed, ALL)
        assert [one.counted for one in hosted.coordinator.history().contributions] == [1] * COHORT
        assert hosted.coordinator.status().last.summed == COHORT
    verify_log(tmp_path / "coordinator")
    (revealed,) = [entry for entry in entries(tmp_path / "coordinator") if entry["kind"] == "sum_revealed"]
    assert len(revealed["members"]) == COHORT
    for client in clients:
        (receipt,) = history_of(client.home).receipts
        assert (receipt.verdict, receipt.version, receipt.credit) == ("ACCEPTED", 0, 80)
        assert not list(client.home.blobs.glob(receipt.digest.hex()))
        client.home.sums.unlink()  # as where an older backup is put back
        with pytest.raises(BadRecord, match="older than its witness"):
            UsedFile(client.home.sums, client.home.sums_witness(identity_at(client.home.key).client_id)).cohorts()


@SLOW
def test_a_rule_that_alternates_is_summed_in_both_parities(tmp_path: Path):
    recipe = summed_recipe(run={"versions": 2}, aggregation={"rule": "rolora"})
    with hosting(tmp_path / "coordinator", recipe) as hosted:
        assert play(enrolled(tmp_path, hosted.invite(), ALL)).wait() == dict.fromkeys(ALL, Ending.RUN_DONE)

        begun = hosted.coordinator.history().versions[-1]
        assert adapters(hosted)[1] == plainly(recipe, begun.seed, ALL)
        assert len(set(adapters(hosted))) == 3
        assert [one.counted for one in hosted.coordinator.history().contributions] == [2] * COHORT


def pass_time_once(hosted: Hosted, phase: Phase, said: int) -> None:
    """Let the present step's time run out once so many have said what it asks for."""
    for _ in attempts(60.0):
        standing = hosted.coordinator.summing
        if standing is not None and (standing.phase, standing.said) == (phase, said):
            hosted.clock.time_s += 100.0
            return
    raise TimeoutError(standing)


@pytest.mark.parametrize(
    ("moment", "phases", "members"),
    [
        pytest.param(
            entering(TaskState.UPLOADING), [Phase.ADVERTISING], range(1, COHORT), id="before its keys", marks=SLOW
        ),
        pytest.param(uploading, [Phase.MASKING], range(1, COHORT), id="in its masked update", marks=SLOW),
        pytest.param(entering(TaskState.COMMITTING), [Phase.AGREEING, Phase.UNMASKING], ALL, id="before it signs"),
    ],
)
def test_a_member_who_vanishes_costs_no_more_than_its_own_update(tmp_path: Path, moment, phases, members):
    """Once its masked update is there, not even that: the others take its mask off."""
    recipe = summed_recipe()
    with hosting(tmp_path / "coordinator", recipe) as hosted:
        clients = enrolled(tmp_path, hosted.invite(), ALL)
        played = play(clients, stops={0: moment})
        for phase in phases:
            pass_time_once(hosted, phase, COHORT - 1)
        assert played.wait() == {0: Ending.INTERRUPTED} | dict.fromkeys(range(1, COHORT), Ending.RUN_DONE)

        begun = hosted.coordinator.history().versions[-1]
        assert adapters(hosted)[1] == plainly(recipe, begun.seed, members)
        assert play(clients[:1]).wait() == {0: Ending.RUN_DONE}
        (receipt,) = history_of(clients[0].home).receipts
        assert receipt.verdict == ("ACCEPTED" if 0 in members else "TOO_LATE")
        assert status_of(clients[0].home).tasks == ()


def test_below_the_threshold_nothing_is_revealed_and_all_come_again(tmp_path: Path):
    """Of eight, six have to stay.  What was masked for a sum that failed goes into the next one, with new masks."""
    recipe, folder = summed_recipe(), tmp_path / "coordinator"
    with hosting(folder, recipe) as hosted:
        clients = enrolled(tmp_path, hosted.invite(), ALL)
        played = play(clients, stops=dict.fromkeys(range(3), uploading))
        pass_time_once(hosted, Phase.MASKING, COHORT - 3)
        for thread in played.threads[:3]:
            thread.join(60)
        again = play(clients[:3])

        assert again.wait() == dict.fromkeys(range(3), Ending.RUN_DONE)
        assert played.wait() == dict.fromkeys(range(3), Ending.INTERRUPTED) | dict.fromkeys(
            range(3, COHORT), Ending.RUN_DONE
        )
        begun = hosted.coordinator.history().versions[-1]
        assert adapters(hosted)[1] == plainly(recipe, begun.seed, ALL)
        assert [one.counted for one in hosted.coordinator.history().contributions] == [1] * COHORT
    kinds = [entry["kind"] for entry in entries(folder)]
    assert kinds.count("sum_revealed") == 1
    assert "sum_lost" not in kinds
