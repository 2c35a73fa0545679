"""What a secure sum leaves in the store, finished or lost, and what it means for those who were in it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinators import Hosted, hosting
from guests import Guest, guests
from potluck.coordinator.meeting import Guest as Waiting
from potluck.coordinator.phases import Phase
from potluck.coordinator.probe import Measured, Probe
from potluck.coordinator.rounds import Hold, Offer, Situation, Terms, useful, verdict
from potluck.coordinator.secure.results import Summed, Tally
from potluck.coordinator.store.records import UpdateState
from potluck.coordinator.summed import land, lose, mark
from potluck.wire.tensors import Manifest
from potluck.wire.v1 import work_pb2
from summing import entries, summed_recipe

RECIPE = summed_recipe(run={"versions": 9})
MEMBERS = 6


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    with hosting(tmp_path / "run", RECIPE) as made:
        yield made


def waiting(made: list[Guest]) -> list[Waiting]:
    return [
        Waiting(one.client_id, one.key.public_key().public_bytes_raw(), one.lease_id, one.digest, 0) for one in made
    ]


def known(value: float) -> Summed:
    """Return a sum whose every number is *value*."""
    total = np.full(Manifest.of(RECIPE, 0).values, value)
    tally = Tally(count=MEMBERS, weight=MEMBERS, clipped=0, loss=1.5, tokens=600)
    return Summed(total, float(MEMBERS), tally, (), b"r" * 32, b"s" * 32, b"d" * 32, ())


def verdicts(made: list[Guest]) -> set[str]:
    """Return what the receipts of these members say."""
    return {work_pb2.Verdict.Name(guest.receipt(guest.meet()).verdict) for guest in made}


def test_a_sum_is_its_rounds_one_input_and_counts_for_all_its_members(hosted: Hosted):
    made, site = guests(hosted, MEMBERS), hosted.coordinator.desk.site

    assert mark(site, 0, waiting(made))
    land(site, 0, b"i" * 32, known(0.6))

    assert hosted.coordinator.wait_for_version(1, 20.0)
    with site.store.reading() as books:
        (row,) = books.rounds.inputs(1)
        assert {update.state for update in books.intake.of_round(1, UpdateState.COUNTED)} == {UpdateState.COUNTED}
    version = hosted.coordinator.history().versions[0]
    assert (version.contributors, version.loss_before, version.loss_after) == (MEMBERS, 0.0, 1.5)
    assert "| not reported before, 1.5000 after |" in (hosted.folder / "releases/v0001/README.md").read_text("utf-8")
    assert row.examples == MEMBERS * RECIPE.training.steps * RECIPE.training.batch
    assert verdicts(made) == {"VERDICT_ACCEPTED"}
    assert not list((hosted.folder / "spool").iterdir())


def test_a_sum_that_is_kept_once_more_changes_nothing(hosted: Hosted):
    made, site = guests(hosted, MEMBERS), hosted.coordinator.desk.site
    mark(site, 0, waiting(made))
    land(site, 0, b"i" * 32, known(0.6))
    assert hosted.coordinator.wait_for_version(1, 20.0)
    before = entries(hosted.folder)

    land(site, 0, b"i" * 32, known(0.6))

    assert entries(hosted.folder) == before
    assert not list((hosted.folder / "spool").iterdir())
    assert verdicts(made) == {"VERDICT_ACCEPTED"}


def test_a_sum_that_is_lost_is_credited_and_its_version_gets_a_new_number(hosted: Hosted):
    """Who answered for the masks never gives another update of that version, so there has to be another version."""
    made, site = guests(hosted, MEMBERS), hosted.coordinator.desk.site
    mark(site, 0, waiting(made))

    with site.store.writing() as books:
        lose(site, books, "because")

    assert verdicts(made) == {"VERDICT_TOO_LATE"}
    assert [version.version for version in hosted.coordinator.history().versions] == [1, 0]
    assert made[0].lease().version == 1
    kinds = [entry["kind"] for entry in entries(hosted.folder)]
    assert kinds.count("sum_lost") == kinds.count("version_renewed") == 1


def test_where_noise_protects_them_the_log_does_not_say_how_many_were_in_a_lost_sum(tmp_path: Path, caplog):
    unit = {"unit": "user-central", "epsilon": 20.0, "participations": 1}
    run = summed_recipe(privacy={"differential": unit})
    with hosting(tmp_path / "run", run) as hosted, caplog.at_level(logging.WARNING):
        made, site = guests(hosted, MEMBERS), hosted.coordinator.desk.site
        mark(site, 0, waiting(made))
        with site.store.writing() as books:
            lose(site, books, "because")

    (told,) = (entry for entry in entries(tmp_path / "run") if entry["kind"] == "sum_lost")
    assert told == {"kind": "sum_lost", "reason": "because"}
    assert f"event=sum_lost members={MEMBERS} reason=because" in caplog.text


def test_where_no_sum_was_lost_nothing_is_renewed(hosted: Hosted):
    site = hosted.coordinator.desk.site

    with site.store.writing() as books:
        lose(site, books, "because")

    assert [version.version for version in hosted.coordinator.history().versions] == [0]


def test_nobody_is_asked_to_unmask_once_the_operator_moved_the_adapter(hosted: Hosted):
    made, site = guests(hosted, MEMBERS), hosted.coordinator.desk.site
    mark(site, 0, waiting(made))
    land(site, 0, b"i" * 32, known(0.6))
    assert hosted.coordinator.wait_for_version(1, 20.0)
    hosted.coordinator.rollback(0)

    assert not mark(site, 1, waiting(made))
    with site.store.reading() as books:
        assert books.intake.masked() == ()


def test_a_version_that_the_probe_refuses_is_renewed_too(tmp_path: Path):
    class Worse:
        """A judge that likes no change."""

        digest = "ab" * 32

        def measure(self, adapter: Path | None):
            return Measured(2.0 if adapter is None else 3.0, 100)

        def close(self) -> None:
            """Nothing is open."""

    with hosting(tmp_path / "run", RECIPE, probe=Probe(Worse())) as hosted:
        made, site = guests(hosted, MEMBERS), hosted.coordinator.desk.site
        mark(site, 0, waiting(made))
        land(site, 0, b"i" * 32, known(0.6))
        assert hosted.coordinator.wait_for_version(1, 20.0)

    kinds = [entry["kind"] for entry in entries(tmp_path / "run")]
    assert kinds.count("version_refused") == kinds.count("version_renewed") == 1


SUMMED_RUN = Terms.of(RECIPE)
NOW = Situation(version=5, combining=0, round=7, phase=Phase.REPORTING, received=0, leased=0, age_s=0.0, paused=False)
PARKED = Hold(b"lease", round=6, version=5, alive=False, open=True)


def test_an_update_that_found_no_sum_waits_for_a_later_round_of_its_version():
    assert SUMMED_RUN.summed
    assert SUMMED_RUN.max_staleness == 0
    assert useful(SUMMED_RUN, NOW, PARKED)
    assert verdict(SUMMED_RUN, NOW, PARKED, contributed=False).offer is Offer.WANTED


def test_and_no_longer():
    later = Situation(
        version=6, combining=0, round=7, phase=Phase.REPORTING, received=0, leased=0, age_s=0.0, paused=False
    )

    assert not useful(SUMMED_RUN, later, PARKED)
    assert verdict(SUMMED_RUN, later, PARKED, contributed=False).offer is Offer.NOT_WANTED
