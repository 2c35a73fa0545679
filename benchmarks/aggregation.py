"""Combining 50, 200 and 1000 updates of 4.6 million numbers: Potluck beside Flower, byzfl and a dense SVD.

    python benchmarks/aggregation.py --folder FOLDER --byzfl PYTHON --out docs/aggregation.json

Every line of the table is its own process with one BLAS thread.  CPU-seconds are those of the combination alone: ours
reads its updates from files within them; the peers' are in memory before the clock starts, as their interfaces ask.
Peak memory is the process's largest resident size, less what it had before it read or held any update.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np

import rounds
from potluck.aggregation import AGGREGATORS, Pipeline, aggregate

HERE: Final = Path(__file__).resolve()
ROOTS: Final = ("aggregation",)
ONE: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
TIMEOUT_S: Final = 1800


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One line of the table."""

    whose: str
    what: str
    counts: tuple[int, ...]
    settings: dict[str, Any]
    hostile: float = 0.2
    only_b: bool = False
    held: bool = False
    """Whether our updates are in memory before the clock starts, as the peers' are."""


def ours(
    what: str, settings: dict[str, Any], *, hostile: float = 0.2, counts: tuple[int, ...] = (50, 200, 1000)
) -> Side:
    """Return a side of ours; f is a fifth of the updates where some are hostile."""
    rule = AGGREGATORS[settings.get("rule", "mean")]
    return Side("Potluck", what, counts, settings, hostile, only_b=rule.trains in ("b", "alternately"))


def held(what: str, settings: dict[str, Any]) -> Side:
    """Return a side of ours whose updates are in memory, like the peers'."""
    return replace(ours(f"{what}, updates in memory", settings, counts=(50, 200)), held=True)


def peers(whose: str, *names: str) -> dict[str, Side]:
    """Return a side for each rule of a peer."""
    prefix = "byzfl-" if whose == "byzfl" else ""
    return {prefix + name: Side(whose, name, (50, 200), {}) for name in names}


DEFAULT: Final = ("norm_bound", "nnm", "geomedian")
LARGE_ONLY: Final = ("flora", "florist", "hetlora", "raflora", "fedex", "fedrot", "fedsvd", "rolora")
"""Rules of which only the memory for a large round is asked."""
SIDES: Final = MappingProxyType(
    {
        "mean": ours("mean, master rank 64", {"rank": 64}, hostile=0.0),
        "fedit": ours("fedit", {"rule": "fedit", "rank": 64}, hostile=0.0),
        "flexlora": ours("flexlora, master rank 64", {"rule": "flexlora", "rank": 64}, hostile=0.0),
        "multikrum": ours("multikrum on products, master rank 64", {"weights": ("multikrum",), "rank": 64}),
        "multikrum16": ours("multikrum on products, master rank 16", {"weights": ("multikrum",), "rank": 16}),
        "default": ours("norm_bound, nnm, geomedian, master rank 64", {"weights": DEFAULT, "rank": 64}),
        "multikrum-ffa": ours("multikrum, ffa", {"rule": "ffa", "weights": ("multikrum",)}),
        "ffa": ours("ffa", {"rule": "ffa"}),
        "median": ours("median", {"rule": "median"}),
        "trimmed": ours("trimmed_mean", {"rule": "trimmed_mean"}),
        "bulyan": ours("bulyan", {"rule": "bulyan"}),
        "multikrum-ffa-held": held("multikrum, ffa", {"rule": "ffa", "weights": ("multikrum",)}),
        "multikrum16-held": held("multikrum on products, master rank 16", {"weights": ("multikrum",), "rank": 16}),
        "median-held": held("median", {"rule": "median"}),
        "trimmed-held": held("trimmed_mean", {"rule": "trimmed_mean"}),
        **{rule: ours(rule, {"rule": rule, "rank": 64}, counts=(1000,)) for rule in LARGE_ONLY},
        **peers("Flower", "FedAvg", "FedMedian", "FedTrimmedAvg", "MultiKrum"),
        **peers("byzfl", "Median", "TrMean", "MultiKrum", "GeometricMedian"),
        "dense": Side("NumPy", "dense sum and SVD of 1 of the 48 modules", (50, 200), {}, 0.0),
    }
)


def potluck(side: Side, paths: list[Path], kind: rounds.Kind) -> Callable[[], dict[str, Any]]:
    """Combine with potluck.aggregation, from the files."""
    settings = dict(side.settings)
    for name in rounds.NAMES:
        rounds.start_of(name, kind.rank)
    pipeline = Pipeline(f=len(paths) // 5 if side.hostile else 0, **{"weights": (), **settings})
    updates = rounds.stored(paths, kind)
    if side.held:
        updates = [rounds.held(update) for update in updates]

    def run() -> dict[str, Any]:
        report = aggregate(updates, {}, pipeline).report
        return {
            "products": report.products,
            "products_error": report.products_error,
            "sum_error": report.sum_error,
            "cut": report.total.relative_error,
            "counted": sum(1 for weight in report.weights if weight > 1e-9),
        }

    return run


def flower(side: Side, paths: list[Path], kind: rounds.Kind) -> Callable[[], dict[str, Any]]:
    """Combine with a strategy of Flower, from messages in memory."""
    import flwr.serverapp.strategy as strategies
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # outside a Flower process
    hostile = len(paths) // 5
    settings = {
        "FedTrimmedAvg": {"beta": 0.2},
        "MultiKrum": {"num_malicious_nodes": hostile, "num_nodes_to_select": len(paths) - hostile},
    }.get(side.what, {})
    strategy = getattr(strategies, side.what)(**settings)
    replies = []
    for path in paths:
        arrays = {}
        for name in rounds.NAMES:
            term = rounds.read(path, kind, name)
            arrays |= {f"{name}.b": Array(term.b), f"{name}.a": Array(term.a)}
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1.0})})
        asked = Message(content=RecordDict(), dst_node_id=1, message_type="train")
        replies.append(Message(content=content, reply_to=asked))

    def run() -> dict[str, Any]:
        arrays, _ = strategy.aggregate_train(1, replies)
        return {"arrays": len(arrays)}

    return run


def byzfl(side: Side, paths: list[Path], _: rounds.Kind) -> Callable[[], dict[str, Any]]:
    """Combine with a rule of byzfl, from one vector per update in memory."""
    found = importlib.util.find_spec("byzfl")
    package = types.ModuleType("byzfl")  # its own import wants torchvision, which its aggregators do not use
    package.__path__ = list(found.submodule_search_locations or ()) if found else []
    sys.modules["byzfl"] = package
    peer = importlib.import_module("byzfl.aggregators.aggregators")
    vectors = np.stack([np.fromfile(path, np.float32) for path in paths])
    rule = getattr(peer, side.what)(**({"f": len(paths) // 5} if side.what in ("TrMean", "MultiKrum") else {}))
    return lambda: {"numbers": int(np.size(rule(vectors)))}


def dense(_: Side, paths: list[Path], kind: rounds.Kind) -> Callable[[], dict[str, Any]]:
    """Sum one module as a dense array and decompose it; and say how far our sketched sum is from the best."""
    from potluck.aggregation import LowRank, compress
    from potluck.aggregation.rules.base import Module
    from potluck.aggregation.sums import InnovationSum

    name, shape, rank = rounds.NAMES[0], (rounds.SIDE, rounds.SIDE), 64
    start = rounds.start_of(name, kind.rank)
    terms = [rounds.read(path, kind, name) for path in paths]
    found: dict[str, Any] = {}

    def run() -> dict[str, Any]:
        total = np.zeros(shape, np.float32)
        for term in terms:
            total += (term.b * np.float32(rounds.SCALE / len(terms))) @ term.a
        total -= start.dense().astype(np.float32)
        found["total"], found["svd"] = total, np.linalg.svd(total, full_matrices=False)
        return found

    def after() -> dict[str, Any]:
        empty = LowRank(np.zeros((shape[0], 0)), np.zeros((0, shape[1])))
        module = Module(name, shape, empty, count=len(terms), exact=len(terms) <= 64, rank=rank, seed=1)
        running = InnovationSum(module)
        for term in terms:
            running.add(term, start, 1 / len(terms))
        ours_ = compress(running.scaled(1.0), rank=rank).low_rank.dense()
        u, sigma, vt = found["svd"]
        best = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
        norm = np.linalg.norm(sigma)
        errors = [float(np.linalg.norm(found["total"] - each) / norm) for each in (ours_, best)]
        return {
            "error_ours": errors[0],
            "error_best": errors[1],
            "excess": errors[0] - errors[1],
            "apart": float(np.linalg.norm(ours_ - best) / norm),
            "reported": sum(module.errors) / float(norm),
        }

    run.after = after  # type: ignore[attr-defined]
    return run


WHOSE: Final = MappingProxyType({"Potluck": potluck, "Flower": flower, "byzfl": byzfl, "NumPy": dense})


def measure(side: Side, folder: Path, count: int) -> dict[str, Any]:
    """Run one side here and return what it took."""
    kind = rounds.Kind(only_b=side.only_b, hostile=side.hostile if count < 1000 else 0.2)  # one large round serves all
    paths = rounds.written(folder, kind, count)
    before = peak_mib()
    run = WHOSE[side.whose](side, paths, kind)
    held = peak_mib()
    cpu, wall = time.process_time(), time.monotonic()
    said = run()
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}
    took |= {"before_mib": before, "held_mib": held - before, "peak_mib": peak_mib() - before}
    after = getattr(run, "after", None)
    return took | (after() if after else said)


def peak_mib() -> float:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def asked(name: str, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run one side in its own process."""
    side = SIDES[name]
    python = args.byzfl if side.whose == "byzfl" else sys.executable
    command = [python, str(HERE), "--side", name, "--count", str(count), "--folder", str(args.folder)]
    root = os.pathsep.join(str(HERE.parents[1] / each) for each in ROOTS)
    done = subprocess.run(
        command,
        env={**os.environ, **ONE, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure what is asked for, print the table, write the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("rounds"), help="where the updates lie, up to 60 GB")
    parser.add_argument("--byzfl", default="", help="interpreter of an environment that has byzfl and zstandard")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--counts", nargs="*", type=int, default=[50, 200, 1000])
    parser.add_argument("--out", type=Path, help="JSON to add to; a line that is there already is not measured again")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(SIDES[args.side], args.folder, args.count)))
        return
    lines = json.loads(args.out.read_text("utf-8"))["lines"] if args.out and args.out.exists() else {}
    for count in args.counts:
        for name in args.sides:
            key = f"{name}/{count}"
            if count not in SIDES[name].counts or key in lines or (SIDES[name].whose == "byzfl" and not args.byzfl):
                continue
            load = os.getloadavg()[0]
            lines[key] = asked(name, count, args) | {"load": load}
            print(key, {k: round(v, 3) if isinstance(v, float) else v for k, v in lines[key].items()}, flush=True)
            if args.out:
                args.out.write_text(json.dumps({"machine": machine(), "lines": lines}, indent=1) + "\n", "utf-8")
    print(table(lines))
    if args.out:
        picture(lines, args.out.with_suffix(".png"))


def machine() -> dict[str, Any]:
    """Return what this ran on."""
    info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__}


def table(lines: dict[str, dict[str, Any]]) -> str:
    """Return the lines as a Markdown table."""
    rows = ["| whose | what | N | CPU-s | wall, s | peak over the interpreter, MiB |", "|---|---|---|---|---|---|"]
    for key, line in lines.items():
        name, count = key.split("/")
        side = SIDES[name]
        if "failed" in line:
            rows.append(f"| {side.whose} | {side.what} | {count} | failed: {line['failed']} | | |")
            continue
        rows.append(
            f"| {side.whose} | {side.what} | {count} "
            f"| {line['cpu_s']:.2f} | {line['wall_s']:.1f} | {line['peak_mib']:.0f} |"
        )
    return "\n".join(rows)


def picture(lines: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw CPU-seconds and peak memory over the number of updates."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 7), layout="constrained")
    styles = {"Potluck": "-o", "Flower": "--s", "byzfl": ":^", "NumPy": "-.x"}
    for axis, field, label in zip(axes, ("cpu_s", "peak_mib"), ("CPU-seconds", "peak memory, MiB"), strict=True):
        for name, side in SIDES.items():
            points = [(n, lines[f"{name}/{n}"].get(field)) for n in side.counts if f"{name}/{n}" in lines]
            points = [point for point in points if point[1]]
            if points:
                axis.plot(
                    *zip(*points, strict=True), styles[side.whose], label=f"{side.whose}: {side.what}", markersize=4
                )
        axis.set(xscale="log", yscale="log", xlabel="updates of 4.6 million numbers", ylabel=label)
        axis.set_xticks([50, 200, 1000], ["50", "200", "1000"])
        axis.grid(alpha=0.3)
    axes[1].axhline(300, color="black", linewidth=0.8)
    axes[1].annotate("300 MiB", (55, 320), fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
