"""The passes of a large round as Ray tasks, on a laptop or a cluster."""

import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar, final

import grpc
import ray

from potluck.aggregation.errors import BadSetting

LOCAL: Final = "local"
"""The address that stands for a cluster of this machine's own."""
MOVE: Final = "put the environment in a folder without a space, or connect to a cluster that runs: --ray-address"
ANSWER_S: Final = 5.0
START: Final = "start one with: ray start --head; then give its host:port, or auto on the same machine"
Block = TypeVar("Block")
Result = TypeVar("Result")


@final
@dataclass(frozen=True, slots=True)
class RayMap:
    """Runs the passes of `aggregate` as Ray tasks; hand it over as `mapped`.

    A task is one module (or a few) of all updates, so what travels is a description of the round, and back come that
    module's next master and inner products.  Results are taken in the order of the modules and added in that order,
    and every task uses one BLAS thread as the local pass does, so the bits are those of a round without Ray on the
    same kind of machine.  The updates must be readable where the tasks run: StoredUpdates over a shared folder.
    """

    in_flight: int
    """Tasks that may run or wait at a time; bounds what the results of finished ones hold."""

    def __call__(self, task: Callable[[Block], Result], blocks: Iterable[Block], /) -> Iterator[Result]:
        """Yield task(block) for every block, in their order."""
        shipped = ray.put(task)
        running: deque[ray.ObjectRef] = deque()
        for block in blocks:
            if len(running) >= self.in_flight:
                yield ray.get(running.popleft())
            running.append(_run.remote(shipped, block))
        while running:
            yield ray.get(running.popleft())


@ray.remote(num_cpus=1)
def _run(task: Callable[[Block], Result], block: Block) -> Result:
    return task(block)


@contextmanager
def ray_map(address: str | None = None) -> Iterator[RayMap]:
    """Connect to the Ray cluster at *address*, or start one on this machine; end what was started.

    Raises:
        BadSetting: nothing answers at *address*.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its workers see the devices that we see
    env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if address is None:
        if " " in sys.executable:
            raise BadSetting(f"Ray cannot start workers with {sys.executable!r}, whose path has a space", fix=MOVE)
        env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # its tasks import what we can
    else:
        answers(address)
    try:
        ray.init(address=address, runtime_env={"env_vars": env}, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadSetting(f"no Ray cluster could be used at {address or 'this machine'}: {error}", fix=START) from None
    try:
        yield RayMap(in_flight=2 * max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()


def answers(address: str) -> None:
    """Refuse an address at which nothing listens, or something else than Ray: Ray itself would wait for minutes.

    Raises:
        BadSetting: it is not host:port, or no gRPC server without TLS answers, as a cluster's head is one.
    """
    at = address.removeprefix("ray://")
    host, _, port = at.rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
        with grpc.insecure_channel(at) as channel:
            grpc.channel_ready_future(channel).result(ANSWER_S)
    except grpc.FutureTimeoutError:
        raise BadSetting(f"what listens at {address} is no Ray cluster", fix=START) from None
    except (OSError, ValueError) as error:
        raise BadSetting(f"no Ray cluster answers at {address}: {error}", fix=START) from None
