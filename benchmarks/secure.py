"""Secure sums with dropouts: bit for bit NumPy's sum of the survivors, and what each side of one costs.

    python benchmarks/secure.py --out docs/secure.json                              # 100 and 128 clients: half an hour
    python benchmarks/secure.py --clients 16 --size 20000 --drops 4                 # seconds

All clients are real ones, one after the other in this process, each with an update of its own that it clips, rounds
and masks itself.  The coordinator's half is a process of its own, so that its memory can be told from theirs; it takes
each masked vector from a file, as a coordinator does.  Some clients answer nothing after a step: after ADVERTISE,
SHARE, MASK or AGREE.  Before ADVERTISE they would only make a smaller cohort, and after UNMASK they have said all.
The sum is compared with one that NumPy adds up from the clients' numbers before they are masked.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secure_serving import (
    ADAPTER,
    BITS,
    CLIP,
    COORDINATOR,
    COORDINATOR_KEY,
    MOMENTS,
    REGISTER,
    RUN,
    Case,
    Served,
    serve,
)

from potluck.aggregation.secure.lanes import told, vector_size, with_lanes
from potluck.aggregation.secure.ring import Words, clipped, quantised
from potluck.aggregation.secure.thresholds import threshold
from potluck.client.secure.participation import Outgoing, Participation, Standing
from potluck.client.secure.policy import Policy
from potluck.client.secure.used import UsedFile
from potluck.wire.secure.messages import Step
from potluck.wire.secure.registers import certificate


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table."""

    clients: int
    size: int
    drops: int
    after: str
    threshold: int
    summed: int
    exact: bool
    client_cpu_s: float
    """Median of all who went through to the end; clipping and rounding included."""
    client_cpu_most_s: float
    client_by_step_s: dict[str, float]
    server_cpu_s: float
    server_by_step_s: dict[str, float]
    server_peak_mib: float
    up_bytes: int
    """Most that one client sent, its vector included."""
    up_besides_bytes: int
    """Without the vector."""
    down_bytes: int
    wall_s: float
    load: float


@contextmanager
def served(case: Case, folder: Path) -> Iterator[Connection]:
    """Start the coordinator's half."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, case, folder))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


@dataclass(slots=True)
class Client:
    """One client, and what it used and sent."""

    number: int
    key: bytes
    part: Participation
    cpu_s: dict[str, float]
    up: int = 0
    vector: int = 0
    down: int = 0


def words_of(case: Case, number: int) -> tuple[Words, float]:
    """Return the update of a client in whole numbers, lanes behind it, and the processor seconds that clipping took."""
    rng = np.random.default_rng([number, case.clients, case.moment])
    update = rng.standard_normal(case.size, np.float32) / np.float32(np.sqrt(case.size))
    ring, began = case.parameters.terms.ring, time.thread_time()
    vector, was_cut = clipped(update, CLIP)
    lanes = told(1, number, clipped=was_cut, loss=None)
    words = with_lanes(quantised(vector, ring, np.random.default_rng()), lanes, ring, 1)
    return words, time.thread_time() - began


def clients_of(case: Case, folder: Path) -> tuple[list[Client], Words]:
    """Return all clients, and the plain sum of the updates that are to be summed."""
    terms = case.parameters.terms
    made, plain = [], np.zeros(vector_size(terms.ring, 1), np.uint32)
    for number in range(case.clients):
        words, layer_s = words_of(case, number)
        if number in case.summed:
            plain += words
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"client %d" % number).digest())
        public = key.public_key().public_bytes_raw()
        standing = Standing(key, certificate(COORDINATOR, RUN, public), REGISTER, UsedFile(folder / f"{number}.txt"))
        part = Participation(standing, Policy(terms, ADAPTER, COORDINATOR_KEY), words, b"update %d" % number)
        made.append(Client(number, public, part, {"clip and round": layer_s}))
    return made, plain & np.uint32(2**BITS - 1)


def asked(line: Connection, *call: object) -> Any:
    """Ask the coordinator's half and return its answer."""
    line.send(call)
    return line.recv()


def answer(client: Client, line: Connection, step: Step) -> Outgoing | None:
    """Let a client take the coordinator's message of *step* and answer it."""
    message = asked(line, "message", step, client.key)
    began = time.thread_time()
    outgoing = client.part.take(step, message)
    client.cpu_s[step.name] = time.thread_time() - began
    client.down += len(message)
    return outgoing


def advance(case: Case, clients: Sequence[Client], line: Connection, step: Step, folder: Path) -> None:
    """Let all who are still here say what *step* asks for."""
    for client in clients:
        if not case.answers(client.number, step):
            continue
        said = answer(client, line, Step(step - 1))
        if said is None:
            raise RuntimeError(f"client {client.number} has nothing to say in {step.name}")
        path = None
        if said.vector is not None:
            path, client.vector = folder / "vector", said.vector.nbytes
            said.vector.tofile(path)
        asked(line, "take", step, client.key, said.message, path)
        client.up += len(said.message)
    if asked(line, "close", step) == "ENDED":
        raise RuntimeError(f"too few are left in {step.name}: at most a quarter to a third may drop out")


def is_exact(plain: Words, used: Served, folder: Path, case: Case) -> bool:
    """Whether the sum that came out is *plain*, by its hash and number by number."""
    low = np.ascontiguousarray(plain.view(np.uint8).reshape(-1, 4)[:, : BITS // 8])
    signed = (plain << np.uint32(32 - BITS)).view(np.int32) >> (32 - BITS)
    total = np.fromfile(folder / "total")
    return used.digest == hashlib.sha256(low.data).digest() and np.array_equal(
        total, signed[: case.size] * case.parameters.terms.ring.step
    )


def measured(case: Case) -> Measured:
    """Go through one sum."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clients, plain = clients_of(case, folder)
        with served(case, folder) as line:
            for step in list(Step)[1:]:
                advance(case, clients, line, step, folder)
            whole = [client for client in clients if case.answers(client.number, Step.UNMASK)]
            for client in whole:
                answer(client, line, Step.UNMASK)
            line.send(None)
            used: Served = line.recv()
        exact = is_exact(plain, used, folder, case)
    totals = [sum(client.cpu_s.values()) for client in whole]
    return Measured(
        clients=case.clients,
        size=case.size,
        drops=case.drops,
        after=case.moment.name,
        threshold=threshold(case.clients, "1/3"),
        summed=len(case.summed),
        exact=exact and all(client.part.end is not None for client in whole),
        client_cpu_s=statistics.median(totals),
        client_cpu_most_s=max(totals),
        client_by_step_s={step: statistics.median(one.cpu_s[step] for one in whole) for step in whole[0].cpu_s},
        server_cpu_s=sum(used.cpu_s.values()),
        server_by_step_s=used.cpu_s,
        server_peak_mib=used.peak_mib,
        up_bytes=max(client.up + client.vector for client in whole),
        up_besides_bytes=max(client.up for client in whole),
        down_bytes=max(client.down for client in whole),
        wall_s=time.monotonic() - began,
        load=os.getloadavg()[0],
    )


def line_of(row: Measured) -> str:
    """Return the line of the table that docs/benchmarks.md has."""
    return (
        f"| {row.clients} | {row.after} | {row.summed} | {'yes' if row.exact else 'NO'} | {row.client_cpu_s:.2f} "
        f"| {row.client_cpu_most_s:.2f} | {row.server_cpu_s:.1f} | {row.server_peak_mib:.0f} "
        f"| {row.up_besides_bytes:,} | {row.down_bytes:,} |"
    )


def main() -> None:
    """Measure all cases, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 128])
    parser.add_argument("--size", type=int, default=5_000_000, help="numbers in an update")
    parser.add_argument("--drops", type=int, default=30, help="clients that drop out")
    parser.add_argument("--after", nargs="+", choices=[step.name for step in MOMENTS], help="all moments, if not given")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    wanted = parser.parse_args()
    moments = [step for step in MOMENTS if wanted.after is None or step.name in wanted.after]
    print("| clients | drop out after | summed | exact | client, CPU-s | at most | server, CPU-s | MiB | up | down |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for count in wanted.clients:
        for moment in moments:
            rows.append(measured(Case(count, wanted.size, wanted.drops, moment)))
            print(line_of(rows[-1]), flush=True)
            if wanted.out is not None:  # after every line: the next one may take minutes
                machine = {"machine": platform.platform(), "cores": os.cpu_count(), "numpy": np.__version__}
                told = machine | {"sums": [asdict(row) for row in rows]}
                wanted.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
