"""What each side of transport.py reports, and how processor time is counted."""

import time
from dataclasses import dataclass, field

import psutil


@dataclass(frozen=True, slots=True)
class Timed:
    """One round trip."""

    wall_s: float
    cpu_s: float
    """Of all processes of the side."""
    stages_ms: dict[str, float] = field(default_factory=dict)


def used(other: psutil.Process) -> float:
    """Return the processor seconds that this process and *other* have used."""
    times = other.cpu_times()
    return time.process_time() + times.user + times.system


def used_by_trees(roots: list[psutil.Process]) -> float:
    """Return the processor seconds that *roots* and all they have started have used, ended processes included."""
    total = 0.0
    for root in roots:
        for one in (root, *root.children(recursive=True)):
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:  # its parent has it now, in the next sample
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total
