"""The numbers at the edges of a secure sum: what is just allowed, what is just not, and what a lane says exactly."""

import numpy as np
import pytest

from potluck.aggregation.errors import BadSetting, BadUpdate, UnknownName
from potluck.aggregation.secure.lanes import Told, lane_sizes, largest, told, with_lanes
from potluck.aggregation.secure.ring import (
    MAX_COHORT,
    MAX_SIZE,
    WIDTHS,
    Ring,
    centred,
    clipped,
    packed,
    quantised,
    unpacked,
)
from potluck.aggregation.secure.sanity import decoded
from potluck.aggregation.secure.shamir import PRIME, Decoder, agreeing_places, combined, dealt
from potluck.aggregation.secure.thresholds import may_drop, most_corrupt, threshold

SECRET = bytes(range(32))


@pytest.mark.parametrize(
    ("weight", "tokens", "loss", "lanes"),
    [
        (3, 7, 0.5, Told(1, 3, 0, 96, 7)),
        (2, 0, None, Told(1, 2, 0, 0, 0)),
        (1, -5, -1.0, Told(1, 1, 0, 0, 0)),
        (1, 1 << 21, 99.0, Told(1, 1, 0, 1024, 1 << 20)),
    ],
)
def test_a_client_tells_what_it_may(weight: int, tokens: int, loss: float | None, lanes: Told):
    assert told(weight, tokens, clipped=False, loss=loss) == lanes


def test_no_client_tells_more_than_the_largest_lanes():
    assert largest(5) == told(5, 1 << 30, clipped=True, loss=16.0) == Told(1, 5, 1, 5120, 1 << 20)


@pytest.mark.parametrize(("most", "sizes"), [(1, (1, 1, 1, 2, 3)), (255, (1, 1, 1, 3, 3)), (256, (1, 2, 1, 3, 3))])
def test_a_lane_takes_as_many_digits_as_its_largest_value(most: int, sizes: tuple[int, ...]):
    """At 16 bits and 128 clients Q is 255, so a digit is below 256."""
    ring = Ring(16, 128, 4, 1.0)

    assert lane_sizes(ring, most) == sizes
    assert with_lanes(np.zeros(4, np.uint32), largest(most), ring, most).dtype == np.uint32
    with pytest.raises(BadSetting, match=f"a client tells {most + 1}, at most {most}"):
        with_lanes(np.zeros(4, np.uint32), Told(1, most + 1, 0, 0, 0), ring, most)


@pytest.mark.parametrize(
    "ring", [Ring(16, 1, 1, 1e-3), Ring(16, MAX_COHORT, 1, 1.0), Ring(16, 2, MAX_SIZE, 1.0), Ring(32, 2, 2, 1e30)]
)
def test_a_ring_at_the_edge_is_taken(ring: Ring):
    assert ring.checked() is ring


@pytest.mark.parametrize("clip", [0.0, -1.0, np.inf, np.nan])
def test_a_clip_is_positive_and_finite(clip: float):
    with pytest.raises(BadSetting, match="a clip of"):
        Ring(16, 2, 2, clip).checked()


def test_an_update_of_just_the_clip_or_of_nothing_is_not_cut():
    assert clipped(np.array([1.0]), 1.0 + 1e-12)[1] is False
    nothing, was_cut = clipped(np.zeros(3), 1.0)
    assert (nothing.tolist(), was_cut) == ([0.0, 0.0, 0.0], False)


def test_a_number_is_rounded_by_what_was_drawn_for_it():
    ring = Ring(16, 2, 4, 1.0)
    steps = np.array([1.5, 1.5, -1.5, 99_999.0]) * ring.step

    words = quantised(steps, ring, np.array([0.25, 0.75, 0.75, 0.0]))

    assert words.view(np.int32).tolist() == [1, 2, -1, ring.bound]


def test_a_sum_is_read_from_its_low_bits_alone():
    words = np.array([0x1_8000, 0x1_7FFF, 0xFFFF_FFFF, 0x5_0000], np.uint32)

    assert centred(words, 16).tolist() == [-(2**15), 2**15 - 1, -1, 0]


def test_the_largest_sum_of_honest_updates_is_taken():
    """One coordinate, at its bound with everybody: any more would be refused."""
    ring, count = Ring(24, 8, 1, 1.0), 8
    lanes = Told(count, count, count, 0, 0)
    words = with_lanes(np.array([ring.bound], np.uint32), told(1, 0, clipped=True, loss=None), ring, 1) * np.uint32(8)

    assert decoded(words, count, ring, 1).lanes == lanes
    assert decoded(words, count, ring, 1).total.tolist() == pytest.approx([8.0])
    words[0] += np.uint32(1)
    with pytest.raises(BadUpdate, match="a coordinate of"):
        decoded(words, count, ring, 1)


def test_a_weighted_sum_is_divided_by_the_share_of_the_largest_weight():
    ring = Ring(24, 8, 2, 1.0)
    each = [
        with_lanes(np.zeros(2, np.uint32), told(weight, 0, clipped=False, loss=None), ring, 4) for weight in (1, 2, 3)
    ]

    assert decoded(np.sum(each, axis=0, dtype=np.uint32), 3, ring, 4).weight == 1.5


def test_rounding_may_lengthen_a_sum_by_a_step_for_each_coordinate_of_each_client():
    """Two updates of clip 2 and 1,000 coordinates: 4.004 by their clips, and 0.496 by steps of 2/255."""
    ring = Ring(16, 128, 1_000, 2.0)
    lanes = with_lanes(np.zeros(1_000, np.uint32), told(1, 0, clipped=True, loss=None), ring, 1) * np.uint32(2)
    inside, outside = lanes.copy(), lanes.copy()
    inside[:1_000], outside[:1_000] = 18, 19

    assert np.linalg.norm(decoded(inside, 2, ring, 1).total) == pytest.approx(4.464, abs=1e-3)
    with pytest.raises(BadUpdate, match=r"a norm of 4\.712, honest updates make at most 4\.5"):
        decoded(outside, 2, ring, 1)


@pytest.mark.parametrize(
    ("clients", "corrupt", "lying", "least"),
    [
        (2, "1/3", 0, 2),
        (5, "1/3", 1, 4),
        (6, "1/3", 2, 5),
        (10, "1/3", 3, 7),
        (10, "1/5", 2, 7),
        (100, "1/3", 33, 67),
        (100, "1/5", 20, 61),
        (128, "1/3", 42, 86),
    ],
)
def test_thresholds_are_the_known_ones(clients: int, corrupt: str, lying: int, least: int):
    assert most_corrupt(clients, corrupt) == lying
    assert threshold(clients, corrupt) == least
    assert may_drop(clients, corrupt) == clients - least


def test_a_threshold_is_of_two_to_128_clients_and_a_known_share():
    for clients in (1, 129):
        with pytest.raises(BadSetting, match=f"a cohort of {clients}"):
            threshold(clients, "1/3")
    with pytest.raises(UnknownName, match="a corrupt share of '1/2'"):
        most_corrupt(10, "1/2")


def test_a_secret_of_another_field_is_combined_in_it():
    shares = dealt(b"\x0b", [5, 7], [1, 4, 6], 13)

    assert combined(shares, 13) == 11


@pytest.mark.parametrize(
    ("shares", "least", "wrong", "found"),
    [
        (3_000, 2_999, 1, True),
        (3_001, 3_000, 1, False),
        (76, 73, 2, True),
        (77, 74, 2, False),
        (10, 8, 3, False),
    ],
)
def test_as_many_sets_are_tried_as_there_is_time_for(shares: int, least: int, wrong: int, *, found: bool):
    """Of 77 shares, 77 + 2,926 sets leave out one or two: more than 3,000."""
    assert Decoder(tuple(range(shares)), least).finds_despite(wrong) is found


@pytest.mark.parametrize(("n", "t", "tried"), [(10, 7, 2 + 10 + 45 + 120), (30, 3, 2 + 3_000)])
def test_every_set_that_may_be_right_is_tried_once_and_no_more_than_3000(n: int, t: int, tried: int):
    shares, seen = dealt(SECRET, [3] * (t - 1), range(1, n + 1)), []

    with pytest.raises(BadUpdate, match="do not fit together"):
        Decoder(tuple(shares), t).recovered(shares, lambda secret: seen.append(secret) is not None)

    assert seen == [SECRET] * tried


def test_no_places_agree_where_too_many_shares_are_wrong():
    shares = dealt(SECRET, [3, 1, 4, 1, 5, 9], range(1, 11))
    for x in (1, 5, 9):
        shares[x] = (shares[x] * 3 + 5) % PRIME

    assert agreeing_places(shares, 7) is None


def test_three_shares_of_three_constants_agree_on_nothing():
    assert agreeing_places({1: 17, 2: 72, 3: 97}, 1, 101) is None
    assert agreeing_places({1: 5, 2: 5, 3: 5}, 1, 101) == [1, 2, 3]


@pytest.mark.parametrize(("secret", "coefficients"), [(b"\x0d", [1]), (b"\x0e", [1]), (b"\x0c", [13]), (b"\x0c", [-1])])
def test_what_is_dealt_is_in_the_field(secret: bytes, coefficients: list[int]):
    with pytest.raises(BadSetting, match="not in the field"):
        dealt(secret, coefficients, [1, 2], 13)
    assert dealt(b"\x0c", [12], [1], 13) == {1: 11}


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_largest_numbers_are_packed_and_unpacked(bits: int, count: int):
    words = np.full(count, 2**bits - 1, np.uint32)

    back = unpacked(packed(words, bits), count, bits)

    assert back.dtype == np.uint32
    assert back.tolist() == words.tolist()
