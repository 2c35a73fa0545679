"""What is left of a run when a fifth of its clients are hostile: every defence beside every attack, on a real model.

One process plays everybody with the production code: 12 honest clients train on their own text (`small_lm`), 3 hostile
ones know all they have trained and send what the attack says; what is not finite is refused at the door, as a
coordinator's intake does it; the rest is aggregated.  After the last round the adapter is judged on held-out text of
the 12.  In a run without attack all 15 are honest.  Each cell of the table is a run of its own; cells that the result
file has already are not run again.

    python benchmarks/attacks.py --cache ~/.cache/potluck --seeds 0 1 2 --jobs 2
    python benchmarks/attacks.py --cache ~/.cache/potluck --rules default --attacks ipm:tau=0.5 ipm:tau=10 alie:z=3
    python benchmarks/attacks_table.py                  # the table and the picture, from the result file
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import numpy as np
import torch
from small_lm import CAST, Lesson, SmallLM, small_lm

from potluck.aggregation import LowRank, Pipeline, PotluckError, Report, State, Update, aggregate, broadcast
from potluck.aggregation.cohort import Cohort
from potluck.aggregation.updates import first_bad_value
from potluck.aggregation.weighing import Wanted, weighed
from potluck.aggregation.weights.registry import DEFAULT_DEFENCE
from potluck.simulations.attacks import ATTACKS, Attack

HOSTILE: Final = 3
HONEST: Final = len(CAST) - HOSTILE
CLEAN: Final = "none"
ROUNDS: Final = 5


def defence(*steps: str, rule: str = "mean") -> Pipeline:
    """Return the pipeline of the weight *steps*, in which a fifth may be hostile and everybody counts the same."""
    return Pipeline(rule=rule, weights=("uniform", *steps), f=HOSTILE)


DEFENCES: Final[Mapping[str, Pipeline]] = MappingProxyType(
    {
        "mean": defence(),
        "krum": defence("krum"),
        "multikrum": defence("multikrum"),
        "mda": defence("mda"),
        "geomedian": defence("geomedian"),
        "centered_clip": defence("centered_clip"),
        "norm_bound": defence("norm_bound"),
        "arc, geomedian": defence("arc", "geomedian"),
        "nnm, geomedian": defence("nnm", "geomedian"),
        "bucketing, geomedian": defence("bucketing", "geomedian"),
        "dnc": defence("dnc"),
        "norm_bound, dnc, geomedian": defence("norm_bound", "dnc", "geomedian"),
        "foolsgold": defence("foolsgold"),
        "fltrust": defence("fltrust"),
        "cosine": defence("cosine"),
        "default": replace(defence(*DEFAULT_DEFENCE), screened=True),
        "ffa": defence(rule="ffa"),
        "median": defence(rule="median"),
        "trimmed_mean": defence(rule="trimmed_mean"),
        "bulyan": defence(rule="bulyan"),
    }
)
"""Of the last four, clients train B alone."""
SELECTING: Final = ("krum", "multikrum", "dnc")
"""Steps whose selection from sketched inner products is compared with that from exact ones, in runs of the default."""


@dataclass(frozen=True, slots=True)
class Study:
    """What all cells have in common."""

    cache: str
    rounds: int = ROUNDS
    lesson: Lesson = field(default_factory=Lesson)


class Cell(NamedTuple):
    """One run."""

    rule: str
    attack: str
    """A key of ATTACKS, with settings behind a colon if not the usual ones: "ipm:tau=10"."""
    seed: int

    @property
    def key(self) -> str:
        """Its name in the result file."""
        return f"{self.seed} | {self.rule} | {self.attack}"


@dataclass(slots=True)
class Seen:
    """What is noted of a run's rounds, beside its loss."""

    hostile: int
    found_hostile: int = 0
    found_honest: int = 0
    hostile_share: float = 0.0
    """Of the coefficients of the last round."""
    swapped: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """By selecting step and round: how many honest and how many hostile updates a sketch selects otherwise."""

    def note(self, report: Report) -> None:
        """Count whom the screening named, and what the hostile weigh."""
        honest = len(report.weights) - self.hostile
        named = {finding.place for finding in report.findings}
        self.found_hostile += sum(place >= honest for place in named)
        self.found_honest += sum(place < honest for place in named)
        self.hostile_share = sum(report.weights[honest:]) / sum(report.weights)


def run(study: Study, cell: Cell) -> dict[str, object]:
    """Run one cell: its held-out loss in nats per byte, or why there is none."""
    began = time.process_time()
    lm, pipeline, play = loaded(study), DEFENCES[cell.rule], attacking(cell)
    init = "continue" if pipeline.stages().rule.trains == "both" else "orthonormal"
    rng = np.random.default_rng((cell.seed, zlib.crc32(cell.attack.encode())))
    master: Mapping[str, LowRank] = {}
    state: State | None = None
    seen = Seen(0)
    for number in range(study.rounds):
        published, seed = broadcast(master, init), 1000 * cell.seed + number
        clients = range(HONEST if play else len(CAST))
        honest = lm.train(published, clients, init, seed) if number else begun(study, clients, init, seed)
        if not all(map(finite, honest)):
            return {"diverged": number}
        updates = [update for update in [*honest, *(play(honest, HOSTILE, rng) if play else [])] if finite(update)]
        seen.hostile = len(updates) - len(honest)
        trusted = lm.train(published, [len(CAST)], init, seed)[0] if cell.rule == "fltrust" else None
        try:
            result = aggregate(updates, master, pipeline, state, reference=trusted)
        except PotluckError as error:
            return {"refused": " ".join([str(error), *error.__notes__])}
        seen.note(result.report)
        for step, swapped in disagreements(updates, master) if cell.rule == "default" else ():
            seen.swapped.setdefault(step, []).append(swapped)
        master, state = result.master, result.state
    loss = float(np.mean(lm.losses(broadcast(master, init), range(HONEST))))
    return {"loss": loss, "cpu_s": time.process_time() - began, **asdict(seen)}


def disagreements(updates: Sequence[Update], master: Mapping[str, LowRank]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield, by selecting step, how many honest and how many hostile updates sketch and exact products part over."""
    cohort = Cohort(updates, (), master)
    census = cohort.census(HOSTILE)
    wanted = Wanted(steps=(), exact=True, screened=True, reference=None, mapped=map)
    exact, sketch = (weighed(cohort, census, each).ballot for each in (wanted, replace(wanted, exact=False)))
    for name in SELECTING:
        (step,) = defence(name).stages().steps
        chosen, other = (np.array(cohort.as_given(step.cast(each).coefficients)) != 0 for each in (exact, sketch))
        yield name, (int(np.sum((chosen != other)[:HONEST])), int(np.sum((chosen != other)[HONEST:])))


def finite(update: Update) -> bool:
    """Return whether intake would let the update through."""
    return not any(map(first_bad_value, update.trained.values()))


def attacking(cell: Cell) -> Attack | None:
    """Return the cell's attack, or None."""
    name, _, settings = cell.attack.partition(":")
    if name == CLEAN:
        return None
    pairs = (pair.split("=") for pair in settings.split(",") if pair)
    return ATTACKS[name](**{key: float(value) for key, value in pairs})


@cache
def loaded(study: Study) -> SmallLM:
    """Return the model, once a process."""
    torch.set_num_threads(1)
    return small_lm(Path(study.cache), study.lesson)


@cache
def begun(study: Study, clients: range, init: str, seed: int) -> list[Update]:
    """Return the honest updates of the first round, in which nobody has attacked yet: once for all cells."""
    return loaded(study).train({}, clients, init, seed)


def about(study: Study) -> dict[str, object]:
    """Return what the numbers depend on, and what the adapter's base says of the same text."""
    lm = loaded(study)
    return {
        "base_loss": float(np.mean(lm.losses({}, range(HONEST)))),
        "base_own_loss": lm.own_loss(),
        "unigram_loss": lm.unigram_loss(range(HONEST)),
        "honest": HONEST,
        "hostile": HOSTILE,
        "rounds": study.rounds,
        **asdict(study.lesson),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def fill(out: Path, study: Study, wanted: Sequence[Cell], jobs: int, tell: Callable[[str], None]) -> None:
    """Run the cells of *wanted* that *out* lacks, and write it after each."""
    results = json.loads(out.read_text("utf-8")) if out.exists() else {"cells": {}}
    results["about"] = about(study)
    missing = [cell for cell in wanted if cell.key not in results["cells"]]
    began = time.monotonic()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run, study, cell): cell for cell in missing}
        for done, future in enumerate(as_completed(waiting), 1):
            cell, result = waiting[future], future.result()
            results["cells"][cell.key] = result
            out.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")
            left = (time.monotonic() - began) / done * (len(missing) - done)
            said = f"{result['loss']:.4f}" if "loss" in result else str(result)
            tell(f"{done}/{len(missing)}  {cell.key}: {said}  ({left / 60:.1f} min left)")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the plays and the trained base")
    parser.add_argument("--rules", nargs="+", default=list(DEFENCES), choices=DEFENCES)
    parser.add_argument("--attacks", nargs="+", default=[CLEAN, *ATTACKS], help='such as "ipm" or "ipm:tau=10"')
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=Path("docs/attacks.json"))
    options = parser.parse_args()

    study = Study(str(options.cache.expanduser()), options.rounds)
    cells = [Cell(rule, attack, seed) for seed in options.seeds for rule in options.rules for attack in options.attacks]
    fill(options.out, study, cells, options.jobs, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
