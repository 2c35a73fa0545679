"""What the machine says about itself, by way of psutil; anything it cannot say comes back as unknown."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, final

import psutil

from potluck.client.clock import Clock
from potluck.client.gate import Power, Reading
from potluck.client.limits import Limits
from potluck.client.records import Control

_SHORTEST_S = 0.2  # two looks nearer than this say nothing about the processor


class Sensors(Protocol):
    """Something that can be asked how the machine is."""

    def read(self, control: Control) -> Reading:
        """Return the present reading, with what the owner asked for; never raises, never waits."""


@final
class MachineSensors:
    """This machine, as psutil sees it.  *disk* is where the home is."""

    def __init__(self, disk: Path, clock: Clock) -> None:
        self._disk = disk
        self._clock = clock
        self._last: tuple[float, float, float] | None = None  # monotonic, busy core-seconds, our own
        self._other_cpu_share: float | None = None

    def read(self, control: Control) -> Reading:
        """Return the present reading."""
        power, share = self._battery()
        return Reading(
            power=power,
            battery_share=share,
            other_cpu_share=self._other_cpu(),
            free_ram_bytes=_or_none(lambda: int(psutil.virtual_memory().available)),
            free_disk_bytes=_or_none(lambda: shutil.disk_usage(self._disk).free),
            paused=_paused(control, self._clock.wall_s()),
            paused_until_unix_s=control.paused_until_unix_s,
        )

    def _battery(self) -> tuple[Power, float | None]:
        """Return what the machine runs on, and the charge of its battery from 0 to 1."""
        read: Any = getattr(psutil, "sensors_battery", None)  # psutil has it on some systems only
        if read is None:
            return Power.UNKNOWN, None
        try:
            battery = read()
        except (OSError, RuntimeError, ValueError, psutil.Error):
            return Power.UNKNOWN, None
        if battery is None:  # a machine without a battery
            return Power.MAINS, None
        share = float(battery.percent) / 100
        if battery.power_plugged is None:
            return Power.UNKNOWN, share
        return (Power.MAINS if battery.power_plugged else Power.BATTERY), share

    def _other_cpu(self) -> float | None:
        """Return the share of all cores that other programs used since the last look; None on the first."""
        try:
            times = psutil.cpu_times()
            idle_s = float(times.idle) + float(getattr(times, "iowait", 0.0))
            # guest time is in user time already
            total_s = float(sum(times)) - float(getattr(times, "guest", 0.0)) - float(getattr(times, "guest_nice", 0.0))
            own_s = sum(os.times()[:4])  # this process and its finished children
        except (OSError, psutil.Error):
            return None
        now = (self._clock.monotonic_s(), total_s - idle_s, own_s)
        if self._last is None:
            self._last = now
            return None
        wall_s, busy_s, mine_s = (a - b for a, b in zip(now, self._last, strict=True))
        if wall_s >= _SHORTEST_S:
            self._last = now
            self._other_cpu_share = min(1.0, max(0.0, (busy_s - mine_s) / (wall_s * (os.cpu_count() or 1))))
        return self._other_cpu_share


def step_back(limits: Limits) -> None:
    """Lower this process's priority as *limits* say; where the system refuses, stay as it is."""
    with contextlib.suppress(OSError, psutil.Error):
        process = psutil.Process()
        if os.name == "nt":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        elif int(process.nice()) < limits.nice:
            process.nice(limits.nice)


def total_ram_bytes() -> int | None:
    """Return how much memory the machine has; None where that cannot be measured."""
    return _or_none(lambda: int(psutil.virtual_memory().total))


def _paused(control: Control, wall_s: float) -> bool:
    """Whether the owner's pause still lasts."""
    return control.paused and (control.paused_until_unix_s is None or wall_s < control.paused_until_unix_s)


def _or_none(read: Callable[[], int]) -> int | None:
    """Return what *read* returns, or None where the system cannot say."""
    try:
        return read()
    except (OSError, psutil.Error):
        return None
