"""The lookout: between two steps and during every wait, look at what the owner wants and how the machine is."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import final

from potluck.aggregation.errors import PotluckError
from potluck.client.clock import Clock
from potluck.client.errors import Interrupted, Leaving
from potluck.client.events import GateTurned, Happening, Slept, Trouble
from potluck.client.gate import Gate
from potluck.client.limits import Limits, limits_at
from potluck.client.outbox.store import Outbox
from potluck.client.records import Control, Now
from potluck.client.sensors import Sensors

SLEEP_JUMP_S = 5.0  # a wall clock that gained this much on the monotonic one: the machine slept


@final
class Lookout:
    """Looks at most once in *tick_s* seconds, however often it is asked."""

    def __init__(
        self, outbox: Outbox, sensors: Sensors, limits: Path, clock: Clock, tell: Callable[[Happening], None]
    ) -> None:
        self.tick_s = 1.0
        self.wakes = 0
        self.gate = Gate()
        self.control = Control()
        self.limits = Limits()
        self.heeds_leave = True
        self._outbox = outbox
        self._sensors = sensors
        self._limits_path = limits
        self._limits_stamp: tuple[int, int] | None = None
        self._clock = clock
        self._tell = tell
        self._stopping = False
        self._bell = Event()
        self._looked_s = float("-inf")
        self._clocks = (clock.wall_s(), clock.monotonic_s())
        self._now = Now()

    def stop(self) -> None:
        """Ask for an end at the next look; may be called from a signal handler or another thread.

        A plain flag: an event's lock may be held by the very thread that the signal interrupts.
        """
        self._stopping = True

    def nudge(self) -> None:
        """End a wait early, so that it looks now; not for signal handlers."""
        self._bell.set()

    def pulse(self) -> None:
        """Look, if it is time to, and return quietly.

        Raises:
            Interrupted: stop() was called.
            Leaving: the owner wants to leave the run.
        """
        self.glance()
        if self._stopping:
            raise Interrupted("stopped as asked", fix="go on with `potluck resume`")
        if self.wants_end:
            raise Leaving("you asked to leave the run")

    def glance(self) -> None:
        """Look, if it is time to."""
        if self._clock.monotonic_s() - self._looked_s >= self.tick_s:
            self.look()

    @property
    def wants_end(self) -> bool:
        """Whether the owner wants the present work interrupted."""
        return self._stopping or (self.control.leave and self.heeds_leave)

    def look(self) -> None:
        """Look at the clocks, the owner's wishes and the machine, now."""
        self._notice_sleep()
        self.control = self._outbox.control()
        self._read_limits()
        self._looked_s = self._clock.monotonic_s()
        before = self.gate
        self.gate = before.after(self._sensors.read(self.control), self.limits, self._looked_s)
        if self.gate.computing != before.computing:
            self._tell(GateTurned(self.gate.sentence()))
            self.say(self._now.activity, self._now.next_check_in_unix_s)

    def wait(self, seconds: float) -> None:
        """Wait so many seconds, looking meanwhile."""
        self.wait_until(seconds, lambda: False)

    def wait_until(self, seconds: float | None, done: Callable[[], bool]) -> None:
        """Wait until *done* after a look, or for so many seconds (None: as long as it takes)."""
        started_s = self._clock.monotonic_s()
        while True:
            self.pulse()
            if done():
                return
            left_s = self.tick_s if seconds is None else started_s + seconds - self._clock.monotonic_s()
            if left_s <= 0:
                return
            if self._bell.wait(min(self.tick_s, left_s)):
                self._bell.clear()
                self._looked_s = float("-inf")

    def say(self, activity: str, next_check_in_unix_s: float | None = None) -> None:
        """Write down what goes on, for `potluck status`."""
        reasons = tuple(sorted(reason.name for reason in self.gate.computing))
        self._now = Now(os.getpid(), activity, reasons, next_check_in_unix_s, self._clock.wall_s())
        self._outbox.say(self._now)

    def _notice_sleep(self) -> None:
        """Compare the clocks: while a machine sleeps only the wall clock goes on."""
        clocks = (self._clock.wall_s(), self._clock.monotonic_s())
        jump_s = (clocks[0] - self._clocks[0]) - (clocks[1] - self._clocks[1])
        self._clocks = clocks
        if jump_s > SLEEP_JUMP_S:
            self.wakes += 1
            self._tell(Slept(jump_s))

    def _read_limits(self) -> None:
        """Read the limits again where their file changed."""
        found = self._limits_path.stat() if self._limits_path.exists() else None
        stamp = None if found is None else (found.st_mtime_ns, found.st_ino)
        if stamp != self._limits_stamp:
            self._limits_stamp = stamp
            try:
                self.limits = limits_at(self._limits_path)
            except PotluckError as error:  # a slip in a file that a person edits must not end hours of work
                self._tell(Trouble(f"{error}; the limits from before stay", "correct it; it is read again by itself"))
