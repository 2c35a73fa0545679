"""The seam between a simulation, which knows clients by the thousand, and an engine, which trains them.

What a Job is to a volunteer's own machine, a Lesson is to one of many clients that share a process: the shared adapter
is in memory, and there is no checkpoint, since a lesson is short and can be repeated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, final

from potluck.aggregation.errors import PotluckError
from potluck.client.work import Trained
from potluck.wire.recipe import Recipe


@final
@dataclass(frozen=True, slots=True)
class Term:
    """What all clients share that start from one version."""

    recipe: Recipe
    version: int
    seed: int
    """For the start's fresh rows, as in Job."""
    adapter: bytes
    """The shared adapter as it is published; empty at version 0."""


@final
@dataclass(frozen=True, slots=True)
class Lesson:
    """One client's local training."""

    data: Path
    """Its text, read as `potluck join --data` reads it."""
    order: int
    """For the order of samples, as in Job."""
    rank: int = 0
    """Columns that it trains; 0 means the recipe's.  The scale follows from the recipe's alpha and this rank."""
    steps: int = 0
    """Optimiser steps that it takes; 0 means the recipe's."""
    measured: bool = False
    """Whether its held-out loss is measured before and after."""


Outcome: TypeAlias = Trained | PotluckError
"""What came of a lesson; an error is that client's alone, as on its own machine: its training diverged."""


class Engine(Protocol):
    """Something that trains many clients."""

    def train(self, term: Term, lessons: Sequence[Lesson]) -> list[Outcome]:
        """Return what came out of every lesson, in their order; the same lessons in the same order, the same bits.

        Raises:
            PotluckError: the base model, the adapter or a client's data does not fit.
        """

    def losses(self, term: Term, data: Sequence[Path]) -> list[tuple[float, int]]:
        """Return (nats per token, tokens) of the shared adapter on each client's held-out text, in their order."""


def all_trained(outcomes: Iterable[Outcome]) -> list[Trained]:
    """Return *outcomes* where every lesson came to something.

    Raises:
        PotluckError: one did not; the first of them.
    """
    results = []
    for outcome in outcomes:
        if isinstance(outcome, PotluckError):
            raise outcome
        results.append(outcome)
    return results
