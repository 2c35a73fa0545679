"""One sum of secure.py, and the coordinator's half of it, which is a process of its own."""

import hashlib
import mmap
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.coordinator.secure.sums import SecureSum, Site
from potluck.wire.secure.messages import Step
from potluck.wire.secure.parameters import Parameters, Terms
from potluck.wire.secure.registers import Certified

MOMENTS: Final = (Step.ADVERTISE, Step.SHARE, Step.MASK, Step.AGREE)
"""The last step that those who drop out answer."""
RUN: Final = "benchmark"
ADAPTER: Final = bytes(32)
COORDINATOR: Final = Ed25519PrivateKey.from_private_bytes(b"\xc0" * 32)
COORDINATOR_KEY: Final = COORDINATOR.public_key().public_bytes_raw()
REGISTER: Final = Certified(COORDINATOR_KEY, RUN)
BITS, CLIP, SMALLEST = 24, 1.0, 10


@dataclass(frozen=True, slots=True)
class Case:
    """One sum."""

    clients: int
    size: int
    drops: int
    moment: Step

    @property
    def parameters(self) -> Parameters:
        """What it is about."""
        terms = Terms(RUN, 0, bytes(32), bytes(32), self.size, BITS, CLIP, self.clients, SMALLEST)
        nonce = hashlib.sha256(repr(self).encode()).digest()
        return Parameters(terms, (ADAPTER,), (60, 20, 150, 15, 20), nonce)

    def answers(self, number: int, step: Step) -> bool:
        """Whether that client says anything in *step*: the first ones drop out, whose places are anywhere."""
        return number >= self.drops or step <= self.moment

    @property
    def summed(self) -> range:
        """The clients whose updates are in the sum."""
        return range(0 if self.moment >= Step.MASK else self.drops, self.clients)


@dataclass(slots=True)
class Served:
    """What the coordinator's half used."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    """By step, and of its closing."""
    peak_mib: float = 0.0
    """Largest resident size, less that of the interpreter with its imports."""
    digest: bytes = b""
    suspects: int = 0


def peak_mib() -> float:
    """Return the largest resident size of this process so far; getrusage would tell that of its parent, if larger."""
    (line,) = [one for one in Path("/proc/self/status").read_text("ascii").splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def serve(line: Connection, case: Case, folder: Path) -> None:
    """Be the coordinator's half of *case*, until it has said what it used."""
    machine, before, used = SecureSum(case.parameters, Site(COORDINATOR, REGISTER)), peak_mib(), Served()
    while (call := line.recv()) is not None:
        what, step, *facts = call
        began = time.process_time()
        if what == "take":
            key, message, path = facts
            machine.take(step, key, message, None if path is None else mapped(path))
            answer: Any = None
        else:
            answer = machine.close().name if what == "close" else machine.message(step, *facts)
        name = f"{step.name} {what}"
        used.cpu_s[name] = used.cpu_s.get(name, 0.0) + time.process_time() - began
        line.send(answer)
    used.peak_mib = peak_mib() - before
    result = machine.result()
    used.digest, used.suspects = result.digest, len(result.suspects)
    result.total.tofile(folder / "total")
    line.send(used)


def mapped(path: Path) -> memoryview:
    """Return the bytes of a file."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
