"""Who counted for less than it claimed, and why."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from potluck.simulations.reports.runs import Run
from potluck.simulations.rows import UpdateRow

ENOUGH_LESS: Final = 0.05
"""Of what it claimed: a client that lost less is not called weighted down."""


@final
@dataclass(frozen=True, slots=True)
class Weighed:
    """What a client's combined updates claimed and what they counted, over the whole run."""

    client: str
    device: str
    hostile: bool
    updates: int
    claimed: float
    """Sum of its shares, in rounds: 1 is one whole round."""
    counted: float
    """Sum of its weights, in rounds."""
    reason: str
    """The commonest that was given; empty if none was."""

    @property
    def lost(self) -> float:
        """Share of what it claimed that it did not count; negative where others' loss made it count for more."""
        return 1 - self.counted / self.claimed if self.claimed else 0.0


def combined(run: Run) -> tuple[UpdateRow, ...]:
    """Return the updates that a round combined: those with a share and a weight."""
    return tuple(row for row in run.updates if not math.isnan(row.share) and not math.isnan(row.weight))


def weighed(run: Run) -> list[Weighed]:
    """Return every client with a combined update, who lost most of what it claimed first."""
    devices = {row.client: row.device for row in run.clients}
    mine: dict[str, list[UpdateRow]] = defaultdict(list)
    for row in combined(run):
        mine[row.client].append(row)
    found = [
        Weighed(
            client,
            devices.get(client, ""),
            any(row.hostile for row in rows),
            len(rows),
            math.fsum(row.share for row in rows),
            math.fsum(row.weight for row in rows),
            commonest(row.reason for row in rows if row.reason),
        )
        for client, rows in mine.items()
    ]
    return sorted(found, key=lambda each: (-each.lost, each.client))


def weighed_down(run: Run) -> list[Weighed]:
    """Return the clients that lost more than a twentieth of what they claimed, or were given a reason."""
    return [each for each in weighed(run) if each.lost > ENOUGH_LESS or each.reason]


def commonest(reasons: Iterable[str]) -> str:
    """Return the commonest of *reasons*, the first in the alphabet of several; empty if there are none."""
    counts = Counter(reasons)
    return min(counts, key=lambda reason: (-counts[reason], reason), default="")
