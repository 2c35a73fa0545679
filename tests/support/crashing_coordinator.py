"""A real coordinator, with a probe, in a process of its own that can end itself with SIGKILL at a step.

python crashing_coordinator.py FOLDER RECIPE_JSON PORT [STEP WHEN NTH]

Prints its port once it listens.  Ends in good order when its standard input is closed.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from judges import ScriptedJudge
from potluck.coordinator.probe import Probe
from potluck.coordinator.server import Coordinator
from potluck.coordinator.steps import Step, When
from potluck.wire.recipe import Recipe


@dataclass
class Killer:
    """Ends this process the *nth* time that a step is reached."""

    step: Step
    when: When
    nth: int

    def __call__(self, step: Step, when: When) -> None:
        if (step, when) == (self.step, self.when):
            self.nth -= 1
            if self.nth == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def never(step: Step, when: When) -> None:
    """Let every step pass."""


def main(folder: str, recipe_json: str, port: str, *at: str) -> None:
    """Host a run until standard input is closed."""
    on_step = Killer(Step[at[0]], When[at[1]], int(at[2])) if at else never
    coordinator = Coordinator.open(
        Path(folder), Recipe.parse(recipe_json), on_step=on_step, probe=Probe(ScriptedJudge())
    )
    print(coordinator.listen(f"127.0.0.1:{port}"), flush=True)  # noqa: T201 - how the test learns the port
    sys.stdin.read()
    coordinator.stop(grace_s=1.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
