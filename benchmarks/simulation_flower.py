"""Flower's side of simulation.py: its simulation engine on Ray, with FedAvg and a client app that trains by hand.

The client app is what Flower's LoRA examples do, at its thriftiest: a PEFT model that a Ray actor loads once and keeps,
a plain loop with torch's AdamW, no evaluation.  Two settings are what cost it least when this was written: one actor
for the whole machine (two cores took a tenth more CPU time with an actor each), and the adapter travels as one array
(32 arrays took a twentieth more).

This is a module and not a script, so that Ray's workers import it and a model stays where it was loaded.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from simulation_base import CLIP, WORKLOADS, Workload, adapted, counted, rows_of
from timed import used_by_trees

QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
ASKED: Final = ("POTLUCK_WORKLOAD", "POTLUCK_BASE")
"""What a worker is to train and on which base, in its environment."""


@lru_cache(maxsize=1)
def resident() -> tuple[Any, list[torch.nn.Parameter], list[torch.Tensor]]:
    """Return the model of this actor, what is trained of it, and every client's rows."""
    name, base = (os.environ[each] for each in ASKED)
    torch.set_num_threads(1)
    model = adapted(base, WORKLOADS[name]).train()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, learned, [torch.from_numpy(rows) for rows in rows_of(WORKLOADS[name])]


def packed(learned: Sequence[torch.nn.Parameter]) -> NDArray[np.float32]:
    """Return *learned* as one array."""
    return torch.nn.utils.parameters_to_vector(learned).detach().numpy()


def learn(message: Any, context: Any) -> Any:
    """Train one client, as a client app does."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    work = WORKLOADS[os.environ[ASKED[0]]]
    model, learned, clients = resident()
    (shared,) = message.content["arrays"].to_numpy_ndarrays()
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(torch.from_numpy(shared.copy()), learned)
    optimiser = torch.optim.AdamW(learned, lr=work.rate, weight_decay=0.0)
    steps = 0
    for ids in clients[int(context.node_config["partition-id"])].split(work.rows):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, CLIP)
        optimiser.step()
        optimiser.zero_grad()
        steps += 1
    arrays = ArrayRecord([packed(learned)])
    metrics = MetricRecord({"num-examples": work.steps * work.rows, "steps": steps})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def flower(name: str, base: str, times: int) -> dict[str, Any]:
    """Train all clients of the workload called *name* in each of 1 + *times* rounds, of which the first is not counted.

    CPU time is that of this process, Ray's and its workers', from the end of the first round on.
    """
    work = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as home, ended():
        os.environ.update(QUIET | dict(zip(ASKED, (name, base), strict=True)) | {"FLWR_HOME": home})
        moments, shared, replies = rounds(work, base, times)
    if replies != [(work.clients, work.steps)] * (1 + times):
        raise SystemExit(f"Flower's clients did not all train: {replies}")
    change = float(abs(shared[1] - shared[0]).max())
    return counted(work, times, moments[-1] - moments[1]) | {"change": change, "steps": work.steps}


def rounds(work: Workload, base: str, times: int) -> tuple[list[float], list[Any], list[tuple[int, int]]]:
    """Return CPU-seconds so far and the shared adapter, before and after each round, and (replies, fewest steps)."""
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    moments: list[float] = []
    shared: list[Any] = []
    replies: list[tuple[int, int]] = []

    def noted(_: int, arrays: Any) -> None:
        moments.append(used_by_trees([psutil.Process()]))
        shared.extend(arrays.to_numpy_ndarrays())

    def seen(records: Sequence[Any], _: str) -> Any:
        replies.append((len(records), min(int(one["metrics"]["steps"]) for one in records)))
        return MetricRecord({"clients": len(records)})

    server, client = ServerApp(), ClientApp()
    client.train()(learn)

    @server.main()
    def main(grid: Any, _: Any) -> None:
        first = packed([one for one in adapted(base, work).parameters() if one.requires_grad])
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_train_nodes=work.clients,
            min_available_nodes=work.clients,
            train_metrics_aggr_fn=seen,
        )
        strategy.start(grid, ArrayRecord([first]), num_rounds=1 + times, evaluate_fn=noted)

    run_simulation(
        server,
        client,
        num_supernodes=work.clients,
        backend_config={
            "init_args": {"num_cpus": os.cpu_count(), "log_to_driver": False},
            "client_resources": {"num_cpus": os.cpu_count(), "num_gpus": 0.0},
        },
    )
    return moments, shared, replies


@contextmanager
def ended() -> Iterator[None]:
    """End whatever the block has started and left running, by its number."""
    before = set(psutil.Process().children(recursive=True))
    try:
        yield
    finally:
        left = [one for one in psutil.Process().children(recursive=True) if one not in before]
        for one in left:
            one.terminate()
        for one in psutil.wait_procs(left, timeout=10)[1]:
            one.kill()
