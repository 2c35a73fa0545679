"""One to two bits a value: known answers, the nearest level, and what strangers may write."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potluck.aggregation import BadSetting, BadTensor, Limits, decode, encode
from potluck.aggregation.codecs.levels import learned, packed_trits, unpacked_trits
from potluck.aggregation.codecs.registry import make_codec

ROOMY = Limits()


def back(values, levels: int, block: int = 1024, of: int = 1):
    """Return *values* after a trip through the codec."""
    return decode(encode({"v": np.asarray(values)}, "levels", levels=levels, block=block, of=of), limits=ROOMY)["v"]


def test_two_levels_are_the_sign_times_the_mean():
    """By hand: mean of 1, 2, 3, 6 is 3; a zero counts as positive."""
    assert back(np.array([1.0, -2, 3, -6]), 2).tolist() == [3, -3, 3, -3]
    assert back(np.array([0.0, -4]), 2).tolist() == [2, -2]


def test_three_levels_are_a_zero_and_one_size():
    """By hand: mean 2.5, edge 1.25: (2, 3, 4) have the mean 3, edge 1.5, which stays."""
    assert back(np.array([1.0, -2, 3, -4]), 3).tolist() == [0, -3, 3, -3]


def test_three_levels_move_their_edge():
    """Mean 2.2, edge 1.1: (1.5, 1.5, 7) have the mean 3.33, edge 1.67: (7), edge 3.5."""
    assert back(np.array([1.5, -1.5, 7, 0.6, 0.4]), 3).tolist() == [0, 0, 7, 0, 0]


def test_four_levels_are_two_sizes():
    """By hand: mean 4; (1, 2, 3) and (6, 8) have the means 2 and 7, edge 4.5, which stays."""
    assert back(np.array([1.0, -2, 3, -6, 8]), 4) == pytest.approx([2, -2, 2, -7, 7], rel=1e-3)


def test_a_value_on_the_edge_is_small():
    """Mean 2: (1, 2) and (3), edge 2.25, which stays."""
    assert back(np.array([1.0, 2, 3]), 4).tolist() == [1.5, 1.5, 3]


def test_four_levels_move_their_edge():
    """Mean 4: (1, 1, 1, 1, 3.5) and (4.5, 16) have the means 1.5 and 10.25, edge 5.9: 4.5 moves; 2 and 16."""
    assert back(np.array([1.0, -1, 1, -1, 3.5, 4.5, 16]), 4).tolist() == [2, -2, 2, -2, 2, 2, 16]


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_every_block_learns_its_own_sizes(levels: int):
    """And a last, shorter one is not diluted by what fills it up."""
    values = np.array([1.0] * 8 + [-4.0] * 8 + [32.0] * 3)

    assert np.array_equal(back(values, levels, 8), values)


def test_only_the_last_block_is_filled_up():
    """The mean of 1 to 8 is 4.5, whatever comes after; that of 10 and 20 is 15."""
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 10, 20])

    assert back(values, 2, 8) == pytest.approx([4.5] * 8 + [15] * 2, rel=1e-3)


@pytest.mark.parametrize("of", [1, 2])
def test_levels_are_read_as_float32(of: int):
    assert back(np.ones(64), 2, 8, of).dtype == np.float32


@pytest.mark.parametrize(
    ("levels", "codes"),
    [(2, [0b00100101]), (3, [1 * 1 + 1 * 3 + 2 * 9 + 0 + 2 * 81, 1]), (4, [0b10_01_01_01, 0b01_10])],
)
def test_codes_known_answer(levels: int, codes: list[int]):
    """Signs: a set bit is negative.  Ternary: 0, 1 for +, 2 for −, five a byte.  Two sizes: sign above, size below."""
    values = {
        2: np.array([-1.0, 1, -1, 1, 1, -1, 1, 1]),
        3: np.array([1.0, 1, -1, 0, -1, 1]),
        4: np.array([9.0, 9, 9, -1, -1, 9]),
    }[levels]

    data, _, peak = make_codec("levels", levels=levels).pack(values.astype(np.float32))

    assert data.tolist() == codes
    assert peak.tolist() == [9 if levels == 4 else 1]


@given(codes=st.lists(st.integers(0, 2), max_size=40))
def test_trits_come_back(codes: list[int]):
    stored = packed_trits(np.array(codes, np.int64))

    assert len(stored) == -(-len(codes) // 5)
    assert unpacked_trits(stored, len(codes)).tolist() == codes
    assert [sum(c * 3**i for i, c in enumerate(codes[n : n + 5])) for n in range(0, len(codes), 5)] == stored.tolist()


@pytest.mark.parametrize("data", [[243], [255], [81], [3**4 * 2]])
def test_trits_that_are_none_are_refused(data: list[int]):
    """Over 242, or a fifth code where there are four."""
    with pytest.raises(BadTensor, match="no five codes, or codes after the last of 4"):
        unpacked_trits(np.array(data, np.uint8), 4)
    assert unpacked_trits(np.array([80], np.uint8), 4).tolist() == [2, 2, 2, 2]


@given(
    values=arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)),
    levels=st.integers(2, 4),
    block=st.integers(8, 64),
)
def test_values_keep_their_sign_and_go_to_the_nearest_size(values, levels: int, block: int):
    found = back(values, levels, block).astype(float)

    for begin in range(0, len(values), block):
        part, mine = values[begin : begin + block].astype(float), found[begin : begin + block]
        sizes = np.unique(np.abs(mine))
        assert len(sizes) <= {2: 1, 3: 2, 4: 2}[levels]
        assert np.all((np.sign(mine) == np.sign(part)) | (mine == 0) | (part == 0))
        assert np.linalg.norm(part - mine) <= np.linalg.norm(part) * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("levels", [3, 4])
def test_sizes_stop_after_four_moves(levels: int):
    """Against the plain rule on values that would take longer: from the mean, or half of it, four moves."""
    sizes = np.abs(np.random.default_rng(9).standard_t(3, size=500))
    edge = sizes.mean() / (2 if levels == 3 else 1)
    for _ in range(5):
        large = sizes > edge
        low, high = (sizes[~large].mean() if levels == 4 else 0.0), sizes[large].mean()
        edge = (low + high) / 2

    nearest, found = learned(sizes[None], np.ones((1, 500)), levels)

    assert nearest[0].tolist() == large.astype(int).tolist()
    np.testing.assert_allclose(found[0], [low, high] if levels == 4 else [high], rtol=1e-12)


@pytest.mark.parametrize("levels", [3, 4])
def test_more_rounds_of_lloyd_would_change_little(levels: int):
    """Five rounds are within a hundredth of what twenty find, on the values that AdamW leaves and on Gaussian ones."""
    rng = np.random.default_rng(0)
    for values in (rng.uniform(-1, 1, 4096), rng.normal(size=4096)):
        error = np.linalg.norm(values - back(values, levels)) / np.linalg.norm(values)
        edge = 0.5
        for _ in range(200):
            large = np.abs(values) > edge
            low = np.abs(values)[~large].mean() if levels == 4 else 0.0
            high = np.abs(values)[large].mean()
            edge = (low + high) / 2
        best = np.sign(values) * np.where(np.abs(values) > edge, high, low)
        assert error <= 1.03 * np.linalg.norm(values - best) / np.linalg.norm(values)


ERRORS = [(2, 0.500, 0.603), (3, 0.333, 0.436), (4, 0.250, 0.343)]


@pytest.mark.parametrize(("levels", "uniform", "gaussian"), ERRORS)
def test_the_error_is_that_of_the_optimal_quantiser(levels: int, uniform: float, gaussian: float):
    """Uniform values: 1 / levels.  Gaussian ones: Max 1960, Table I, square roots of 0.3634, 0.1902 and 0.1175."""
    rng = np.random.default_rng(1)
    flat, normal = rng.uniform(-1, 1, 1 << 17), rng.normal(size=1 << 17)

    errors = [np.linalg.norm(x - back(x, levels)) / np.linalg.norm(x) for x in (flat, normal)]

    assert errors[0] == pytest.approx(uniform, rel=0.03)
    assert errors[1] == pytest.approx(gaussian, rel=0.03)


@pytest.mark.parametrize(("levels", "bits"), [(2, 1.0), (3, 1.6), (4, 2.0)])
def test_the_size_is_what_the_levels_say(levels: int, bits: float):
    """Beside 16 or 32 bits for 1024 values."""
    values = np.random.default_rng(2).normal(size=1 << 18)

    size = 8 * len(encode({"v": values}, "levels", levels=levels)) / values.size

    assert size == pytest.approx(bits + (32 if levels == 4 else 16) / 1024, abs=0.006)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_nothing_and_zeros_and_the_ends_of_float32(levels: int):
    assert back(np.zeros((0, 3)), levels).shape == (0, 3)
    assert not back(np.zeros(100), levels).any()
    for size in (1e-44, 1e-38, 1e38):
        assert np.allclose(back(np.full(10, -size), levels), -size, rtol=1e-3, atol=1e-44)


@pytest.mark.parametrize(("share", "peak"), [(np.nan, 1), (1.5, 1), (-0.5, 1), (1, -1), (1, np.inf), (1, np.nan)])
def test_sizes_outside_their_peak_are_refused(share: float, peak: float):
    codec = make_codec("levels", levels=4)
    data, _, _ = codec.pack(np.ones(8, np.float32))

    with pytest.raises(BadTensor, match="a peak of"):
        codec.unpack((data, np.array([0, share], np.float16), np.array([peak], np.float32)), 8)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"levels": 1}, "levels levels is 1"),
        ({"levels": 5}, "levels levels is 5"),
        ({"block": 7}, "levels block is 7"),
        ({"block": 65537}, "levels block is 65537"),
        ({"of": 0}, "levels of is 0"),
        ({"of": 1025}, "levels of is 1025"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says: str):
    with pytest.raises(BadSetting, match=says):
        make_codec("levels", **settings)


def test_a_size_that_nothing_is_nearest_to_is_zero():
    """All alike: one of the two sizes has no value."""
    nearest, sizes = learned(np.full((1, 8), 3.0), np.ones((1, 8)), 4)

    assert nearest.all()
    assert sizes.tolist() == [[0, 3]]


def blocks(*sizes: float, last: int = 8) -> np.ndarray:
    """Return blocks of eight values of one size each, the last one of *last* values."""
    return np.repeat(np.array(sizes, float), 8)[: 8 * len(sizes) - 8 + last]


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_of_so_many_blocks_those_with_the_largest_norms_travel(levels: int):
    """Five blocks, one of two: three, rounded up; a last one of 3 values with the norm √3 · 5 = 8.7 beats 8 · 3."""
    values = blocks(1, -4, 3, 2, -5, last=3)

    assert np.allclose(back(values, levels, 8, of=2), blocks(0, -4, 3, 0, -5, last=3), rtol=1e-3)
    assert np.allclose(back(values, levels, 8, of=4), blocks(0, -4, 0, 0, -5, last=3), rtol=1e-3)
    assert np.allclose(back(values, levels, 8, of=1024), blocks(0, -4, 0, 0, 0, last=3), rtol=1e-3)


def test_of_equal_blocks_the_first_travel():
    assert np.array_equal(back(blocks(1, -1, 1, 1, 1), 2, 8, of=2), blocks(1, -1, 1, 0, 0))
    sizes = np.random.default_rng(5).integers(1, 3, 400).astype(float)
    places = np.argsort(-sizes, kind="stable")[:100]
    expected = np.zeros(400)
    expected[places] = sizes[places]
    assert np.array_equal(back(blocks(*sizes), 2, 8, of=4), blocks(*expected))


def test_a_single_block_always_travels():
    assert back(np.full(5, -2.0), 2, 8, of=9).tolist() == [-2] * 5
    assert back(np.zeros((0, 2)), 2, 8, of=2).shape == (0, 2)


def test_blocks_known_answer():
    """Signs of the second and the fourth of four blocks, their means, the peak, then the positions 1 and 3 below 4."""
    values = blocks(1, 8, 2, -4)

    codes, sizes, peak, high, low = make_codec("levels", block=8, of=2).pack(values.astype(np.float32))

    assert codes.tolist() == [0x00, 0xFF]
    assert sizes.tolist() == [1, 0.5]
    assert peak.tolist() == [8]
    assert (high.tolist(), low.tolist()) == ([0b0101], [0b11])


def test_codes_that_fill_up_a_last_block_must_be_zero():
    """Or one content would have many encodings."""
    codec = make_codec("levels", block=8, of=2)
    codes, *rest = codec.pack(blocks(0, 0, -5, last=3).astype(np.float32))
    assert codes.tolist() == [0, 0b111]

    with pytest.raises(BadTensor, match="codes after the last of 19 values are set"):
        codec.unpack((np.array([0, 0b1111], np.uint8), *rest), 19)
    alone = make_codec("levels", block=8, of=3)
    codes, *rest = alone.pack(blocks(0, 0, -5, last=3).astype(np.float32))
    with pytest.raises(BadTensor, match="codes after the last of 19 values are set"):
        alone.unpack((codes | np.uint8(8), *rest), 19)


def test_half_the_blocks_are_half_the_bytes():
    values = np.random.default_rng(3).normal(size=1 << 18)

    half, whole = (len(encode({"v": values}, "levels", of=of)) for of in (2, 1))

    assert half == pytest.approx(whole / 2, rel=0.01)


def test_with_feedback_the_blocks_take_turns():
    """What waits grows until its block is the largest: after some turns everything was sent once."""
    rng = np.random.default_rng(4)
    change, held, seen = rng.uniform(-1, 1, 64), np.zeros(64), np.zeros(64, bool)

    for _ in range(16):
        total = change + held
        sent = back(total, 2, 8, of=4)
        held, seen = total - sent, seen | (sent != 0)

    assert seen.all()
