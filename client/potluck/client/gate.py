"""The gate: may I compute, may I use the network, and if not, why and until when?  Pure: readings in, verdict out.

A reason comes fast and goes slowly, so that a battery at 29–31 % or a busy second does not start and stop training all
the time.  What cannot be measured counts against us, with a sentence that says how to change that.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final, final

from potluck.client.limits import GIB, Limits

BATTERY_LOW_SHARE: Final = 0.30
BATTERY_FULL_SHARE: Final = 0.80
ROOM: Final = 1.25  # free memory or disk must exceed the limit by this factor before a reason ends


class Power(Enum):
    """What the machine runs on."""

    MAINS = "mains"
    BATTERY = "battery"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """What the sensors and the owner say at one moment.  None means that it cannot be measured here."""

    power: Power
    battery_share: float | None  # charge, 0 to 1
    other_cpu_share: float | None  # of all cores, used by other programs, 0 to 1
    free_ram_bytes: int | None
    free_disk_bytes: int | None
    paused: bool = False
    paused_until_unix_s: float | None = None  # None while paused: until resumed


class Reason(Enum):
    """Why not, in words."""

    PAUSED_BY_USER = "you paused it"
    ON_BATTERY = "the machine runs on battery"
    BATTERY_LOW = "the battery is low"
    CPU_BUSY = "other programs need the processor"
    RAM_LOW = "memory is short"
    DISK_LOW = "the disk is nearly full"


@final
@dataclass(frozen=True, slots=True)
class Hysteresis:
    """How long a condition must last before its reason begins, and how long be gone before it ends, in seconds."""

    enter_s: float
    leave_s: float


HYSTERESIS: Final[Mapping[Reason, Hysteresis]] = MappingProxyType(
    {
        Reason.PAUSED_BY_USER: Hysteresis(enter_s=0, leave_s=0),  # the owner's word counts at once, both ways
        Reason.ON_BATTERY: Hysteresis(enter_s=0, leave_s=30),
        Reason.BATTERY_LOW: Hysteresis(enter_s=0, leave_s=30),
        Reason.CPU_BUSY: Hysteresis(enter_s=10, leave_s=60),
        Reason.RAM_LOW: Hysteresis(enter_s=5, leave_s=60),
        Reason.DISK_LOW: Hysteresis(enter_s=0, leave_s=60),
    }
)

STOPS_NETWORK: Final = frozenset({Reason.PAUSED_BY_USER, Reason.BATTERY_LOW})
"""A finished update may still be sent on battery or while the owner works; all reasons stop computing."""

UNKNOWN: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.ON_BATTERY: "cannot tell mains from battery here; to run anyway: potluck limits on_battery=true",
        Reason.CPU_BUSY: "cannot measure other programs here; to run anyway: potluck limits busy_share=1",
        Reason.RAM_LOW: "cannot measure free memory here; to run anyway: potluck limits min_free_ram_gib=0",
        Reason.DISK_LOW: "cannot measure free disk here; to run anyway: potluck limits min_free_disk_gib=0",
    }
)


@final
@dataclass(frozen=True, slots=True)
class Latch:
    """One reason: whether it holds, and since when the opposite has been seen."""

    on: bool = False
    turning_s: float | None = None  # moment at which the condition began to disagree with `on`
    unknown: bool = False


@final
@dataclass(frozen=True, slots=True)
class Gate:
    """All reasons at one moment.  A new value for every reading; nothing changes in place."""

    latches: Mapping[Reason, Latch] = field(default_factory=lambda: dict.fromkeys(Reason, Latch()))
    paused_until_unix_s: float | None = None

    @property
    def computing(self) -> frozenset[Reason]:
        """Why not to compute; empty means go."""
        return frozenset(reason for reason, latch in self.latches.items() if latch.on)

    @property
    def network(self) -> frozenset[Reason]:
        """Why not to use the network; empty means go."""
        return self.computing & STOPS_NETWORK

    def after(self, reading: Reading, limits: Limits, now_s: float) -> "Gate":
        """Return the gate once *reading* was taken at *now_s* of the monotonic clock."""
        latches = {
            reason: _turned(latch, HYSTERESIS[reason], _holds(reason, reading, limits, on=latch.on), now_s)
            for reason, latch in self.latches.items()
        }
        return Gate(latches, reading.paused_until_unix_s if reading.paused else None)

    def sentence(self) -> str:
        """Return what, why and until when, in one line; empty while nothing is in the way."""
        return "; ".join(self._words(reason) for reason in Reason if self.latches[reason].on)

    def _words(self, reason: Reason) -> str:
        """Return one reason with how it ends."""
        if reason is Reason.PAUSED_BY_USER:
            if self.paused_until_unix_s is None:
                return f"{reason.value}, until: potluck resume"
            return f"{reason.value}, until {_moment(self.paused_until_unix_s)}"
        if self.latches[reason].unknown:
            return UNKNOWN[reason]
        ends = {
            Reason.ON_BATTERY: "until it is on mains",
            Reason.BATTERY_LOW: f"until {BATTERY_FULL_SHARE:.0%} or mains",
        }
        return f"{reason.value}, {ends.get(reason, f'until {HYSTERESIS[reason].leave_s:g} s after that ends')}"


def _turned(latch: Latch, times: Hysteresis, holds: bool | None, now_s: float) -> Latch:  # noqa: FBT001 - a reading
    """Return *latch* after a look: it turns once the condition has disagreed with it for long enough."""
    wanted = holds is not False  # what cannot be measured counts against us
    if wanted is latch.on:
        return Latch(on=latch.on, unknown=holds is None)
    since_s = now_s if latch.turning_s is None else latch.turning_s
    wait_s = times.enter_s if wanted else times.leave_s
    if now_s - since_s >= wait_s:
        return Latch(on=wanted, unknown=holds is None)
    return Latch(on=latch.on, turning_s=since_s, unknown=latch.unknown)


def _holds(reason: Reason, reading: Reading, limits: Limits, *, on: bool) -> bool | None:
    """Whether the condition of *reason* is met; None where it cannot be measured.  *on*: the reason holds now."""
    match reason:
        case Reason.PAUSED_BY_USER:
            return reading.paused
        case Reason.ON_BATTERY:
            return _on_battery(reading, limits)
        case Reason.BATTERY_LOW:
            return _battery_low(reading, on=on)
        case Reason.CPU_BUSY:
            return _busy(reading.other_cpu_share, limits.busy_share, on=on)
        case Reason.RAM_LOW:
            return _short(reading.free_ram_bytes, limits.min_free_ram_gib * GIB, on=on)
        case Reason.DISK_LOW:
            return _short(reading.free_disk_bytes, limits.min_free_disk_gib * GIB, on=on)


def _on_battery(reading: Reading, limits: Limits) -> bool | None:
    """Whether it runs on battery although its owner does not want that."""
    if limits.on_battery:
        return False
    return None if reading.power is Power.UNKNOWN else reading.power is Power.BATTERY


def _battery_low(reading: Reading, *, on: bool) -> bool:
    """Whether it runs on a battery below 30 %, or still below 80 % after that."""
    if reading.power is not Power.BATTERY or reading.battery_share is None:
        return False  # an unknown charge on battery: ON_BATTERY holds unless the owner allowed battery
    return reading.battery_share < (BATTERY_FULL_SHARE if on else BATTERY_LOW_SHARE)


def _busy(share: float | None, allowed: float, *, on: bool) -> bool | None:
    """Whether other programs use more than *allowed* of the cores, or still more than half of that."""
    if allowed == 1:
        return False
    return None if share is None else share > allowed * (0.5 if on else 1.0)


def _short(free_bytes: int | None, wanted_bytes: float, *, on: bool) -> bool | None:
    """Whether less than *wanted_bytes* is free; a quarter more must be before a shortage ends."""
    if wanted_bytes == 0:
        return False
    return None if free_bytes is None else free_bytes < wanted_bytes * (ROOM if on else 1.0)


def _moment(unix_s: float) -> str:
    """Return a time of day, or what can be said of a moment that no calendar holds."""
    try:
        return time.strftime("%H:%M", time.localtime(unix_s))
    except (OverflowError, OSError, ValueError):
        return "somebody resumes it"
