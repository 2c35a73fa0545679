"""Any number of waiting clients costs no more than what the operator grants them."""

from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.pacing import poll_window


def test_a_hundred_thousand_clients_share_five_hundred_check_ins_a_second():
    """T = N / (0.5·C) = 400 s, worked by hand."""
    window = poll_window(100_000, check_ins_per_s=500, poll_min_s=15, poll_max_s=21_600)

    assert (window.min_s, window.max_s) == (400, 600)


@given(st.integers(1, 10**7), st.floats(0.1, 10_000))
def test_the_load_stays_within_the_budget(waiting: int, budget: float):
    """Clients that draw uniformly make N / mean = 0.4·C check-ins a second, whatever N."""
    window = poll_window(waiting, check_ins_per_s=budget, poll_min_s=1e-9, poll_max_s=1e18)

    load = waiting / ((window.min_s + window.max_s) / 2)
    assert abs(load - 0.4 * budget) < 1e-6 * budget


@given(st.integers(0, 10**7), st.floats(0.1, 10_000), st.floats(0.01, 1_000), st.floats(1, 100))
def test_the_window_lies_within_the_recipes_limits(waiting: int, budget: float, low: float, factor: float):
    window = poll_window(waiting, check_ins_per_s=budget, poll_min_s=low, poll_max_s=low * factor)

    assert low <= window.min_s <= window.max_s <= low * factor * (1 + 1e-12)


@given(st.integers(0, 10**7), st.floats(1.5, 100))
def test_a_window_is_never_a_point(waiting: int, factor: float):
    """All clients clamped to the same second would come back as a herd."""
    window = poll_window(waiting, check_ins_per_s=1, poll_min_s=10, poll_max_s=10 * factor)

    assert window.max_s >= 1.49 * window.min_s
