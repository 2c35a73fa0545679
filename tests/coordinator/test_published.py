"""What a run under "user-central" publishes beside its noised sums tells nothing exact about who was in them."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from coordinators import hosting, refused
from noised import COHORT, noised_recipe
from potluck.coordinator.desk import History
from potluck.wire.audit import LOG_FILE, verify_log
from potluck.wire.releases import verify_release

CAME = (3, 2)
NOMINAL = COHORT * 20 * 4
"""Examples of a round as the recipe has them: steps times batch for each of the cohort."""


class Played(NamedTuple):
    """A run after two rounds to which not equally many came, and from which somebody left."""

    folder: Path
    history: History

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / LOG_FILE).read_text("utf-8").splitlines()
        return [json.loads(line)["entry"] for line in lines]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("published") / "run"
    with hosting(folder, noised_recipe()) as hosted:
        crew = hosted.cohort(COHORT)
        for number, came in enumerate(CAME, 1):
            for member in crew[:came]:
                member.contribute(examples=8 - number)
            if came < COHORT:
                hosted.clock.time_s += 61.0  # the round's deadline, which a call notices
                crew[-1].check_in()
            assert hosted.coordinator.wait_for_version(number, 20)
        crew[-1].leave()
        history = hosted.coordinator.history()
    return Played(folder, history)  # stopped: all of its log is in the file


def test_the_operator_sees_who_came(played: Played):
    assert [(one.contributors, one.examples) for one in played.history.versions[:2]] == [(2, 12), (3, 21)]
    assert played.history.versions[0].loss_before == 2.0


@pytest.mark.parametrize("version", [1, 2])
def test_a_release_and_its_card_say_what_the_recipe_says(played: Played, version: int):
    folder = played.folder / "releases" / f"v{version:04d}"
    facts = verify_release(folder).facts

    assert (facts["contributors"], facts["examples"], facts["updates"]) == (COHORT, NOMINAL, COHORT)
    assert (facts["loss_before"], facts["loss_after"]) == (0.0, 0.0)
    card = (folder / "README.md").read_text("utf-8")
    assert f"| contributors to this version | {COHORT} by the recipe; the real number is not told |" in card
    assert f"| training examples in this version | {NOMINAL} by the recipe; the real number is not told |" in card
    assert "| mean loss that contributors reported | none reported |" in card
    assert "none: all weigh the same, and noise is added to their sum" in card


def test_the_log_says_the_same_of_every_round(played: Played):
    verify_log(played.folder)
    first, second = (one for one in played.log if one["kind"] == "round_committed")

    assert first.keys() == second.keys()
    assert (first["noised"], second["noised"]) == (COHORT, COHORT)
    assert (first["inputs"], first["findings"]) == ([], [])


def test_the_log_does_not_say_how_often_a_member_who_left_took_part(played: Played):
    (left,) = (one for one in played.log if one["kind"] == "left")

    assert set(left) == {"kind", "client_id"}


def test_who_sent_two_updates_for_one_lease_is_on_the_operators_terminal_only(tmp_path: Path, caplog):
    with hosting(tmp_path / "run", noised_recipe()) as hosted, caplog.at_level(logging.WARNING):
        member = hosted.volunteer()
        lease = member.lease()
        member.deliver(lease)
        with refused("conflict"):
            member.submit(lease.lease_id, b"another update")
    entries = Played(tmp_path / "run", hosted.coordinator.history()).log
    (told,) = (one for one in entries if one["kind"] == "conflict")

    assert set(told) == {"kind"}
    assert f"event=conflict client={member.client_id}" in caplog.text
