"""A real client of a run with secure sums, in a process of its own, that can end itself with SIGKILL.

python summing_client.py FOLDER SEED [STATE WHEN | UPLOAD]

Prints how its session ended.  UPLOAD: in the middle of its masked update.
"""

import os
import signal
import sys
from pathlib import Path

from crashing_client import Killer, never
from fakes import IDLE, QUICK, FakeSensors
from potluck.client.clock import SystemClock
from potluck.client.events import Happening, Phase, Progressed, When
from potluck.client.home import Home
from potluck.client.outbox.store import Outbox
from potluck.client.session import Around, Session
from potluck.client.tasks import TaskState
from summing import GridTrainer


def main(folder: str, seed: str, *at: str) -> None:
    """Run one session."""
    home = Home.at(Path(folder) / "home")
    outbox = Outbox.open(home.outbox)

    def on_event(happening: Happening) -> None:
        if at == ("UPLOAD",) and isinstance(happening, Progressed) and happening.phase is Phase.UPLOAD:
            os.kill(os.getpid(), signal.SIGKILL)

    around = Around(
        clock=SystemClock(),
        sensors=lambda _home, _clock: FakeSensors(IDLE),
        patience=QUICK,
        tick_s=0.2,
        seed=int(seed),
        on_event=on_event,
        on_state=Killer(TaskState[at[0]], When[at[1]]) if len(at) > 1 else never,
    )
    session = Session(home, outbox, GridTrainer(int(seed)), around)
    print(session.run().ending.name, flush=True)  # noqa: T201 - how the test learns how it ended
    outbox.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
