"""Simulated LoRA clients per CPU-second: our two engines beside pfl-research, Flower on Ray and an HF Trainer each.

    python benchmarks/simulation.py --cache ~/.cache/potluck --pfl PYTHON --out docs/simulation_speed.json

All sides have the same base, LoRA on q, k, v and o, AdamW, gradients clipped at 1, float32, and clients whose text
fills the rows of one round: a byte-level Llama of 0.84 million parameters, or SmolLM2-135M.  On SmolLM2 the peers are
given numbers of tokens and not their words, which costs the same.  Each side is a process of its own with one thread;
what is counted is CPU time from a client's tokens to its update, after a first round that is not counted: loading and
tokenizing are not.  Flower's side is Flower's process, Ray's own and a worker, and all are counted from the end of its
first round on.  Of each side the largest change of an adapter's number is shown: AdamW moves a number by at most
its rate in a step, so it says that all took the same steps; of pfl-research and Flower it is of the mean over clients.

PYTHON is the interpreter of an environment with pfl, torch, transformers and peft; Flower is in our own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from simulation_base import WORKLOADS, Workload, tiny_base

HERE: Final = Path(__file__).resolve()
ROOTS: Final = ("aggregation", "client", "protos", "simulations")
ONE: Final = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
TIMEOUT_S: Final = 1_200
LABELS: Final = MappingProxyType(
    {
        "batched": "Potluck, clients batched",
        "sequential": "Potluck, one after the other",
        "pfl": "pfl-research",
        "flower": "Flower's engine on Ray",
        "trainer": "a new HF Trainer for each client",
    }
)
TIMES: Final = MappingProxyType({"batched": 40, "sequential": 2, "pfl": 4, "flower": 4, "trainer": 1})
"""How often a side is given all clients of the small base within what is counted: fast sides more often."""


def side_of(side: str, name: str, cache: Path, base: str) -> dict[str, Any]:
    """Measure one side in this process; a peer is imported only where it is asked for."""
    from simulation_sides import ours, pfl, trainer

    work = WORKLOADS[name]
    times = TIMES[side] if work.base == "tiny" else 1
    if side == "flower":
        from simulation_flower import flower

        return flower(name, base, times)
    run: Callable[[], dict[str, Any]] = {
        "batched": lambda: ours(work, cache, base, batched=True, times=times),
        "sequential": lambda: ours(work, cache, base, batched=False, times=times),
        "pfl": lambda: pfl(work, base, times),
        "trainer": lambda: trainer(work, base, times),
    }[side]
    return run()


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
    parser.add_argument("--sides", nargs="*", default=list(TIMES), choices=list(TIMES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--workload", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cache = args.cache.expanduser()
    if args.side:
        print(json.dumps(side_of(args.side, args.workload, args.cache, args.base)))
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
