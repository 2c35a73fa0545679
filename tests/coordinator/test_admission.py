"""Under a flood, check-ins are turned away with a time to come back, and submits still get through."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordinators import hosting
from potluck.coordinator.admission import SHARES, THREADS, Admission, Kind
from potluck.wire.refusals import Refusal
from potluck.wire.v1.work_pb2 import VERDICT_ACCEPTED
from scripted import Volunteer, recipe


def test_the_shares_leave_no_kind_without_a_thread():
    assert sum(share.at_once for share in SHARES.values()) == THREADS
    assert set(SHARES) == set(Kind)


def test_check_ins_are_turned_away_first_and_submits_last():
    """By how long each may wait for its turn."""
    patience = {kind: share.patience_s for kind, share in SHARES.items()}

    assert min(patience, key=patience.__getitem__) is Kind.CHECK_IN
    assert max(patience, key=patience.__getitem__) is Kind.SUBMIT


def test_one_too_many_is_turned_away_and_told_when_to_come_back():
    admission = Admission()
    doors = [admission.admitted(Kind.CHECK_IN) for _ in range(SHARES[Kind.CHECK_IN].at_once)]
    for door in doors:
        door.__enter__()

    with pytest.raises(Refusal) as caught, admission.admitted(Kind.CHECK_IN):
        pytest.fail("let in")
    assert (caught.value.code, caught.value.retry_in_s) == ("overloaded", 10.0)
    with admission.admitted(Kind.SUBMIT):
        pass

    doors[0].__exit__(None, None, None)
    with admission.admitted(Kind.CHECK_IN):
        pass


def test_a_place_is_given_back_when_a_call_fails():
    admission = Admission()
    for _ in range(10 * THREADS):
        with pytest.raises(ZeroDivisionError), admission.admitted(Kind.SUBMIT):
            raise ZeroDivisionError


def test_a_flood_of_check_ins_is_answered_and_a_submit_gets_through(tmp_path: Path):
    """Every check-in is either answered or turned away with a time to come back; nothing hangs or breaks."""
    with hosting(tmp_path / "run", recipe()) as hosted:
        crowd = hosted.cohort(12)
        lease = crowd[0].lease()
        data = crowd[0].train(lease)

        def knock(volunteer: Volunteer) -> list[str]:
            answers = []
            for _ in range(15):
                try:
                    volunteer.check_in(wants_work=False)
                    answers.append("answered")
                except Refusal as refusal:
                    answers.append(refusal.code)
            return answers

        with ThreadPoolExecutor(12) as pool:
            flood = [pool.submit(knock, volunteer) for volunteer in crowd[1:]]
            verdict = crowd[0].deliver(lease, data).verdict
            answers = [answer for one in flood for answer in one.result(60)]

    assert verdict == VERDICT_ACCEPTED
    assert len(answers) == 11 * 15
    assert {"answered"} <= set(answers) <= {"answered", "overloaded"}
