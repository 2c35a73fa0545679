"""Two programs with one key are noticed; one program that repeats itself is not blamed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.presence import Presence
from potluck.coordinator.store.records import Member, Standing
from potluck.wire.refusals import Refusal

MEMBER = Member("c", b"k" * 32, "", Standing.ACTIVE, b"i" * 16, b"d" * 32, 0.0, b"", 0, 0.0)
A, B = b"a" * 16, b"b" * 16


def presence(*seen: tuple[bytes, int]) -> Presence:
    made = Presence(horizon_s=10)
    for boot_id, seqno in seen:
        made.witness(MEMBER, boot_id=boot_id, seqno=seqno, now_s=0)
    return made


def refused(made: Presence, boot_id: bytes, seqno: int) -> str:
    with pytest.raises(Refusal) as caught:
        made.witness(MEMBER, boot_id=boot_id, seqno=seqno, now_s=0)
    return caught.value.code


@given(st.lists(st.sampled_from([A, B]), min_size=1, max_size=20), st.integers(1, 5))
def test_one_client_is_never_blamed_however_often_it_restarts(boots: list[bytes], repeats: int):
    """It writes its number down before it uses it, so numbers grow; a lost answer makes it send one again."""
    made = Presence(horizon_s=10)
    for seqno, boot_id in enumerate(boots, start=1):
        for _ in range(repeats):
            made.witness(MEMBER, boot_id=boot_id, seqno=seqno, now_s=0)


@given(st.integers(1, 50), st.integers(0, 50))
def test_a_copied_folder_is_noticed_at_its_first_check_in(copied_at: int, later: int):
    """The copy begins where the original was; the original has been here since."""
    made = presence((A, copied_at), (A, copied_at + later + 1))

    assert refused(made, B, copied_at + 1) == "cloned_identity"


def test_the_original_is_noticed_when_the_copy_was_first():
    assert refused(presence((A, 10), (B, 11)), A, 11) == "cloned_identity"


def test_an_old_message_sent_again_is_refused_and_blames_nobody():
    assert refused(presence((A, 10), (A, 11)), A, 10) == "bad_request"


@pytest.mark.parametrize(("boot_id", "seqno"), [(b"short", 1), (A, 0), (A, 1 << 63)])
def test_numbers_that_make_no_sense_are_refused(boot_id: bytes, seqno: int):
    assert refused(presence(), boot_id, seqno) == "bad_request"


def test_only_those_who_were_here_lately_are_waiting():
    made = presence((A, 1))

    assert made.waiting(9.0) == 1
    assert made.waiting(10.5) == 0


def test_what_was_known_before_a_restart_still_counts():
    made = Presence(horizon_s=10)
    made.load((Member("c", b"k" * 32, "", Standing.ACTIVE, b"i" * 16, b"d" * 32, 0.0, A, 7, 5.0),))

    assert made.waiting(6.0) == 1
    assert refused(made, B, 7) == "cloned_identity"
