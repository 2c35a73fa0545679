"""Four bits a value: known answers and bounds; and what all codecs cost and lose."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potluck.aggregation import CODECS, BadSetting, BadTensor, Limits, UnknownName, decode, encode
from potluck.aggregation.codecs.blocks import NF4_LEVELS, scales_of
from potluck.aggregation.codecs.registry import make_codec

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_codecs.json").read_text("utf-8"))
ROOMY = Limits()
VALUES = arrays(np.float32, st.integers(1, 300), elements=st.floats(-(2.0**60), 2.0**60, width=32))
T7 = np.array([0.5, -1, 0.25, 0.1, 0, -0.6, 0.9, 0.33], np.float32)


def back(values, codec: str, **settings: int):
    """Return *values* after a trip through *codec*."""
    return decode(encode({"v": np.asarray(values)}, codec, **settings), limits=ROOMY)["v"]


def scales(values, block: int):
    """Return the scale of each value's block, as the codec stores it."""
    _, ratios, peak = make_codec("int4", block=block).pack(values)
    return np.repeat(scales_of(ratios, peak).astype(float), block)[: len(values)]


@pytest.mark.parametrize("codec", ["int4", "nf4"])
def test_four_bit_known_answers(codec: str):
    """T7: the indices of eight values whose largest is 1, two a byte with the first in the low half."""
    case = VECTORS[codec]

    codes, ratios, peak = make_codec(codec).pack(np.array(case["values"], np.float32))

    assert [code for byte in codes.tolist() for code in (byte & 15, byte >> 4)] == case["codes"]
    assert codes.tobytes().hex() == case["bytes"]
    assert ratios.tolist() == [0]
    assert peak.tolist() == [case["scale"]]


WHOLE = ("#peak", "<f4", 1)


@pytest.mark.parametrize(
    ("codec", "settings", "parts"),
    [
        ("fp64", {}, [("", "<f8", 1000)]),
        ("fp32", {}, [("", "<f4", 1000)]),
        ("fp16", {}, [("", "<f2", 1000)]),
        ("int8", {}, [("", "|i1", 1000), ("#scales", "<f4", 4)]),
        ("int4", {}, [("#codes", "|u1", 500), ("#ratios", "|u1", 16), WHOLE]),
        ("nf4", {}, [("#codes", "|u1", 500), ("#ratios", "|u1", 16), WHOLE]),
        ("topk", {}, [("#high", "|u1", 24), ("#low", "|u1", 24), ("#values", "<f2", 63)]),
        ("topk", {"bits": 32}, [("#high", "|u1", 24), ("#low", "|u1", 24), ("#values", "<f4", 63)]),
        (
            "sparse2bit",
            {},
            [("#high", "|u1", 6), ("#low", "|u1", 10), ("#codes", "|u1", 4), ("#means", "<f2", 4), WHOLE],
        ),
        ("levels", {}, [("#codes", "|u1", 125), ("#sizes", "<f2", 1), WHOLE]),
        ("levels", {"levels": 3}, [("#codes", "|u1", 200), ("#sizes", "<f2", 1), WHOLE]),
        ("levels", {"levels": 4}, [("#codes", "|u1", 250), ("#sizes", "<f2", 2), WHOLE]),
        (
            "levels",
            {"block": 100, "of": 3},
            [("#codes", "|u1", 50), ("#sizes", "<f2", 4), WHOLE, ("#high", "|u1", 2), ("#low", "|u1", 1)],
        ),
    ],
)
def test_what_a_thousand_values_are_stored_as(codec: str, settings, parts):
    """By hand: names, types and lengths, which a reader goes by before it reads anything."""
    made = make_codec(codec, **settings)

    assert list(made.parts(1000)) == parts
    packed = made.pack(np.random.default_rng(0).normal(size=1000).astype(made.takes))
    assert [(stored.size, stored.dtype.itemsize) for stored in packed] == [
        (length, np.dtype(kind).itemsize) for _, kind, length in parts
    ]


@pytest.mark.parametrize(
    ("codec", "setting", "fix"),
    [
        ("int8", "block", "8 to 65536, such as 256"),
        ("int4", "block", "8 to 65536, such as 64"),
        ("nf4", "block", "8 to 65536, such as 64"),
        ("levels", "levels", "2 to 4, such as 2"),
        ("levels", "block", "8 to 65536, such as 1024"),
        ("levels", "of", "1 to 1024, such as 1"),
        ("topk", "chunk", "64 to 1048576, such as 4096"),
        ("topk", "k", "1 to 4096, such as 64"),
        ("sparse2bit", "chunk", "64 to 1048576, such as 4096"),
        ("sparse2bit", "k", "1 to 4096, such as 64"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_one_that_is_not(codec: str, setting: str, fix: str):
    with pytest.raises(BadSetting, match=f"^{codec} {setting} is 0") as caught:
        make_codec(codec, **{setting: 0})

    assert caught.value.__notes__ == [f"fix: use {fix}"]


def test_a_codec_that_is_none_is_called_one():
    with pytest.raises(UnknownName, match=r"^no codec is called 'int9'") as caught:
        make_codec("int9")

    assert caught.value.__notes__ == ["fix: did you mean 'int8'?"]


def test_int8_measures_every_block_by_its_own_largest_value():
    """A thousandth, nothing, and a thousand: by hand, 127ths of each."""
    values = np.array([1e-3, -5e-4, 0, 0, 0, 0, 0, 0] + [0.0] * 8 + [-1e3, 250, 0, 0, 0, 0, 0, 4], np.float32)

    codes, largest = make_codec("int8", block=8).pack(values)

    assert codes.reshape(3, 8)[:, [0, 1, 7]].tolist() == [[127, -64, 0], [0, 0, 0], [-127, 32, 1]]
    assert largest.tolist() == [np.float32(1e-3), 0, 1e3]


def test_int4_reads_sevenths_of_the_scale():
    assert back(T7 * 7, "int4").tolist() == [4, -7, 2, 1, 0, -4, 6, 2]


def test_nf4_reads_its_levels():
    codes = VECTORS["nf4"]["codes"]

    assert back(T7 * 3, "nf4").tolist() == [float(np.float32(NF4_LEVELS[code]) * np.float32(3)) for code in codes]


def test_the_levels_of_nf4_are_the_papers():
    """Symmetric ends, a zero, and every middle of two neighbours goes to the lower one."""
    assert tuple(sorted(NF4_LEVELS)) == NF4_LEVELS
    assert (NF4_LEVELS[0], NF4_LEVELS[7], NF4_LEVELS[15], len(NF4_LEVELS)) == (-1, 0, 1, 16)
    exact = np.array(NF4_LEVELS)

    assert np.allclose(back(exact, "nf4", block=16), exact, atol=1e-7)
    assert np.allclose(back(np.append(exact[:-1] + 0.02, 1), "nf4", block=16), exact, atol=1e-7)


@pytest.mark.parametrize(
    ("ratio", "scale"), [(0, 8.0), (16, 4.0), (8, 8 / np.sqrt(2)), (254, 8 * 2**-15.875), (255, 0)]
)
def test_a_ratio_is_a_sixteenth_of_a_halving(ratio: int, scale: float):
    found = scales_of(np.array([ratio], np.uint8), np.array([8], np.float32))

    assert found.dtype == np.float32
    assert found[0] == pytest.approx(scale, rel=1e-7)


@pytest.mark.parametrize("peak", [-1.0, np.inf, np.nan])
def test_a_peak_that_is_none_is_refused(peak: float):
    """Zero is one, and the largest float32."""
    with pytest.raises(BadTensor, match=r"^a peak of"):
        scales_of(np.zeros(1, np.uint8), np.array([peak], np.float32))
    for fine in (0.0, np.finfo(np.float32).max):
        assert scales_of(np.zeros(1, np.uint8), np.array([fine], np.float32)).tolist() == [fine]


def test_blocks_get_the_nearest_ratio():
    """2^(−g/16): a block at a quarter of the peak is 32 steps down, one at 0.7 is 8, one at zero is 255."""
    values = np.zeros(40, np.float32)
    values[[0, 8, 16, 24]] = 4, -1, 2.8, 4e-9

    _, ratios, peak = make_codec("nf4", block=8).pack(values)

    assert ratios.tolist() == [0, 32, 8, 254, 255]
    assert peak.tolist() == [4]


@given(values=VALUES, block=st.integers(8, 100))
def test_int4_errs_by_half_a_level_of_its_block(values, block: int):
    """|error| ≤ m / 14 with m the scale as stored, which is within 2.2 % of the block's largest or at its floor."""
    error = np.abs(values.astype(float) - back(values, "int4", block=block).astype(float))

    m = scales(values, block)
    assert np.all(error <= m / 14 * (1 + 1e-6) + 1e-40)
    for begin in range(0, len(values), block):
        largest_one = np.abs(values[begin : begin + block].astype(float)).max()
        floor = np.abs(values.astype(float)).max() * 2**-15.875
        assert m[begin] == pytest.approx(max(largest_one, floor if largest_one else 0), rel=0.0222, abs=1e-44)


@given(values=VALUES, block=st.integers(8, 100))
def test_nf4_takes_the_nearest_level(values, block: int):
    found = back(values, "nf4", block=block).astype(float)

    m = scales(values, block)
    nearest = np.abs(values.astype(float)[:, None] - m[:, None] * np.array(NF4_LEVELS)).min(axis=1)
    assert np.all(np.abs(values.astype(float) - found) <= nearest + m * 1e-6 + 1e-40)


@pytest.mark.parametrize("codec", ["int4", "nf4", "topk", "sparse2bit", "int8"])
def test_zeros_stay_zeros(codec: str):
    assert not back(np.zeros(1000), codec).any()


@pytest.mark.parametrize("codec", ["int4", "nf4", "sparse2bit"])
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e38])
def test_the_smallest_and_largest_numbers_of_float32_are_finite(codec: str, size: float):
    found = back(np.full(64, size), codec)

    assert np.isfinite(found).all()
    assert np.all(found.astype(float) <= size * 1.05 + 1e-44)
    assert found.any()


ERRORS = {
    ("int8", 256): (0.0070, 0.0171),
    ("int8", 64): (0.0060, 0.0108),
    ("int4", 64): (0.108, 0.184),
    ("nf4", 64): (0.092, 0.124),
}


@pytest.mark.parametrize(("codec", "block"), ERRORS)
def test_the_error_on_gaussian_and_heavy_tailed_values_is_the_known_one(codec: str, block: int):
    """One-shot relative L2 error.  That of t₃ values depends on the few largest, so it has more room."""
    rng = np.random.default_rng(5)
    normal, heavy = rng.normal(size=1 << 18), rng.standard_t(3, size=1 << 18)

    errors = [np.linalg.norm(x - back(x, codec, block=block)) / np.linalg.norm(x) for x in (normal, heavy)]

    assert errors[0] == pytest.approx(ERRORS[codec, block][0], rel=0.02)
    assert errors[1] == pytest.approx(ERRORS[codec, block][1], rel=0.06)


@pytest.mark.parametrize(("k", "gaussian", "heavy"), [(64, 0.938, 0.772), (410, 0.748, 0.543)])
def test_the_error_of_topk_is_the_known_one(k: int, gaussian: float, heavy: float):
    """The largest 1.56 % and 10 %."""
    rng = np.random.default_rng(6)
    normal, heavy_ones = rng.normal(size=1 << 18), rng.standard_t(3, size=1 << 18)

    errors = [np.linalg.norm(x - back(x, "topk", k=k)) / np.linalg.norm(x) for x in (normal, heavy_ones)]

    assert errors[0] == pytest.approx(gaussian, rel=0.01)
    assert errors[1] == pytest.approx(heavy, rel=0.05)


SIZES = [
    ("int8", {}, 1.016), ("nf4", {}, 0.516), ("int4", {}, 0.516), ("topk", {}, 0.1719), ("topk", {"k": 64}, 0.0469),
    ("sparse2bit", {"k": 1024}, 0.190), ("sparse2bit", {"k": 512}, 0.112), ("sparse2bit", {}, 0.0215),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "settings", "bytes_a_value"), SIZES)
def test_the_size_of_a_large_tensor_is_what_the_settings_say(codec: str, settings, bytes_a_value: float):
    """Without the lossless stage: nothing of it depends on the values.  A header has some 200 bytes."""
    values = np.random.default_rng(7).normal(size=1 << 18)

    assert len(encode({"v": values}, codec, **settings)) / values.size == pytest.approx(bytes_a_value, abs=8e-4)
    assert len(encode({"v": values}, codec, **settings)) == len(encode({"v": 0 * values}, codec, **settings))


@pytest.mark.parametrize(
    ("codec", "settings", "says"),
    [
        ("int4", {"block": 7}, "int4 block is 7"),
        ("nf4", {"block": 65537}, "nf4 block is 65537"),
        ("topk", {"chunk": 63}, "topk chunk is 63"),
        ("topk", {"k": 0}, "topk k is 0"),
        ("topk", {"chunk": 64, "k": 65}, "topk k is 65"),
        ("topk", {"bits": 8}, "topk bits is 8"),
        ("sparse2bit", {"chunk": (1 << 20) + 1}, "sparse2bit chunk is 1048577"),
        ("sparse2bit", {"k": True}, "sparse2bit k is True"),
    ],
)
def test_settings_out_of_range_are_refused(codec: str, settings, says: str):
    with pytest.raises(BadSetting, match=says):
        make_codec(codec, **settings)


@pytest.mark.parametrize(
    ("codec", "settings"),
    [
        ("int4", {"block": 8}),
        ("int4", {"block": 65536}),
        ("topk", {"chunk": 64, "k": 64}),
        ("topk", {"chunk": 1 << 20, "k": 1}),
    ],
)
def test_settings_at_the_ends_of_their_ranges_are_taken(codec: str, settings):
    assert back(np.ones(70), codec, **settings).max() == 1


def test_codecs_stand_from_the_most_to_the_least_exact():
    """What a coordinator takes in place of a coarser codec is decided by this order."""
    values = np.random.default_rng(8).normal(size=1 << 14).astype(np.float32)
    errors = [
        np.linalg.norm(values - back(values, codec, **({"k": 256} if codec == "sparse2bit" else {})))
        for codec in CODECS
    ]

    assert errors == sorted(errors)
    assert [name for name in CODECS if make_codec(name).forgets] == ["levels", "topk", "sparse2bit"]


def test_the_defaults_are_the_published_presets():
    """int8/256 and 4 bits/64 of bitsandbytes; 64 of 4096 of SparseLoCo."""
    found = {name: {field.name: field.default for field in fields(make_codec(name))} for name in CODECS}

    assert found == {
        "fp64": {},
        "fp32": {},
        "fp16": {},
        "int8": {"block": 256},
        "nf4": {"block": 64},
        "int4": {"block": 64},
        "levels": {"levels": 2, "block": 1024, "of": 1},
        "topk": {"chunk": 4096, "k": 256, "bits": 16},
        "sparse2bit": {"chunk": 4096, "k": 64},
    }
