"""What trains a simulation's clients: an engine in this process, or one in each worker of a cluster."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from potluck.client.lessons import Engine, Lesson, Outcome, Term


class Fleet(Protocol):
    """Engines that share the work of a run."""

    @property
    def cpu_s(self) -> float:
        """CPU-seconds that work took in other processes than this one."""

    def train(self, term: Term, groups: Sequence[Sequence[Lesson]]) -> Iterator[list[Outcome]]:
        """Yield what came out of each of *groups*, in their order; which worker trains one changes no bit.

        Raises:
            PotluckError: the base model, the adapter or a client's data does not fit.
        """

    def losses(self, term: Term, groups: Sequence[Sequence[Path]]) -> Iterator[list[tuple[float, int]]]:
        """Yield (nats per token, tokens) of the shared adapter on each client's held-out text, group by group."""


@final
@dataclass(frozen=True, slots=True)
class LocalFleet:
    """One engine, here."""

    engine: Engine
    cpu_s: float = 0.0

    def train(self, term: Term, groups: Sequence[Sequence[Lesson]]) -> Iterator[list[Outcome]]:
        return (self.engine.train(term, group) for group in groups)

    def losses(self, term: Term, groups: Sequence[Sequence[Path]]) -> Iterator[list[tuple[float, int]]]:
        return (self.engine.losses(term, group) for group in groups)
