"""When a client should come back: the coordinator drives the pace, the client draws the moment."""

from dataclasses import dataclass
from typing import Final

LOAD: Final = 0.5
"""Share of the check-in budget that waiting clients may use at the most."""
SPREAD: Final = 1.5
"""A window ends at so many times its beginning, so that clients which met once drift apart."""


@dataclass(frozen=True, slots=True)
class Window:
    """Come back at a uniformly random moment between the two, in seconds from now."""

    min_s: float
    max_s: float


def poll_window(waiting: int, *, check_ins_per_s: float, poll_min_s: float, poll_max_s: float) -> Window:
    """Return the window for *waiting* clients that share *check_ins_per_s*.

    T = N / (0.5·C); the window is [T, 1.5·T].  Its mean is 1.25·T, so N clients make 0.4·C check-ins a second at any
    N that the limits do not touch.  T is clamped such that the whole window, not only its beginning, lies within the
    recipe's limits: a window clamped to a point would bring everybody back at once.
    """
    wanted_s = max(waiting, 0) / (LOAD * check_ins_per_s)
    start_s = max(poll_min_s, min(wanted_s, poll_max_s / SPREAD))
    return Window(start_s, max(start_s, min(SPREAD * start_s, poll_max_s)))
