"""Simulated LoRA clients per CPU-second: our two engines beside pfl-research and a new HF Trainer for every client.

    python benchmarks/simulation.py --cache ~/.cache/potluck --pfl PYTHON --out docs/simulation_speed.json

All sides have the same base, LoRA on q, k, v and o, AdamW, gradients clipped at 1, float32, and clients whose text
fills the rows of one round: a byte-level Llama of 0.84 million parameters, or SmolLM2-135M.  On SmolLM2 the peers are
given numbers of tokens and not their words, which costs the same.  Each side is a process of its own with one thread;
what is counted is CPU time from a client's tokens to its update, after a first round that is not counted: loading and
tokenizing are not.  Of each side the largest change of an adapter's number is shown: AdamW moves a number by at most
its rate in a step, so it says that all took the same steps.

PYTHON is the interpreter of an environment with pfl, torch, transformers and peft.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from simulation_base import TARGETS, WORKLOADS, Workload, tiny_base

HERE: Final = Path(__file__).resolve()
ROOTS: Final = ("aggregation", "client", "protos", "simulations")
ONE: Final = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
TIMEOUT_S: Final = 1_200
ALPHA: Final = 8.0
CLIP: Final = 1.0
PLAIN: Final = 3  # ids of ByT5 begin here
LABELS: Final = MappingProxyType(
    {
        "batched": "Potluck, clients batched",
        "sequential": "Potluck, one after the other",
        "pfl": "pfl-research",
        "trainer": "a new HF Trainer for each client",
    }
)
TIMES: Final = MappingProxyType({"batched": 40, "sequential": 2, "pfl": 4, "trainer": 1})
"""How often a side is given all clients of the small base within what is counted: fast sides more often."""
TEXT_BYTES: Final = 8
"""Bytes of text for each token that a client of a large base needs: more than any tokenizer makes one of."""


def texts(work: Workload) -> list[bytes]:
    """Return every client's text: as many bytes as its rows hold tokens, from the reference that CPython carries."""
    import pydoc_data.topics

    source = "\n".join(pydoc_data.topics.topics.values()).encode()
    size = work.learned * (1 if work.base == "tiny" else TEXT_BYTES)
    return [source[i * size : (i + 1) * size] for i in range(work.clients)]


def adapted(base: str, work: Workload) -> Any:
    """Return the base with a fresh LoRA adapter, as PEFT makes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=work.rank, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def rows_of(work: Workload) -> list[Any]:
    """Return every client's token ids, (steps · rows, tokens) int64."""
    import numpy as np

    shape = (work.steps * work.rows, work.tokens)
    ids = (np.frombuffer(text, np.uint8)[: work.learned].astype(np.int64) for text in texts(work))
    return [each.reshape(shape) + PLAIN for each in ids]


def ours(work: Workload, cache: Path, base: str, *, batched: bool, times: int) -> dict[str, Any]:
    """Train with one of our engines, from folders as `potluck join` reads them."""
    from potluck.client.lessons import Lesson, Term
    from potluck.client.training.completing import completed
    from potluck.client.training.together.batched import BatchedEngine
    from potluck.client.training.together.sequential import SequentialEngine
    from potluck.wire.recipe import Recipe

    recipe = completed(
        Recipe.parse(
            json.dumps(
                {
                    "run": {"name": "speed"},
                    "model": {"base": base},
                    "adapter": {"rank": work.rank, "alpha": ALPHA, "targets": TARGETS},
                    "data": {"max_tokens": work.tokens, "held_out": 0.5},
                    "training": {
                        "steps": work.steps,
                        "batch": work.rows,
                        "learning_rate": work.rate,
                        "clip_grad_norm": CLIP,
                    },
                }
            )
        ),
        cache,
    )
    with tempfile.TemporaryDirectory() as folder:
        lessons = []
        for number, text in enumerate(texts(work)):
            home = Path(folder) / f"{number:03d}"
            home.mkdir()
            said = text.decode("ascii", "replace")
            lines = [json.dumps({"text": said}), json.dumps({"text": f"held out {number}"})]  # one of two is held out
            (home / "text.jsonl").write_text("\n".join(lines), "utf-8")
            lessons.append(Lesson(home, order=number))
        engine = BatchedEngine(cache, dtype="float32") if batched else SequentialEngine(cache, dtype="float32")
        term = Term(recipe, 0, 1, b"")
        engine.train(term, lessons)
        begun = time.process_time()
        for _ in range(times):
            results = engine.train(term, lessons)
        cpu = time.process_time() - begun
    change = max(float(abs(delta).max()) for one in results for delta in one.deltas.values())
    return counted(work, times, cpu) | {"change": change, "tokens": results[0].tokens, "steps": results[0].steps}


def counted(work: Workload, times: int, cpu: float) -> dict[str, Any]:
    """Return the rate."""
    return {"clients": times * work.clients, "cpu_s": cpu, "per_cpu_s": times * work.clients / cpu}


def pfl(work: Workload, base: str, times: int) -> dict[str, Any]:
    """Train with pfl-research's FedAvg: its model wrapper, local SGD bridge, simulated backend and aggregation."""
    import numpy as np
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Weighted
    from pfl.model.pytorch import PyTorchModel

    class Learner(torch.nn.Module):
        """What pfl asks of a model."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = adapted(base, work)

        def loss(self, ids: Any, *_: Any, **__: Any) -> Any:
            self.inner.train()
            return self.inner(input_ids=ids, labels=ids, use_cache=False).loss

        @torch.no_grad()
        def metrics(self, ids: Any, *_: Any, **__: Any) -> Any:
            self.inner.eval()
            return {"loss": Weighted(float(self.inner(input_ids=ids, labels=ids, use_cache=False).loss), 1)}

    learner = Learner()
    learned = [p for p in learner.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learned]

    def optimiser(parameters: Any, **settings: Any) -> Any:
        return torch.optim.AdamW([p for p in parameters if p.requires_grad], weight_decay=0.0, **settings)

    model = PyTorchModel(learner, optimiser, torch.optim.SGD(learned, lr=1.0))
    clients = {number: [torch.from_numpy(ids)] for number, ids in enumerate(rows_of(work))}
    data = FederatedDataset(
        lambda number: Dataset(clients[number], user_id=str(number)), get_user_sampler("minimize_reuse", list(clients))
    )
    moments: list[float] = []
    changes: list[float] = []

    class Watch(TrainingProcessCallback):
        """Notes the CPU time after every round, and what the first one changed."""

        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            from pfl.metrics import Metrics

            moments.append(time.process_time())
            if not changes:
                pairs = zip(before, learned, strict=True)
                changes.append(max(float((new.detach() - old).abs().max()) for old, new in pairs))
            return False, Metrics()

    np.random.seed(0)  # noqa: NPY002 - pfl draws from it
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=1 + times,
            evaluation_frequency=10**6,
            train_cohort_size=work.clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(
            local_batch_size=work.rows,
            local_num_epochs=1,
            local_learning_rate=work.rate,
            local_max_grad_norm=CLIP,
        ),
        NNEvalHyperParams(local_batch_size=None),
        [Watch()],
    )
    return counted(work, times, moments[-1] - moments[0]) | {"change": changes[0], "steps": work.steps}


def trainer(work: Workload, base: str, times: int) -> dict[str, Any]:
    """Train with a new transformers Trainer for every client, whose adapter is put back before each."""
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = adapted(base, work)
    learned = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learned]
    steps: list[int] = []
    change = 0.0
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=work.steps,
            per_device_train_batch_size=work.rows,
            learning_rate=work.rate,
            weight_decay=0.0,
            max_grad_norm=CLIP,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        begun = 0.0
        for number in range(1 + times):
            for ids in rows_of(work)[: 4 if number == 0 else None]:  # the first few are not counted
                with torch.no_grad():
                    for parameter, old in zip(learned, before, strict=True):
                        parameter.copy_(old)
                rows = [{"input_ids": row, "labels": row} for row in torch.from_numpy(ids)]
                steps.append(Trainer(model=model, args=settings, train_dataset=rows).train().global_step)
                pairs = zip(before, learned, strict=True)
                change = max(change, *(float((new.detach() - old).abs().max()) for old, new in pairs))
            begun = begun or time.process_time()
    return counted(work, times, time.process_time() - begun) | {"change": change, "steps": steps[-1]}


SIDES: Final[Mapping[str, Callable[[Workload, Path, str, int], dict[str, Any]]]] = MappingProxyType(
    {
        "batched": lambda work, cache, base, times: ours(work, cache, base, batched=True, times=times),
        "sequential": lambda work, cache, base, times: ours(work, cache, base, batched=False, times=times),
        "pfl": lambda work, _, base, times: pfl(work, base, times),
        "trainer": lambda work, _, base, times: trainer(work, base, times),
    }
)


def folder_of(work: Workload, cache: Path) -> str:
    """Return the folder of the base, made or fetched if need be."""
    if work.base == "tiny":
        return str(tiny_base(cache / "benchmark-tiny"))
    from potluck.client.training import bases

    return str(bases.resolve(work.base, cache=cache).folder)


def measured(side: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one side in its own process."""
    python = args.pfl if side == "pfl" else sys.executable
    base = folder_of(WORKLOADS[name], args.cache)
    command = [python, str(HERE), "--side", side, "--workload", name, "--cache", str(args.cache), "--base", base]
    roots = os.pathsep.join(str(HERE.parents[1] / root) for root in ROOTS)
    done = subprocess.run(
        command,
        env={**os.environ, **ONE, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{side}, {name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(lines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the lines as a Markdown table; ratios are to pfl-research in the same run."""
    rows = ["| workload | side | clients per CPU-s | beside pfl-research | largest change |", "|---|---|---|---|---|"]
    for key, line in lines.items():
        name, side = key.split("/")
        work, peer = WORKLOADS[name], lines.get(f"{name}/pfl")
        ratio = f"{line['per_cpu_s'] / peer['per_cpu_s']:.2f}×" if peer else "–"
        what = f"{name}: {work.steps} × {work.rows} × {work.tokens}"
        rows.append(f"| {what} | {LABELS[side]} | {line['per_cpu_s']:.1f} | {ratio} | {line['change']:.5f} |")
    return "\n".join(rows)


def main() -> None:
    """Measure what is asked for, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the base model")
    parser.add_argument("--pfl", default="", help="interpreter of an environment that has pfl, transformers and peft")
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--workload", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cache = args.cache.expanduser()
    if args.side:
        work = WORKLOADS[args.workload]
        times = TIMES[args.side] if work.base == "tiny" else 1
        print(json.dumps(SIDES[args.side](work, args.cache, args.base, times)))
        return
    lines: dict[str, dict[str, Any]] = {}
    for name in args.workloads:
        for side in args.sides:
            if side == "pfl" and not args.pfl:
                continue
            load = os.getloadavg()[0]
            lines[f"{name}/{side}"] = measured(side, name, args) | {"load": load}
            print(f"{name}/{side}", lines[f"{name}/{side}"], flush=True)
    print(table(lines))
    if args.out:
        works = {name: asdict(WORKLOADS[name]) for name in args.workloads}
        about = {"cores": os.cpu_count(), "python": platform.python_version(), "workloads": works}
        args.out.write_text(json.dumps({"about": about, "lines": lines}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
