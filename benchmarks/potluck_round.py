"""Potluck's side of transport.py: clients that have their numbers ready, and a coordinator in another process.

Run as a program it is the coordinator: python benchmarks/potluck_round.py FOLDER COHORT
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from timed import Timed, used

from potluck.client.clock import SystemClock
from potluck.client.events import Happening, Moved, Received
from potluck.client.gate import Power, Reading
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.join import enrol
from potluck.client.link import Alone, Link
from potluck.client.outbox.store import Outbox
from potluck.client.preflight import Preflight, Site
from potluck.client.session import Around, Session
from potluck.client.work import Job, Trained
from potluck.coordinator.server import Coordinator
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import Manifest

LAYERS, RANK, HIDDEN, NARROW, WIDE = 24, 16, 704, 176, 1760
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (NARROW, HIDDEN),
    "self_attn.v_proj": (NARROW, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDE, HIDDEN),
    "mlp.up_proj": (WIDE, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDE),
}
IDLE = Reading(Power.MAINS, None, 0.0, 1 << 40, 1 << 40)


def recipe(cohort: int) -> Recipe:
    """Return the recipe: fp32, so that an update and the adapter have the same size."""
    return Recipe.parse(
        json.dumps(
            {
                "run": {"name": "transport"},
                "model": {
                    "base": "none/none",
                    "digest": "ab" * 32,
                    "modules": {f"layers.{{0..{LAYERS - 1}}}.{name}": sides for name, sides in MODULES.items()},
                },
                "adapter": {"rank": RANK},
                "aggregation": {"cohort": cohort, "minimum": 1, "master_rank": RANK},
                "codec": {"name": "fp32"},
                "limits": {"poll_min_s": 0.05, "poll_max_s": 1.0},
            }
        )
    )


def manifest() -> Manifest:
    """Return the names and shapes of an update, which are those of the shared adapter too."""
    return Manifest.of_update(recipe(1).modules(), RANK)


class Instant:
    """A trainer that has its numbers ready."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._deltas = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in manifest().entries}

    def prepare(self, job: Job) -> None:
        """Find that all fits."""

    def train(self, _job: Job, _on_step: object) -> Trained:
        """Return the numbers."""
        return Trained(self._deltas, examples=8, steps=1, tokens=1)


@dataclass
class Contributor:
    """A client in a home of its own."""

    home: Home
    trainer: Instant

    def enrol(self, token: str) -> None:
        """Join with everything said yes to."""
        site = Site(
            SystemClock(),
            lambda invitation: Link(invitation, Alone(), np.random.default_rng(0)),
            IDLE,
            self.home.folder,
            lambda _path, _recipe: 8,
        )
        preflight = Preflight(token, site)
        list(preflight)
        outbox = Outbox.open(self.home.outbox)
        enrol(preflight, preflight.card(), "", outbox, identity_at(self.home.key))
        outbox.close()

    def round_trip(self, coordinator: psutil.Process) -> Timed:
        """Run a session until its first receipt; time it from the lease to the receipt."""
        marks: list[tuple[str, float]] = []
        cpu: list[float] = []

        def on_event(happening: Happening) -> None:
            if isinstance(happening, Moved):
                marks.append((happening.state.name, time.perf_counter()))
                if len(marks) == 1:
                    cpu.append(used(coordinator))
            if isinstance(happening, Received):
                marks.append(("DONE", time.perf_counter()))
                cpu.append(used(coordinator))
                session.stop()

        outbox = Outbox.open(self.home.outbox)
        around = Around(sensors=lambda _home, _clock: Awake(), on_event=on_event, seed=0)
        session = Session(self.home, outbox, self.trainer, around)
        session.run()
        outbox.close()
        stages = {b: 1_000 * (t - s) for (_, s), (b, t) in pairwise(marks)}
        return Timed(marks[-1][1] - marks[0][1], cpu[1] - cpu[0], stages)


class Awake:
    """Sensors of a machine that has nothing else to do."""

    def read(self, _control: object) -> Reading:
        """Say so."""
        return IDLE


def serve_coordinator(folder: str, cohort: str) -> None:
    """Host the run until standard input is closed."""
    coordinator = Coordinator.open(Path(folder), recipe(int(cohort)))
    port = coordinator.listen("127.0.0.1:0")
    print(coordinator.invite([f"127.0.0.1:{port}"], 1_000), flush=True)
    for line in sys.stdin:
        print(coordinator.wait_for_version(int(line), 120), flush=True)
    coordinator.stop()


def contributors(folder: Path, count: int, token: str) -> Iterator[Contributor]:
    """Yield enrolled clients."""
    trainer = Instant()
    for number in range(count):
        made = Contributor(Home.at(folder / f"client {number}"), trainer)
        made.enrol(token)
        yield made


if __name__ == "__main__":
    serve_coordinator(*sys.argv[1:])
