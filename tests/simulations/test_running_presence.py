"""Work that stands still while somebody is away."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.simulations.running.presence import dead, spell
from potluck.simulations.worlds.base import NEVER


@dataclass(frozen=True)
class Windows:
    """Everybody is online in these windows, in order and apart."""

    windows: tuple[tuple[float, float], ...]

    def next_online_s(self, person: int, at_s: float) -> float:
        return next((max(at_s, opens) for opens, closes in self.windows if closes > at_s), NEVER)

    def offline_after_s(self, person: int, at_s: float) -> float:
        return next((closes for opens, closes in self.windows if opens <= at_s < closes), at_s)

    def drops(self, person: int, version: int) -> bool:
        return False


def test_work_goes_on_where_it_stopped():
    """Three seconds from 0: one in the first window, two in the second."""
    done = spell(Windows(((1.0, 2.0), (5.0, 9.0))), 0, 0.0, 3.0)

    assert done == (7.0, ((0.0, 1.0), (2.0, 5.0)))


def test_work_that_fits_into_no_window_is_never_done():
    done = spell(Windows(((1.0, 2.0),)), 0, 0.0, 3.0)

    assert done == (NEVER, ((0.0, 1.0), (2.0, NEVER)))


@given(
    edges=st.lists(st.integers(0, 200), min_size=2, max_size=12, unique=True).map(sorted),
    begins=st.integers(0, 100),
    work=st.integers(0, 80),
)
def test_the_time_online_between_begin_and_end_is_the_work(edges: list[int], begins: int, work: int):
    """Counted second by second."""
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    done = spell(Windows(tuple((float(a), float(b)) for a, b in pairs)), 0, float(begins), float(work))

    online = [second for second in range(begins, 201) if any(a <= second < b for a, b in pairs)]
    if work == 0 or len(online) >= work:
        expected = online[work - 1] + 1 if work else (online[0] if online else NEVER)
        assert done.done_s == expected
    else:
        assert math.isinf(done.done_s)


@pytest.mark.parametrize(("lease_s", "spans"), [(1.0, [(3.0, 5.0)]), (3.0, []), (0.5, [(0.5, 1.0), (2.5, 5.0)])])
def test_a_lease_runs_out_while_its_client_is_away_too_long(lease_s: float, spans: list[tuple[float, float]]):
    assert dead(((0.0, 1.0), (2.0, 5.0)), lease_s) == spans
