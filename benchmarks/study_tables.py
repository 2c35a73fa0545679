"""The tables of the study, and what is read from its cells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from study_arms import ARMS
from study_tasks import TASKS

Cells = Mapping[str, Mapping[str, Any]]
T_975: Final[Mapping[int, float]] = MappingProxyType({2: 12.706, 3: 4.303})
"""Student's t for a two-sided 95 % interval, by the number of seeds."""
LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "large_batch": "centralised, large batch",
        "mean_mixed": "mean, ranks 2 to 16",
        "flexlora_mixed": "flexlora, ranks 2 to 16",
        "centralised_other": "centralised, other rate",
        "alone_other": "alone, other rate",
        "mean_other": "mean, other rate",
        "momentum": "mean, fedavgm",
        "orthonormal": "mean, orthonormal",
        "fresh": "mean, fresh (= flora)",
        "half": "mean, half",
    }
)


class Column(NamedTuple):
    """One number of a cell: how it is read, in which direction it is better, and how it is written."""

    head: str
    key: str
    place: str
    better: int
    """1: the more the better; −1: the less."""
    percent: bool = False

    def of(self, cell: Mapping[str, Any]) -> float | None:
        """Return it, over all that was asked."""
        parts = [part for part in ([cell["common"]] if self.place == "common" else cell["own"]) if part]
        weights = [part["asked"] if self.key == "accuracy" else part["tokens"] for part in parts]
        return (
            sum(part[self.key] * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)
            if parts
            else None
        )

    def written(self, values: Sequence[float]) -> str:
        """Return the mean of the seeds with its interval."""
        scale, digits = (100, 1) if self.percent else (1, 3)
        text = f"{scale * mean(values):.{digits}f}"
        more = interval(values)
        return text + (f" ± {scale * more:.{digits}f}" if more is not None else "") + (" %" if self.percent else "")


RIGHT: Final = Column("right, all kinds", "accuracy", "common", 1, percent=True)
COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = MappingProxyType(
    {
        "shakespeare": (Column("nats per token, own held-out text", "loss", "own", -1),),
        "trec": (
            RIGHT,
            Column("nats per token, all kinds", "loss", "common", -1),
            Column("right, own held-out text", "accuracy", "own", 1, percent=True),
        ),
        "rotten_tomatoes": (
            RIGHT._replace(head="right, other people's text"),
            Column("nats per token, other people's text", "loss", "common", -1),
            Column("right, own held-out text", "accuracy", "own", 1, percent=True),
        ),
    }
)
"""What a table shows of each task; the first is what the arms are judged by."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """The cells of one task that are there and belong together."""

    task: str
    cells: Mapping[tuple[str, int], Mapping[str, Any]]

    @classmethod
    def of(cls, task: str, cells: Cells, wanted: Mapping[str, Any] | None = None) -> "Seeds":
        """Pick those of *task* that were played with the settings *wanted*; None: with any."""
        found = {}
        for name, cell in cells.items():
            of, arm, seed = name.split("/")
            if of == task and (wanted is None or cell["settings"] == wanted):
                found[arm, int(seed)] = cell
        return cls(task, found)

    def values(self, arm: str, column: Column) -> dict[int, float]:
        """Return the number of each seed that *arm* was played with."""
        pairs = {seed: column.of(cell) for (name, seed), cell in sorted(self.cells.items()) if name == arm}
        return {seed: value for seed, value in pairs.items() if value is not None}

    def tuned(self, arm: str, column: Column) -> str:
        """Return *arm*, or the same with the other learning rate where that did better under the first seed."""
        found = {name: self.values(name, column) for name in (arm, f"{arm}_other")}
        firsts = {name: column.better * values[0] for name, values in found.items() if 0 in values}
        return max(firsts, key=firsts.__getitem__) if firsts else arm

    def shares(self, arm: str, column: Column) -> list[float]:
        """Return which part of the centralised gain over the base *arm* has, seed by seed."""
        ours, base, best = (self.values(name, column) for name in (arm, "base", self.tuned("centralised", column)))
        return [
            (ours[seed] - base[seed]) / (best[seed] - base[seed])
            for seed in ours
            if seed in base and seed in best and best[seed] != base[seed]
        ]


def interval(values: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of the mean, by Student's t; None of one value."""
    n = len(values)
    return T_975[n] * stdev(values) / math.sqrt(n) if n > 1 else None


def percentage(shares: Sequence[float]) -> str:
    """Return the mean of *shares* with its interval, in whole per cent."""
    more = interval(shares)
    return f"{100 * mean(shares):.0f}" + (f" ± {100 * more:.0f}" if more is not None else "") + " %"


def table(seeds: Seeds) -> str:
    """Return the table of one task: a row an arm."""
    if not seeds.cells:
        return "Not played yet."
    columns = COLUMNS[seeds.task]
    heads = ["arm", "seeds", *(column.head for column in columns)]
    if not columns[0].percent:
        heads.append("perplexity")
    heads += ["part of the centralised gain", "learning rate", "steps", "tokens learned from", "MB up", "CPU-s"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for arm in ARMS:
        first = seeds.values(arm, columns[0])
        if not first:
            continue
        row = [label(arm), str(len(first))]
        row += [column.written(list(seeds.values(arm, column).values())) for column in columns]
        if not columns[0].percent:
            row.append(f"{math.exp(mean(first.values())):.1f}")
        shares = seeds.shares(arm, columns[0])
        row.append(percentage(shares) if shares else "–")
        cells = [cell for (name, _), cell in seeds.cells.items() if name == arm]
        row.append(" ".join(sorted({f"{cell['rate']:g}" for cell in cells})) if arm != "base" else "–")
        row += [f"{mean(cell[key] for cell in cells):,.0f}" for key in ("steps", "tokens")]
        row.append(f"{mean(cell['bytes_up'] for cell in cells) / 1e6:.1f}")
        row.append(_seconds(cells))
        lines.append("| " + " | ".join(row) + " |")
    absent = [LABELS.get(arm, arm) for arm in ARMS if not seeds.values(arm, columns[0])]
    return "\n".join([*lines, "", f"Not played yet: {'; '.join(absent)}."] if absent else lines)


def short(cells: Cells) -> str:
    """Return all tasks of another record in one table: of each arm what it is judged by, and its part of the gain."""
    heads = ["arm", *(f"{title(task)}: {COLUMNS[task][0].head}" for task in TASKS)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    all_seeds = [Seeds.of(task, cells) for task in TASKS]
    for arm in ARMS:
        row = []
        for seeds in all_seeds:
            column = COLUMNS[seeds.task][0]
            values, shares = list(seeds.values(arm, column).values()), seeds.shares(arm, column)
            row.append(f"{column.written(values)} ({percentage(shares)})" if values else "")
        if any(row):
            lines.append(f"| {LABELS.get(arm, arm)} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def tried(tries: Sequence[Mapping[str, Any]]) -> str:
    """Return what was tried before the settings were fixed, with the part of the best centralised gain of each."""
    lines = ["| task | arm | rounds × steps | learning rate | result | part of the gain |", "|" + " --- |" * 6]
    for one in tries:
        told = f"{one['loss']:.3f} nats per token"
        if "right" in one:
            told = f"{100 * one['right']:.1f} % right, {told}"
        how = f"{one['rounds']} × {one['steps']} | {one['rate']:g}" if "rate" in one else "– | –"
        lines.append(f"| {title(one['task'])} | {one['arm']} | {how} | {told} | {100 * part_of(one, tries):.0f} % |")
    return "\n".join(lines)


def part_of(one: Mapping[str, Any], tries: Sequence[Mapping[str, Any]]) -> float:
    """Return which part of the best centralised gain of the same task *one* of the *tries* has."""
    key = "right" if COLUMNS[one["task"]][0].percent else "loss"
    same = [other for other in tries if other["task"] == one["task"]]
    base = next(other[key] for other in same if other["arm"] == "base")
    best = max((other[key] - base for other in same if other["arm"] == "centralised"), key=abs)
    return (one[key] - base) / best + 0.0  # of the base 0, and not −0


def gaps(cells: Cells) -> str:
    """Return which cells are there, by task and seed, and what they cost."""
    lines = ["| task | seed 0 | seed 1 | seed 2 | CPU-s |", "|" + " --- |" * 5]
    for task in TASKS:
        there = Seeds.of(task, cells, TASKS[task].settings()).cells
        counts = [sum(seed == wanted for _, seed in there) for wanted in (0, 1, 2)]
        row = [f"{count} of {len(ARMS)} arms" for count in counts]
        lines.append(f"| {title(task)} | {' | '.join(row)} | {sum(cell['cpu_s'] for cell in there.values()):,.0f} |")
    return "\n".join(lines)


def label(arm: str) -> str:
    """Return what the row of *arm* is called."""
    return f"{LABELS.get(arm, arm)}: {ARMS[arm].about}" if ARMS[arm].kind != "federated" else ARMS[arm].about


def title(task: str) -> str:
    """Return what *task* is called."""
    return {"trec": "TREC"}.get(task, task.replace("_", " ").title())


def _seconds(cells: Sequence[Mapping[str, Any]]) -> str:
    played = [cell["cpu_s"] for cell in cells if "same_as" not in cell]
    return f"{mean(played):.0f}" if played else "as `fresh`"
