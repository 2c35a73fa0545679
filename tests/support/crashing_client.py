"""A real client in a process of its own that can end itself with SIGKILL at a state.

python crashing_client.py FOLDER SEED [STATE WHEN]

Prints how its session ended.
"""

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from fakes import IDLE, QUICK, FakeSensors, FakeTrainer
from potluck.client.clock import SystemClock
from potluck.client.events import Happening, Moved, When
from potluck.client.gate import Power, Reading
from potluck.client.home import Home
from potluck.client.outbox.store import Outbox
from potluck.client.records import Control
from potluck.client.session import Around, Session
from potluck.client.tasks import TaskState

BATTERY = replace(IDLE, power=Power.BATTERY, battery_share=0.9)


@dataclass
class Killer:
    """Ends this process when *state* is entered, on the side *when* of its transaction."""

    state: TaskState
    when: When

    def __call__(self, state: TaskState, when: When) -> None:
        if (state, when) == (self.state, self.when):
            os.kill(os.getpid(), signal.SIGKILL)


def never(state: TaskState, when: When) -> None:
    """Let every state pass."""


@dataclass
class Unplugged:
    """Sensors of a machine on battery for a few looks, once training has begun: the gate shuts once."""

    looks: int = 0

    def read(self, control: Control) -> Reading:
        self.looks -= self.looks > 0
        return FakeSensors(BATTERY if self.looks else IDLE).read(control)


def main(folder: str, seed: str, *at: str) -> None:
    """Run one session."""
    home, sensors = Home.at(Path(folder) / "home"), Unplugged()
    outbox = Outbox.open(home.outbox)

    def on_event(happening: Happening) -> None:
        if at and at[0] == "SUSPENDED" and isinstance(happening, Moved) and happening.state is TaskState.TRAINING:
            sensors.looks = 3
            session.lookout.look()

    around = Around(
        clock=SystemClock(),
        sensors=lambda _home, _clock: sensors,
        patience=QUICK,
        tick_s=0.01,
        seed=int(seed),
        on_event=on_event,
        on_state=Killer(TaskState[at[0]], When[at[1]]) if at else never,
    )
    trainer = FakeTrainer(int(seed), fails=int(bool(at) and at[0] == "ABANDONED"))
    session = Session(home, outbox, trainer, around)
    print(session.run().ending.name, flush=True)  # noqa: T201 - how the test learns how it ended
    outbox.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
