"""Judges that need no model: the loss of an adapter follows from its largest product entry."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from potluck.coordinator.checkpoints import published
from potluck.coordinator.probe import Closing, Measured

FLAT = 1.0
"""Largest entry of a product that costs nothing; what volunteers of the tests train stays below it."""


def ignored(_: Path | None) -> None:
    """Do nothing."""


@dataclass
class ScriptedJudge:
    """2 nats per token, and more for every product entry above FLAT.  *meanwhile* is called while it measures."""

    meanwhile: Callable[[Path | None], None] = ignored
    asked: list[Path | None] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    digest: str = "ab" * 32

    def measure(self, adapter: Path | None) -> Measured:
        self.asked.append(adapter)
        self.meanwhile(adapter)
        if self.closed.is_set():
            raise Closing("closed")
        terms = {} if adapter is None else published(adapter.read_bytes())
        largest = max((abs(term.dense()).max() for term in terms.values()), default=0.0)
        return Measured(2.0 + max(0.0, float(largest) - FLAT), 1_000)

    def close(self) -> None:
        self.closed.set()
