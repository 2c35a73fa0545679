"""One round trip of an adapter of 18.4 MB in 336 tensors: Potluck, bare gRPC streams of the same bytes, and Flower.

    python benchmarks/transport.py                     # about half a minute, without Flower
    python benchmarks/transport.py --runs 9 --json
    python benchmarks/transport.py --flower PYTHON     # PYTHON: an interpreter that has flwr; a minute or two more

Potluck's side is the real client (a session with its outbox) and a real coordinator in a process of its own, over TLS
on loopback: lease, download of the shared adapter with its SHA-256 checked, encode, fsync, offer, upload, fsync at the
coordinator, signature, decoding, receipt.  Only the trainer is a stand-in: it returns its numbers at once.

The bare side moves the same bytes down and up through two streams of 1 MiB messages, and does nothing else: no disk, no
digest, no signature.  Its server is a process of its own too.  Both sides run alternately, in one go.

Flower's side is its deployment runtime as it comes, with one SuperNode and no TLS, and follows the others: three rounds
in which a ServerApp sends the same 336 float32 arrays and a ClientApp sends back as many.  It stays in its own
environment, because its pins differ: see flower_round.py.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import bare_stream
import potluck_round
import psutil
from bare_stream import bare_channels, bare_trip
from flower_round import Flower, flower_rounds
from potluck_round import contributors, manifest
from timed import Timed, used

FLOWER = "Flower, no TLS"
FLOWER_ROUNDS = 3
NOT_MEASURED = "not measured; name a python that has flwr: --flower PYTHON"


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run one of our own files in another process."""
    made = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield made
    finally:
        made.stdin.close()
        made.wait(60)
        made.stdout.close()


def measure(runs: int, folder: Path, say: Callable[[str], None]) -> dict[str, list[Timed]]:
    """Return the round trips of each side, taken in turn."""
    size = 4 * manifest().values
    found: dict[str, list[Timed]] = {"potluck": [], "bare gRPC, TLS": [], "bare gRPC": []}
    with (
        process(potluck_round.__file__, str(folder / "run"), str(runs + 1)) as host,
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


def row(timed: list[Timed], base_s: float) -> dict[str, float]:
    """Return the medians of one side, and its ratio to *base_s*."""
    wall_s = statistics.median(t.wall_s for t in timed)
    return {
        "wall_s": wall_s,
        "wall_s_best": min(t.wall_s for t in timed),
        "cpu_s": statistics.median(t.cpu_s for t in timed),
        "times_bare_tls": wall_s / base_s,
        "runs": len(timed),
    }


def summary(found: dict[str, list[Timed]]) -> dict[str, object]:
    """Return medians, and ratios to the bare stream over TLS."""
    base_s = statistics.median(timed.wall_s for timed in found["bare gRPC, TLS"])
    stages = [timed.stages_ms for timed in found["potluck"]]
    return {
        "bytes": 4 * manifest().values,
        "tensors": len(manifest().entries),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("grpcio", "protobuf", "numpy")},
        "sides": {name: row(timed, base_s) for name, timed in found.items()},
        "stages_ms": {name: statistics.median(stage[name] for stage in stages) for name in stages[0]},
    }


def measured(asked: argparse.Namespace, say: Callable[[str], None]) -> dict[str, object]:
    """Measure every side, Flower's last, and return the summary with the load before and after."""
    flower = Flower.of(asked.flower) if asked.flower else None
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(max(5, asked.runs), Path(folder), say)
    after = os.getloadavg()[0]
    if flower:
        say(f"{FLOWER_ROUNDS} rounds of Flower {flower.version}")
        found[FLOWER] = flower_rounds(flower, list(manifest().entries), FLOWER_ROUNDS)
    loads = {"load_before": before, "load_before_flower": after, "load_after": os.getloadavg()[0]}
    return summary(found) | loads | {"flower": flower.version if flower else NOT_MEASURED}


def table(found: dict[str, object]) -> Iterator[str]:
    """Yield the lines for a reader."""
    yield f"{found['tensors']} tensors, {found['bytes'] / 1e6:.1f} MB down and up; {found['machine']}"
    yield f"{'':<16}{'wall s':>9}{'best':>9}{'CPU s':>9}{'× bare TLS':>12}{'runs':>6}"
    for name, side in found["sides"].items():
        cells = f"{side['wall_s']:>9.3f}{side['wall_s_best']:>9.3f}{side['cpu_s']:>9.3f}{side['times_bare_tls']:>12.1f}"
        yield f"{name:<16}{cells}{side['runs']:>6}"
    yield "potluck by stage, ms: " + ", ".join(f"{name.lower()} {ms:.0f}" for name, ms in found["stages_ms"].items())
    yield f"Flower: {found['flower']}"
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    loads = ", ".join(f"{found[name]:.1f}" for name in ("load_before", "load_before_flower", "load_after"))
    yield f"{versions}; load before, before Flower, after: {loads}"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="round trips of each side but Flower's, at least 5")
    parser.add_argument("--flower", metavar="PYTHON", help="an interpreter in which flwr is installed")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    asked = parser.parse_args()
    found = measured(asked, lambda words: print(words, file=sys.stderr))
    for line in [json.dumps(found)] if asked.json else table(found):
        print(line)


if __name__ == "__main__":
    main()
