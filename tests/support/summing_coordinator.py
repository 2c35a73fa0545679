"""A real coordinator in a process of its own that stops at some steps until it is told to go on.

python summing_coordinator.py FOLDER RECIPE_JSON PORT [STEP:WHEN ...]

Prints its port once it listens, and each such step when it gets there; a line on its standard input lets it go on.
Ends in good order when its standard input is closed.
"""

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from potluck.coordinator.server import Coordinator
from potluck.coordinator.steps import Step, When
from potluck.wire.recipe import Recipe


@dataclass
class Pauses:
    """Stops at points, once each."""

    points: set[str]
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self, step: Step, when: When) -> None:
        point = f"{step.name}:{when.name}"
        if point in self.points:
            self.points.discard(point)
            print(point, flush=True)  # noqa: T201 - how the test learns that it is there
            self.go.acquire()


def main(folder: str, recipe_json: str, port: str, *points: str) -> None:
    """Host a run until standard input is closed."""
    pauses = Pauses(set(points))
    coordinator = Coordinator.open(Path(folder), Recipe.parse(recipe_json), on_step=pauses)
    print(coordinator.listen(f"127.0.0.1:{port}"), flush=True)  # noqa: T201 - how the test learns the port
    for _ in sys.stdin:
        pauses.go.release()
    coordinator.stop(grace_s=1.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
