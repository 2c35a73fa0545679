"""Time on a volunteer's machine: two clocks, because laptops sleep and people set their watches."""

import time
from typing import Protocol, final


class Clock(Protocol):
    """Two clocks, in seconds.  Durations use the first; the second is shown to people and tells a sleep."""

    def monotonic_s(self) -> float:
        """Return seconds since any fixed point; never goes backwards, may stand still while the machine sleeps."""

    def wall_s(self) -> float:
        """Return seconds since 1970 by the machine's own clock, which may be wrong and may jump."""


@final
class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """Return the monotonic clock."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Return the wall clock."""
        return time.time()
