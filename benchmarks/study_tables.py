"""Tables, what they say, and the picture of the study: all of it from docs/study.json."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from study_arms import ARMS
from study_tasks import TASKS

Cells = Mapping[str, Mapping[str, Any]]
T_975: Final[Mapping[int, float]] = MappingProxyType({2: 12.706, 3: 4.303})
"""Student's t for a two-sided 95 % interval, by the number of seeds."""
GOAL: Final = 0.95
NOT_DONE: Final = "not played yet"
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
    def of(cls, task: str, cells: Cells) -> "Seeds":
        """Pick those of *task* as it is set now."""
        wanted, found = TASKS[task].settings(), {}
        for name, cell in cells.items():
            of, arm, seed = name.split("/")
            if of == task and cell["settings"] == wanted:
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


def write(cells: Cells, results: Path) -> None:
    """Put the tables into study.md beside *results*, between their marks, and draw the picture."""
    page = results.with_suffix(".md")
    if page.exists():
        text = page.read_text("utf-8")
        for name, block in {
            **{task: table(Seeds.of(task, cells)) for task in TASKS},
            "verdict": verdict(cells),
            "gaps": gaps(cells),
        }.items():
            mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            if not mark.search(text):
                raise ValueError(f"{page} has no marks <!-- {name} --> and <!-- /{name} --> to write between")
            text = mark.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
        page.write_text(text, "utf-8")
    else:
        print("\n\n".join([*(table(Seeds.of(task, cells)) for task in TASKS), verdict(cells)]))
    draw(cells, results.with_suffix(".png"))


def table(seeds: Seeds) -> str:
    """Return the table of one task: a row an arm."""
    columns = COLUMNS[seeds.task]
    heads = ["arm", "seeds", *(column.head for column in columns)]
    if not columns[0].percent:
        heads.append("perplexity")
    heads += ["part of the centralised gain", "learning rate", "steps", "tokens learned from", "MB up", "CPU-s"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for arm in ARMS:
        first = seeds.values(arm, columns[0])
        if not first:
            lines.append(f"| {_label(arm)} | 0 | {NOT_DONE} |" + " |" * (len(heads) - 3))
            continue
        row = [_label(arm), str(len(first))]
        row += [column.written(list(seeds.values(arm, column).values())) for column in columns]
        if not columns[0].percent:
            row.append(f"{math.exp(mean(first.values())):.1f}")
        shares = seeds.shares(arm, columns[0])
        row.append(f"{100 * mean(shares):.0f} %" if shares else "–")
        cells = [cell for (name, _), cell in seeds.cells.items() if name == arm]
        row.append(" ".join(sorted({f"{cell['rate']:g}" for cell in cells})) if arm != "base" else "–")
        row += [f"{mean(cell[key] for cell in cells):,.0f}" for key in ("steps", "tokens")]
        row.append(f"{mean(cell['bytes_up'] for cell in cells) / 1e6:.1f}")
        row.append(_seconds(cells))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def verdict(cells: Cells) -> str:
    """Return, in a sentence a task, whether `mean` keeps what was hoped for."""
    lines = []
    for task in TASKS:
        seeds, column = Seeds.of(task, cells), COLUMNS[task][0]
        shares = seeds.shares(seeds.tuned("mean", column), column)
        ours, alone = (seeds.values(seeds.tuned(arm, column), column) for arm in ("mean", "alone"))
        both = sorted(ours.keys() & alone.keys())
        if not shares or not both:
            lines.append(f"- {_title(task)}: {NOT_DONE}.")
            continue
        ahead = [column.better * (ours[seed] - alone[seed]) for seed in both]
        kept = "reaches" if mean(shares) >= GOAL else "misses"
        unit = f"{100 * mean(ahead):.1f} points" if column.percent else f"{mean(ahead):.3f} nats per token"
        beats = "beats" if mean(ahead) > 0 else "does not beat"
        each = ", ".join(f"{100 * share:.0f} %" for share in shares)
        lines.append(
            f"- {_title(task)}: `mean` has {100 * mean(shares):.0f} % of the centralised gain (by seed: {each}), so it "
            f"{kept} 95 %; it {beats} the average volunteer alone, by {unit} over {len(both)} seed(s)."
        )
    return "\n".join(lines)


def gaps(cells: Cells) -> str:
    """Return which cells are there, by task and seed, and what they cost."""
    lines = ["| task | seed 0 | seed 1 | seed 2 | CPU-s |", "|" + " --- |" * 5]
    for task in TASKS:
        there = Seeds.of(task, cells).cells
        counts = [sum(seed == wanted for _, seed in there) for wanted in (0, 1, 2)]
        row = [f"{count} of {len(ARMS)} arms" for count in counts]
        lines.append(f"| {_title(task)} | {' | '.join(row)} | {sum(cell['cpu_s'] for cell in there.values()):,.0f} |")
    return "\n".join(lines)


def draw(cells: Cells, path: Path) -> None:
    """Draw the part of the centralised gain that each arm has, a panel a task, a dot a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [arm for arm in ARMS if arm not in {"base", "flora"}]
    figure, panels = plt.subplots(1, len(TASKS), figsize=(11, 5), sharey=True, layout="constrained")
    for panel, task in zip(panels, TASKS, strict=True):
        seeds, column = Seeds.of(task, cells), COLUMNS[task][0]
        for place, arm in enumerate(names):
            shares = [100 * share for share in seeds.shares(arm, column)]
            federated = ARMS[arm].kind == "federated"
            if shares:
                panel.barh(place, mean(shares), color="#3b7ea1" if federated else "#b8b8b8", height=0.65)
                panel.plot(shares, [place] * len(shares), "o", color="black", markersize=3)
            else:
                panel.text(2, place, NOT_DONE, va="center", fontsize=7, color="grey")
        panel.axvline(95, color="#c0392b", linewidth=1, linestyle="--")
        panel.set_title(f"{_title(task)}: {'label words right' if column.percent else 'nats per token'}", fontsize=10)
        panel.set_yticks(range(len(names)), [LABELS.get(arm, arm) for arm in names])
        panel.set_xlabel("% of the centralised gain over the base")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(arm: str) -> str:
    return f"{LABELS.get(arm, arm)}: {ARMS[arm].about}" if ARMS[arm].kind != "federated" else ARMS[arm].about


def _title(task: str) -> str:
    return {"trec": "TREC"}.get(task, task.replace("_", " ").title())


def _seconds(cells: Sequence[Mapping[str, Any]]) -> str:
    played = [cell["cpu_s"] for cell in cells if "same_as" not in cell]
    return f"{mean(played):.0f}" if played else "as `fresh`"
