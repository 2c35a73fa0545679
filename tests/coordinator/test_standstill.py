"""A run whose guarantee counts participations can come to a standstill: everybody is told, and what ends it."""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from coordinators import hosting
from noised import noised_recipe
from potluck.cli.operating import show_status
from potluck.coordinator.opening import OtherRecipe


def soon(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within two seconds: the coordinator looks twice a second."""
    pause = Event()
    return any(true() or pause.wait(0.05) for _ in range(40))


def test_members_who_all_rest_are_a_standstill_until_others_join(tmp_path: Path, caplog, capsys):
    """Each may take part in every second round, and the second round never closes."""
    with hosting(tmp_path / "run", noised_recipe(separation=2)) as hosted, caplog.at_level(logging.WARNING):
        crew = hosted.cohort(3)
        assert hosted.coordinator.status().standstill == ""  # nobody has done anything yet
        for member in crew:
            member.contribute()
        assert hosted.coordinator.wait_for_version(1, 20)

        human = crew[0].check_in().no_work.human
        assert human.startswith("you took part as often, or as lately")
        assert human.endswith("(round 2: 3 are wanted)")  # how many came is not told
        assert hosted.coordinator.status().standstill == (
            "3 of 3 members rest, and a round takes 2 who may take part: each does so in at most 2 rounds, 2 apart; "
            "invite more volunteers: potluck invite"
        )
        assert soon(lambda: "event=standstill" in caplog.text)
        show_status(tmp_path / "run", as_json=False)
        assert "3 of 3 members rest" in capsys.readouterr().out

        hosted.cohort(2)
        assert hosted.coordinator.status().standstill == ""


def test_rounds_that_are_used_up_end_the_run_where_the_operator_says_so(tmp_path: Path, caplog):
    """Two rounds are allowed, and the second is lost: the run can never reach its second version."""
    with hosting(tmp_path / "run", noised_recipe(separation=2, participations=1)) as hosted:
        for member in hosted.cohort(3):
            member.contribute()
        assert hosted.coordinator.wait_for_version(1, 20)
        late = hosted.cohort(3)
        late[0].lease()
        hosted.clock.time_s += 61.0  # it delivers nothing
        late[1].check_in()

        with caplog.at_level(logging.WARNING):
            told = late[2].check_in().no_work.human
            assert soon(lambda: "event=standstill" in caplog.text)
        assert told.startswith("this run has had all the rounds that its privacy allows; its operator has to end it")
        assert hosted.coordinator.status().standstill == (
            "all 2 rounds that this run's privacy allows are used up, some of them in vain: version 1 of 2 is the "
            "last; end it here with run.versions = 1, or host a new run, which has an epsilon of its own"
        )

    ended = noised_recipe(separation=2, participations=1, versions=1)
    with hosting(tmp_path / "run", ended) as hosted:
        assert hosted.coordinator.status().standstill == ""
        assert hosted.volunteer(seed=9).check_in().WhichOneof("answer") == "run_done"


@pytest.mark.parametrize(
    "changed", [noised_recipe(participations=3), noised_recipe(separation=2)], ids=["participations", "separation"]
)
def test_what_was_promised_for_the_whole_run_cannot_be_changed_in_it(tmp_path: Path, changed):
    """Noise of rounds to come takes back some of those before: under another schedule it would not be what it was."""
    with hosting(tmp_path / "run", noised_recipe()):
        pass

    with pytest.raises(OtherRecipe, match=r"privacy\.differential"), hosting(tmp_path / "run", changed):
        pass
