"""Whole numbers of a ring: nothing is lost between an update and the sum over a cohort but its rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation.errors import BadSetting, BadTensor, BadUpdate
from potluck.aggregation.secure.lanes import lane_sizes, read_lanes, told, vector_size, with_lanes
from potluck.aggregation.secure.ring import WIDTHS, Ring, centred, clipped, packed, packed_bytes, quantised, unpacked
from potluck.aggregation.secure.sanity import decoded


@given(st.sampled_from(WIDTHS), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9))
def test_what_is_packed_is_unpacked(bits: int, values: list[int]):
    words = np.array(values, np.uint32)

    data = packed(words, bits)

    assert len(data) == packed_bytes(len(words), bits)
    assert unpacked(data.data, len(words), bits).tolist() == [value % 2**bits for value in values]


@pytest.mark.parametrize("bits", WIDTHS)
def test_another_length_is_refused(bits: int):
    data = packed(np.arange(5, dtype=np.uint32), bits).tobytes()

    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(BadTensor, match="bytes for 5 numbers"):
            unpacked(wrong, 5, bits)


def test_bits_behind_the_last_number_are_refused():
    data = bytearray(packed(np.arange(5, dtype=np.uint32), 20).tobytes())
    data[-1] |= 0x10

    with pytest.raises(BadTensor, match="behind the last"):
        unpacked(bytes(data), 5, 20)


@given(st.sampled_from(WIDTHS), st.integers(2, 128), st.integers(0, 2**32 - 1))
def test_the_sum_of_a_cohort_is_read_to_the_last_step(bits: int, cohort: int, seed: int):
    """Bound by Q each, no cohort of the greatest size can wrap around."""
    generator, ring = np.random.default_rng(seed), Ring(bits, cohort, 6, 2.0)
    steps = generator.integers(-ring.bound, ring.bound + 1, (cohort, 6))
    steps[:, 0], steps[:, 1] = ring.bound, -ring.bound

    total = steps.astype(np.int64).astype(np.uint32).sum(axis=0, dtype=np.uint32)

    assert centred(total & np.uint32(2**bits - 1), bits).tolist() == steps.sum(axis=0).tolist()


def test_rounding_at_random_keeps_the_mean():
    ring = Ring(16, 128, 20_000, 1.0)
    vector = np.full(ring.size, 0.3 * ring.step)

    steps = quantised(vector, ring, np.random.default_rng(1)).view(np.int32)

    assert set(steps.tolist()) == {0, 1}
    assert abs(steps.mean() - 0.3) < 4 * np.sqrt(0.21 / ring.size)


def test_rounding_costs_what_is_said():
    """RMS at most √d·Δ/2, and no coordinate further than a step: about 5e-4 of the clip at 24 bits and 128 clients."""
    ring = Ring(24, 128, 100_000, 1.0)
    vector, _ = clipped(np.random.default_rng(2).normal(size=ring.size), 1.0)

    error = quantised(vector, ring, np.random.default_rng(3)).view(np.int32) * ring.step - vector

    assert np.abs(error).max() <= ring.step
    assert np.linalg.norm(error) < np.sqrt(ring.size) * ring.step / 2 < 6e-4


def test_an_update_is_clipped_and_says_so():
    vector = np.array([3.0, 4.0], np.float32)

    assert clipped(vector, 10.0)[1] is False
    cut, was_cut = clipped(vector, 1.0)
    assert was_cut
    assert cut == pytest.approx([0.6, 0.8])
    with pytest.raises(BadTensor, match="not finite"):
        clipped(np.array([1.0, np.nan]), 1.0)


@pytest.mark.parametrize("ring", [Ring(18, 5, 5, 1.0), Ring(16, 129, 5, 1.0), Ring(16, 5, 0, 1.0), Ring(16, 5, 5, 0.0)])
def test_a_ring_that_cannot_be_is_refused(ring: Ring):
    with pytest.raises(BadSetting):
        ring.checked()


@given(st.sampled_from(WIDTHS), st.integers(2, 128), st.integers(1, 16), st.data())
def test_lanes_are_summed_as_they_were_told(bits: int, cohort: int, most: int, data):
    ring = Ring(bits, cohort, 2, 1.0)
    drawn = st.tuples(st.integers(1, most), st.integers(0, 1 << 21), st.booleans(), st.floats(-1, 99))
    clients = [data.draw(drawn) for _ in range(min(cohort, 3))]
    lanes = [told(w, tokens, clipped=cut, loss=loss) for w, tokens, cut, loss in clients]

    words = sum((with_lanes(np.zeros(2, np.uint32), one, ring, most) for one in lanes), start=np.uint32(0))
    read = decoded(words, len(lanes), ring, most).lanes

    assert len(words) == vector_size(ring, most) == 2 + sum(lane_sizes(ring, most))
    for name in ("count", "weight", "clipped", "loss", "tokens"):
        assert getattr(read, name) == sum(getattr(one, name) for one in lanes)
    assert read_lanes(centred(words, bits)[2:], ring, most) == read


def honest(ring: Ring, count: int) -> np.ndarray:
    """Return a sum of updates of the greatest norm."""
    rounded = [
        with_lanes(
            quantised(clipped(np.ones(ring.size), ring.clip)[0], ring, np.random.default_rng(seed)),
            told(1, 5, clipped=True, loss=0.5),
            ring,
            1,
        )
        for seed in range(count)
    ]
    return np.sum(rounded, axis=0, dtype=np.uint32)


def test_honest_updates_of_the_greatest_norm_pass():
    ring = Ring(24, 16, 1_000, 1.0)

    read = decoded(honest(ring, 16), 16, ring, 1)

    assert np.linalg.norm(read.total) == pytest.approx(16, rel=2e-3)
    assert read.weight == 16


@pytest.mark.parametrize(
    ("place", "value", "told_why"),
    [
        (0, 1 << 23, "a coordinate of"),
        (1_000, 1, "lanes say"),
        (1_001, 1, "a weight of"),
        (1_002, 1, "lane clipped"),
        (1_003, 1_100 * 8, "lane loss"),
    ],
)
def test_a_sum_that_cannot_be_of_honest_updates_is_refused(place: int, value: int, told_why: str):
    ring = Ring(24, 16, 1_000, 1.0)
    words = honest(ring, 8)
    words[place] += np.uint32(value)

    with pytest.raises(BadUpdate, match=told_why):
        decoded(words, 8, ring, 1)


def test_a_long_sum_of_small_coordinates_is_refused():
    """Every coordinate is in bounds, and the norm is that of updates that nobody clipped."""
    ring = Ring(24, 16, 1_000, 1.0)
    words = honest(ring, 16)
    words[:1_000] = words[:1_000] * np.uint32(2)

    with pytest.raises(BadUpdate, match="a norm of"):
        decoded(words, 16, ring, 1)


@given(st.lists(st.integers(0, 2**24 - 1), min_size=40, max_size=40), st.integers(-(2**23), 2**23))
def test_no_coordinate_and_no_lane_of_its_members_decides_whether_a_sum_that_is_to_be_noised_is_dropped(
    values: list[int], lane: int
):
    ring = Ring(24, 16, 40, 1.0)
    words = honest(ring, 8)
    words[:40] = values
    words[42:] += np.uint32(lane % 2**32)  # how many were cut, the losses, the tokens

    read = decoded(words, 8, ring, 1, noised=True)

    assert (read.total / ring.step).round().astype(int).tolist() == centred(np.array(values, np.uint32), 24).tolist()
    assert read.weight == read.lanes.weight == 8
    assert 0 <= read.lanes.clipped <= 8
    assert 0 <= read.lanes.loss <= 8 * 64 * 16
    assert 0 <= read.lanes.tokens <= 8 << 20


@pytest.mark.parametrize(("place", "told_why"), [(40, "lanes say 9 clients"), (41, "a weight of 9")])
def test_a_sum_to_be_noised_of_another_number_of_clients_than_there_are_is_refused(place: int, told_why: str):
    ring = Ring(24, 16, 40, 1.0)
    words = honest(ring, 8)
    words[place] += np.uint32(1)

    with pytest.raises(BadUpdate, match=told_why):
        decoded(words, 8, ring, 1, noised=True)


@pytest.mark.parametrize(("clips", "passes"), [(7.9, True), (8.1, False)])
def test_the_clip_bounds_what_all_members_do_together_and_one_of_them_may_do_it_all(clips: float, *, passes: bool):
    ring = Ring(24, 16, 1_000, 1.0)
    lanes = with_lanes(np.zeros(1_000, np.uint32), told(1, 100, clipped=False, loss=None), ring, 1)
    words = lanes * np.uint32(8)  # seven did nothing, and one
    words[:1_000] = np.uint32(clips / np.sqrt(1_000) / ring.step)

    if passes:
        assert np.linalg.norm(decoded(words, 8, ring, 1).total) == pytest.approx(clips, rel=1e-3)
    else:
        with pytest.raises(BadUpdate, match="a norm of"):
            decoded(words, 8, ring, 1)
