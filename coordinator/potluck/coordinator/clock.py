"""Time as the coordinator sees it, and nobody else's."""

import time
from typing import Protocol, final


class Clock(Protocol):
    """Seconds since 1970 by the coordinator's own clock.

    Leases, deadlines and invites are measured against it and outlive a restart, so it is not a monotonic clock; no
    client's clock is ever compared with it.
    """

    def now_s(self) -> float:
        """Return the present, in seconds since 1970."""


@final
class SystemClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """Return the present, in seconds since 1970."""
        return time.time()
