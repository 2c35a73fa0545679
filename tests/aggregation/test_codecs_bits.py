"""Numbers of a few bits, and sorted positions, as bytes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation import BadTensor
from potluck.aggregation.codecs.bits import (
    bytes_of,
    high_bits,
    low_width,
    packed,
    positions_packed,
    positions_unpacked,
    unpacked,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_codecs.json").read_text("utf-8"))


def test_twelve_bit_numbers_known_answer():
    """T7: the lowest bits first, so the middle byte has the top of the first and the bottom of the second."""
    assert packed(np.array([0xABC, 0x123]), 12).tobytes() == bytes.fromhex("BC3A12")
    assert packed(np.array(VECTORS["bits"]["values"]), 12).tobytes().hex() == VECTORS["bits"]["bytes"]
    assert unpacked(np.frombuffer(bytes.fromhex("BC3A12"), np.uint8), 12, 2).tolist() == [0xABC, 0x123]


@given(width=st.integers(1, 20), data=st.data())
def test_numbers_of_any_width_come_back(width: int, data):
    values = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40)), np.int64)

    stored = packed(values, width)

    assert len(stored) == bytes_of(width * len(values)) == -(-width * len(values) // 8)
    assert np.array_equal(unpacked(stored, width, len(values)), values)
    whole = sum(int(value) << (width * place) for place, value in enumerate(values))
    assert stored.tobytes() == whole.to_bytes(len(stored), "little")


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 12])
def test_a_bit_after_the_last_number_is_refused(width: int):
    """Two messages that decode to the same would have two digests."""
    stored = packed(np.zeros(3, np.int64), width)
    stored[-1] |= 0x80

    if 3 * width % 8:
        with pytest.raises(BadTensor, match="after the last of 3"):
            unpacked(stored, width, 3)
    else:
        assert unpacked(stored, width, 3)[-1] == 1 << (width - 1)


@pytest.mark.parametrize(
    ("kept", "values", "width", "bits"),
    [
        (512, 4096, 3, 1024),
        (64, 4096, 6, 128),
        (1, 4096, 12, 2),
        (4096, 4096, 0, 8192),
        (4, 70, 4, 9),
        (1, 1, 0, 2),
        (0, 0, 0, 0),
    ],
)
def test_the_length_of_positions_is_known_beforehand(kept: int, values: int, width: int, bits: int):
    """5 bits a position where every eighth value is kept, 8 where every 64th is."""
    assert low_width(kept, values) == width
    assert high_bits(kept, values) == bits


@pytest.mark.parametrize("width", [2, 12])
def test_numbers_and_bytes_are_what_they_are_called(width: int):
    """Whatever the width, and where there are no low bits at all."""
    assert unpacked(packed(np.arange(4), width), width, 4).dtype == np.uint32
    assert {part.dtype for part in (packed(np.arange(4), width), *positions_packed(np.arange(4), 4))} == {
        np.dtype("u1")
    }


def test_positions_known_answer():
    """70 values, l = 4: the high parts 0, 0, 3, 4 set bits 0, 1, 5 and 7; the low parts are 1, 5, 15, 0."""
    case = VECTORS["positions"]

    high, low = positions_packed(np.array(case["positions"]), case["values"])

    assert (high.tobytes().hex(), low.tobytes().hex()) == (case["high"], case["low"]) == ("a300", "510f")
    assert positions_unpacked(high, low, 4, 70).tolist() == [1, 5, 63, 64]


@given(values=st.integers(1, 5000), data=st.data())
def test_any_positions_come_back(values: int, data):
    chosen = sorted(data.draw(st.sets(st.integers(0, values - 1), min_size=1, max_size=min(60, values))))

    high, low = positions_packed(np.array(chosen), values)

    assert 8 * len(high) - 7 <= high_bits(len(chosen), values) <= 8 * len(high)
    assert len(low) == bytes_of(len(chosen) * low_width(len(chosen), values))
    assert positions_unpacked(high, low, len(chosen), values).tolist() == chosen


@given(high=st.binary(min_size=2, max_size=2), low=st.binary(min_size=2, max_size=2))
def test_any_bytes_are_positions_or_refused_and_no_two_are_the_same_positions(high: bytes, low: bytes):
    """What is read back is what would be written."""
    stored = np.frombuffer(high, np.uint8), np.frombuffer(low, np.uint8)
    try:
        positions = positions_unpacked(*stored, 4, 70)
    except BadTensor:
        return

    assert np.all(np.diff(positions) > 0)
    assert 0 <= positions[0] <= positions[-1] < 70
    assert [part.tobytes() for part in positions_packed(positions, 70)] == [high, low]


@pytest.mark.parametrize(
    ("high", "low", "says"),
    [
        ("a301", "510f", "5 positions where 4"),
        ("2300", "510f", "3 positions where 4"),
        ("a302", "510f", "after the last position"),
        ("a300", "150f", "not ascending"),
        ("a300", "110f", "not ascending"),
        ("a300", "516f", "pass 70"),
    ],
)
def test_positions_that_are_none_are_refused(high: str, low: str, says: str):
    """One too many, one too few, a stray bit, out of order, the same twice, past the end."""
    stored = (np.frombuffer(bytes.fromhex(part), np.uint8) for part in (high, low))

    with pytest.raises(BadTensor, match=says):
        positions_unpacked(*stored, 4, 70)
