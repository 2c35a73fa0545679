"""One round trip of an adapter of 18.4 MB in 336 tensors: Potluck, beside a bare gRPC stream of the same bytes.

    python benchmarks/transport.py            # about half a minute
    python benchmarks/transport.py --runs 9 --json

Potluck's side is the real client (a session with its outbox) and a real coordinator in a process of its own, over TLS
on loopback: lease, download of the shared adapter with its SHA-256 checked, encode, fsync, offer, upload, fsync at the
coordinator, signature, decoding, receipt.  Only the trainer is a stand-in: it returns its numbers at once.

The bare side moves the same bytes down and up through two streams of 1 MiB messages, and does nothing else: no disk, no
digest, no signature.  Its server is a process of its own too.  Both sides run alternately, in one go.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import bare_stream
import numpy as np
import psutil
from bare_stream import bare_channels, bare_trip

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


@dataclass(frozen=True, slots=True)
class Timed:
    """One round trip."""

    wall_s: float
    cpu_s: float
    """Of both processes."""
    stages_ms: dict[str, float] = field(default_factory=dict)


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


# -- Potluck -------------------------------------------------------------------------------------------------------


class Instant:
    """A trainer that has its numbers ready."""

    def __init__(self, whole: Recipe) -> None:
        rng = np.random.default_rng(0)
        manifest = Manifest.of_update(whole.modules(), RANK)
        self._deltas = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in manifest.entries}

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


def used(other: psutil.Process) -> float:
    """Return the processor seconds that this process and *other* have used."""
    times = other.cpu_times()
    return time.process_time() + times.user + times.system


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
    trainer = Instant(recipe(1))
    for number in range(count):
        made = Contributor(Home.at(folder / f"client {number}"), trainer)
        made.enrol(token)
        yield made


# -- both ----------------------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run one of our own files in another process."""
    made = subprocess.Popen(  # noqa: S603 - a file beside this one, and numbers
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield made
    finally:
        made.stdin.close()
        made.wait(60)
        made.stdout.close()


def measure(runs: int, folder: Path, say: Callable[[str], None]) -> dict[str, list[Timed]]:
    """Return the round trips of each side, taken in turn."""
    whole = recipe(runs + 1)
    size = 4 * Manifest.of_update(whole.modules(), RANK).values
    found: dict[str, list[Timed]] = {"potluck": [], "bare gRPC, TLS": [], "bare gRPC": []}
    with (
        process(__file__, "--coordinator", str(folder / "run"), str(runs + 1)) as host,
        process(bare_stream.__file__, str(size), str(folder)) as bare,
    ):
        token, ports = host.stdout.readline().strip(), bare.stdout.readline().split()
        hosting, serving = psutil.Process(host.pid), psutil.Process(bare.pid)
        say(f"{runs + 1} clients make version 1, so that there is an adapter to download")
        clients = list(contributors(folder, runs + 1, token))
        for client in clients:
            client.round_trip(hosting)
        print(1, file=host.stdin, flush=True)
        if host.stdout.readline().strip() != "True":
            raise RuntimeError("version 1 was not made")
        channels = bare_channels(folder, ports)
        data = os.urandom(size)
        for number, client in enumerate(clients[:runs]):  # one short of a cohort: nothing is combined meanwhile
            say(f"round trip {number + 1} of {runs}")
            found["potluck"].append(client.round_trip(hosting))
            for name, channel in channels.items():
                found[name].append(Timed(*bare_trip(channel, data, lambda: used(serving))))
        for channel in channels.values():
            channel.close()
    return found


def summary(found: dict[str, list[Timed]]) -> dict[str, object]:
    """Return medians, and ratios to the bare stream over TLS."""
    base = statistics.median(timed.wall_s for timed in found["bare gRPC, TLS"])
    rows = {
        name: {
            "wall_s": statistics.median(t.wall_s for t in timed),
            "wall_s_best": min(t.wall_s for t in timed),
            "cpu_s": statistics.median(t.cpu_s for t in timed),
            "times_bare_tls": statistics.median(t.wall_s for t in timed) / base,
            "runs": len(timed),
        }
        for name, timed in found.items()
    }
    stages = [t.stages_ms for t in found["potluck"]]
    return {
        "bytes": 4 * Manifest.of_update(recipe(1).modules(), RANK).values,
        "tensors": 2 * LAYERS * len(MODULES),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "sides": rows,
        "stages_ms": {name: statistics.median(s[name] for s in stages) for name in stages[0]},
        "flower": "not installed here" if find_spec("flwr") is None else "installed; see benchmarks of the simulations",
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="round trips of each side, at least 5")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--coordinator", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.coordinator:
        return serve_coordinator(*asked.coordinator)
    with tempfile.TemporaryDirectory() as folder:
        found = summary(measure(max(5, asked.runs), Path(folder), lambda words: print(words, file=sys.stderr)))
    if asked.json:
        return print(json.dumps(found))
    print(f"{found['tensors']} tensors, {found['bytes'] / 1e6:.1f} MB down and up; {found['machine']}")
    print(f"{'':<16}{'wall s':>9}{'best':>9}{'CPU s':>9}{'× bare TLS':>12}")
    for name, row in found["sides"].items():
        print(
            f"{name:<16}{row['wall_s']:>9.3f}{row['wall_s_best']:>9.3f}{row['cpu_s']:>9.3f}{row['times_bare_tls']:>12.1f}"
        )
    print("potluck by stage, ms: " + ", ".join(f"{name.lower()} {ms:.0f}" for name, ms in found["stages_ms"].items()))
    print(f"Flower's runtime: {found['flower']}")
    return None


if __name__ == "__main__":
    main()
