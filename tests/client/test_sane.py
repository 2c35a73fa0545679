"""Whatever number a coordinator sends, the client goes on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.client.delivery import verdict_name
from potluck.client.sane import LONGEST_S, MAX_INTEGER, SHORTEST_S, integer, largest_adapter, span_s
from scripted import recipe


@given(st.floats())
def test_a_span_of_time_can_always_be_waited_for(seconds: float):
    assert SHORTEST_S <= span_s(seconds, 60.0) <= LONGEST_S


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_becomes_the_default(seconds: float):
    assert span_s(seconds, 60.0) == 60.0


@given(st.integers(0, 2**64 - 1))
def test_an_integer_can_always_be_kept(number: int):
    assert integer(number) == min(number, MAX_INTEGER)


def test_a_verdict_from_the_future_has_a_name():
    assert (verdict_name(1), verdict_name(99)) == ("ACCEPTED", "VERDICT 99")


def test_a_shared_adapter_has_a_largest_size():
    """A coordinator once could fill the disk: 753 MB arrived for an adapter of 224 numbers."""
    small = recipe()
    numbers = sum((d + k) * (small.pipeline().rank or 0) for d, k in small.modules().values())

    assert 4 * numbers < largest_adapter(small) < 4 * numbers + 2_000_000
