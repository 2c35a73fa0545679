"""Exact rank-R combination of one layer: factored, beside a dense singular value decomposition of the same matrix.

    python benchmarks/compress.py                                  # 1024 × 1024: seconds
    python benchmarks/compress.py --size 4096 --dtypes float32 float64   # a layer of an 8B model: minutes, all dense

Both sides run in this process, one after the other, on the same random terms and the same number of BLAS threads.
The factored side runs first, so that the resident peak after it is its own.
"""

import argparse
import json
import os
import platform
import resource
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from potluck.aggregation import LowRank, compress

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one side."""

    name: str
    wall_s: float
    cpu_s: float
    allocated_mib: float
    """Peak of NumPy's own allocations while it ran; LAPACK's workspace is not in it."""
    resident_mib: float
    """High-water mark of the whole process, LAPACK's workspace included, when it had run."""
    largest: float
    discarded: float
    """The largest singular value and the norm of what was cut: both sides must agree on them."""


def measured(name: str, call: Callable[[], tuple[float, float]]) -> Measured:
    """Run *call*, which returns (largest, discarded), once."""
    tracemalloc.start()
    wall, cpu = time.perf_counter(), time.process_time()
    largest, discarded = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEBIBYTE
    return Measured(name, wall, cpu, peak / MEBIBYTE, resident, largest, discarded)


def factored(terms: list[LowRank], keep: int) -> tuple[float, float]:
    """Ours: float64 throughout, whatever the type of the terms."""
    result, discarded = compress(terms, rank=keep)
    return float(np.linalg.norm(result.b[:, 0]) * np.linalg.norm(result.a[0])), discarded


def dense(terms: list[LowRank], keep: int, dtype: str) -> tuple[float, float]:
    """The peer: sum the products, decompose, cut."""
    b = np.concatenate([term.b for term in terms], axis=1).astype(dtype)
    a = np.concatenate([term.a for term in terms], axis=0).astype(dtype)
    _, sigma, _ = np.linalg.svd(b @ a, full_matrices=False)
    return float(sigma[0]), float(np.linalg.norm(sigma[keep:]))


def machine(threads: int) -> dict[str, object]:
    """Return what the numbers depend on."""
    blas = next((f"{pool['internal_api']} {pool['version']}" for pool in threadpool_info()), "unknown")
    facts = {"cores": os.cpu_count(), "blas": blas, "threads": threads, "numpy": np.__version__}
    return facts | {"machine": platform.machine(), "load": os.getloadavg()[0]}


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="d = k (default 1024)")
    parser.add_argument("--terms", type=int, default=10, help="updates (default 10)")
    parser.add_argument("--rank", type=int, default=16, help="columns of each (default 16, so R = 160)")
    parser.add_argument("--keep", type=int, default=64, help="columns of the result (default 64)")
    parser.add_argument("--dtypes", nargs="*", default=["float32"], choices=["float32", "float64"], help="dense side")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    shapes = (options.size, options.rank), (options.rank, options.size)
    terms = [LowRank(*(rng.normal(size=s).astype(np.float32) for s in shapes)) for _ in range(options.terms)]
    with threadpool_limits(options.threads):
        about = machine(options.threads) | {"size": options.size, "R": options.terms * options.rank}
        np.linalg.svd(np.eye(64))  # the library is loaded and its threads are up before the clock starts
        rows = [measured("factored float64", lambda: factored(terms, options.keep))]
        rows += [
            measured(f"dense {dtype}", lambda dtype=dtype: dense(terms, options.keep, dtype))
            for dtype in options.dtypes
        ]
    ratios = {row.name: {"wall": row.wall_s / rows[0].wall_s, "cpu": row.cpu_s / rows[0].cpu_s} for row in rows[1:]}
    if options.json:
        print(json.dumps({"about": about, "rows": [asdict(row) for row in rows], "ratios": ratios}, indent=2))
        return
    print(*(f"{key}={value}" for key, value in about.items()))
    for row in rows:
        times = "  ".join(f"{key} ×{value:.0f}" for key, value in ratios.get(row.name, {}).items())
        print(
            f"{row.name:<17} wall {row.wall_s:8.3f} s  cpu {row.cpu_s:8.3f} s  allocated {row.allocated_mib:7.1f} MiB  "
            f"resident {row.resident_mib:7.1f} MiB  σ₁ {row.largest:.6g}  cut {row.discarded:.6g}  {times}"
        )


if __name__ == "__main__":
    main()
