"""Several runs beside each other, and what a program reads of that."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from potluck.simulations.reports.ground import check_comparable, what_differs
from potluck.simulations.reports.protocols import (
    COSTS,
    Quality,
    Robustness,
    Target,
    common_target,
    cost_to_target,
    quality_under_budget,
    robustness,
    trajectory,
)
from potluck.simulations.reports.runs import Run, read_run


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What a comparison is to find."""

    budgets: Mapping[str, float]
    """By key of COSTS; those that are not here are chosen."""
    target: float | None = None
    """Held-out loss in nats per token; None: the lowest that every run reached."""


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs of the same task, and the answers to three questions."""

    names: tuple[str, ...]
    runs: tuple[Run, ...]
    quality: tuple[Quality, ...]
    target: float
    """Held-out loss, in nats per token; NaN where one of the runs never had a finite one."""
    targets: tuple[Target, ...]
    robust: tuple[Robustness, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    """Settings in which the runs differ, each with every run's value."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON has it; null where there is no number."""
        return {
            "runs": [_summary(name, run) for name, run in zip(self.names, self.runs, strict=True)],
            "quality_under_budget": [_plain(asdict(each)) for each in self.quality],
            "cost_to_target": {"target": _plain(self.target), "runs": [_plain(asdict(each)) for each in self.targets]},
            "robustness": [_plain(asdict(each)) for each in self.robust],
            "settings": {key: list(values) for key, values in self.differing},
        }


def compare(folders: Sequence[Path], asked: Asked) -> Comparison:
    """Read the runs in *folders* and compare them.

    Raises:
        NotARun: a folder holds no run.
        BadTable: a run's rows are damaged.
        NotComparable: fewer than two runs, or of another base or other text.
    """
    names = names_of(folders)
    runs = tuple(read_run(folder) for folder in folders)
    check_comparable(names, runs)
    target = common_target(runs) if asked.target is None else asked.target
    return Comparison(
        names,
        runs,
        tuple(quality_under_budget(runs, asked.budgets)),
        target,
        tuple(cost_to_target(names, runs, target)),
        tuple(robustness(names, runs)),
        tuple(what_differs(runs)),
    )


def names_of(folders: Sequence[Path]) -> tuple[str, ...]:
    """Return the shortest ends of the folders' paths that tell them apart; one that is given twice gets a number."""
    paths = [folder.resolve().parts for folder in folders]
    names = [""] * len(paths)
    for n, parts in enumerate(paths):
        others = [other for other in paths if other != parts]
        length = next(
            (k for k in range(1, len(parts)) if all(other[-k:] != parts[-k:] for other in others)), len(parts)
        )
        again = paths[:n].count(parts)
        names[n] = "/".join(parts[-length:]) + (f" ({again + 1})" if again else "")
    return tuple(names)


def _summary(name: str, run: Run) -> dict[str, Any]:
    """Return what one run came to."""
    path = trajectory(run)
    spent = {cost: path[-1].spent(cost) if path else None for cost in COSTS}
    losses = {"base_loss": run.base_loss, "best_loss": run.best_loss, "last_loss": run.last_loss}
    shares = {"hostile": run.hostile, "lost": run.lost}
    whole: dict[str, Any] = {
        "run": name,
        "folder": str(run.folder),
        "recipe": run.recipe.digest().hex(),
        "rounds": len(run.rounds),
    }
    return {key: _plain(value) for key, value in (whole | spent | losses | shares).items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 - anything that JSON has
    """Return *value* with null for what is no finite number, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
