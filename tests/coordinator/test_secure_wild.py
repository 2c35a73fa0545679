"""In a wild world a secure sum is the sum or none, for a reason that has a name; and shares are given for one list."""

from fuzz_secure import Decodings
from wild_lies import wild_lie
from wild_sums import Seen, wild_sum


def test_a_sum_in_a_wild_world_is_the_sum_or_none():
    """Messages are lost, changed, replayed and reordered; some clients sign what is not so.  See wild_sums."""
    seen = Seen()
    for seed in range(100):
        wild_sum(seed, seen)

    assert seen.ended["SUMMED"] > 30
    assert {end for end in seen.ended if "ENDED" in end} >= {"ENDED, TOO_FEW", "ENDED, DEALER", "ENDED, INSANE"}
    assert len({reason for side, reason in seen.refused if side == "client"}) >= 5
    assert len({reason for side, reason in seen.refused if side == "coordinator"}) >= 10


def test_whatever_a_coordinator_shows_to_whom_shares_are_given_for_one_list_at_most():
    seen = Seen()
    for seed in range(40):
        wild_lie(seed, seen)

    assert seen.ended["1 of three lists answered for"] >= 5
    assert seen.ended["0 of three lists answered for"] >= 5


def test_the_command_tries_every_decoder():
    decodings = Decodings()
    decodings.some(0)

    assert all(sum(found.values()) == 20 for found in decodings.found.values())
