"""The page of the study and its picture: tables and every number in the prose come from the cells, none by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final, NamedTuple

from study_arms import ARMS
from study_tables import COLUMNS, LABELS, Cells, Column, Seeds, gaps, part_of, percentage, short, table, title, tried
from study_tasks import TASKS

GOAL: Final = 0.95
TRY: Final = re.compile(r"(<!--= tries (\w+) (\w+) (\d+)x(\d+) -->)[^<]*(<!--/-->)")
"""In the prose, a part of the gain among the tries, by task, arm, rounds and steps."""
NUMBER: Final = re.compile(r"(<!--= (\w+) (\w+) (\w+) (gain|\d) -->)[^<]*(<!--/-->)")
"""A number in the prose: of which record, task and arm, and which: its part of the gain, or what a column shows."""


class Bars(NamedTuple):
    """How the picture shows a record."""

    record: str
    about: str
    federated: str
    """The colour of federated arms; *other* is that of others."""
    other: str
    offset: float


BARS: Final = (
    Bars("long", "288 steps", "#1f5d80", "#8c8c8c", -0.19),
    Bars("short", "96 steps", "#8fc1dc", "#cfcfcf", 0.19),
)
Records = Mapping[str, Cells]
"""Cells by the name of their record: `long` is what the tasks are set to now, `short` a third of its steps."""


def written(text: str, records: Records, tries: Sequence[Mapping[str, Any]]) -> str:
    """Return the page *text* with its tables and numbers as *records* and *tries* have them.

    Raises:
        ValueError: a mark is missing, or names what was not played.
    """
    blocks = {
        **{task: table(of_record(records, "long", task)) for task in TASKS},
        **{f"verdict {record}": verdict(records, record) for record in records},
        "gaps": gaps(records["long"]),
        "short": short(records["short"]),
        "tries": tried(tries),
    }
    for name, block in blocks.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not mark.search(text):
            raise ValueError(f"the page has no marks <!-- {name} --> and <!-- /{name} --> to write between")
        text = mark.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
    if text.count("<!--= ") != len(TRY.findall(text)) + len(NUMBER.findall(text)):
        raise ValueError("the page quotes a number by a mark that is neither of a cell nor of a try")
    text = TRY.sub(lambda found: f"{found[1]}{best_try(tries, *found.group(2, 3, 4, 5))}{found[6]}", text)
    return NUMBER.sub(lambda found: f"{found[1]}{number(records, *found.group(2, 3, 4, 5))}{found[6]}", text)


def best_try(tries: Sequence[Mapping[str, Any]], task: str, arm: str, rounds: str, steps: str) -> str:
    """Return the part of the gain that the best of such tries has."""
    wanted = {"task": task, "arm": arm, "rounds": int(rounds), "steps": int(steps)}
    parts = [part_of(one, tries) for one in tries if wanted.items() <= one.items()]
    if not parts:
        raise ValueError(f"the page quotes {arm} on {task} in {rounds} rounds of {steps} steps, which was not tried")
    return percentage([max(parts)])


def of_record(records: Records, record: str, task: str) -> Seeds:
    """Return the cells of *task* in a record; in the long one, those with the settings of now."""
    return Seeds.of(task, records[record], TASKS[task].settings() if record == "long" else None)


def number(records: Records, record: str, task: str, arm: str, which: str) -> str:
    """Return one number of the prose, with its interval if there is one."""
    seeds = of_record(records, record, task)
    if which == "gain":
        shares = seeds.shares(arm, COLUMNS[task][0])
        if shares:
            return percentage(shares)
    else:
        column = COLUMNS[task][int(which)]
        values = list(seeds.values(arm, column).values())
        if values:
            return column.written(values)
    raise ValueError(f"the page quotes {arm} on {task}, which the record {record!r} does not have")


def verdict(records: Records, record: str) -> str:
    """Return, in a sentence a task, whether `mean` keeps what was hoped for, as far as the record tells."""
    lines = []
    for task in TASKS:
        seeds, column = of_record(records, record, task), COLUMNS[task][0]
        shares = seeds.shares(seeds.tuned("mean", column), column)
        said = "base, centralised and `mean` are not all played yet"
        if shares:
            kept = "reaches" if mean(shares) >= GOAL else "misses"
            each = f" (by seed: {', '.join(f'{100 * share:.0f} %' for share in shares)})" if len(shares) > 1 else ""
            said = f"`mean` has {percentage(shares)} of the centralised gain{each}, so it {kept} 95 %"
        lines.append(f"- {title(task)}: {said}; {beside_alone(seeds, column)}.")
    return "\n".join(lines)


def beside_alone(seeds: Seeds, column: Column) -> str:
    """Return how far `mean` is ahead of the average volunteer alone, over the seeds that have both."""
    ours, alone = (seeds.values(seeds.tuned(arm, column), column) for arm in ("mean", "alone"))
    ahead = [column.better * (ours[seed] - alone[seed]) for seed in sorted(ours.keys() & alone.keys())]
    if not ahead:
        return "nobody alone is played beside it yet"
    unit = f"{100 * mean(ahead):.1f} points" if column.percent else f"{mean(ahead):.3f} nats per token"
    beats = "beats" if mean(ahead) > 0 else "does not beat"
    return f"it {beats} the average volunteer alone, by {unit}, over {len(ahead)} seed{'s' * (len(ahead) > 1)}"


def draw(records: Records, path: Path) -> None:
    """Draw the part of the centralised gain that each arm has, a panel a task, a bar a record, a dot a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [arm for arm in ARMS if arm not in {"base", "flora"} and _played(records, arm)]
    figure, panels = plt.subplots(
        1, len(TASKS), figsize=(11, 1.6 + 0.36 * len(names)), sharey=True, layout="constrained"
    )
    for panel, task in zip(panels, TASKS, strict=True):
        for bar in BARS:
            seeds = of_record(records, bar.record, task)
            for place, arm in enumerate(names):
                shares = [100 * share for share in seeds.shares(arm, COLUMNS[task][0])]
                if shares:
                    colour = bar.federated if ARMS[arm].kind == "federated" else bar.other
                    panel.barh(place + bar.offset, mean(shares), color=colour, height=0.36)
                    panel.plot(shares, [place + bar.offset] * len(shares), "o", color="black", markersize=2.5)
        panel.axvline(95, color="#c0392b", linewidth=1, linestyle="--")
        what = "label words right" if COLUMNS[task][0].percent else "nats per token"
        panel.set_title(f"{title(task)}: {what}", fontsize=10)
        panel.set_yticks(range(len(names)), [LABELS.get(arm, arm) for arm in names])
        panel.set_xlim(-80, 170)
        panel.set_xlabel("% of the centralised gain over the base")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    shown = [mpl.patches.Patch(color=bar.federated, label=bar.about) for bar in BARS]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(BARS), frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _played(records: Records, arm: str) -> bool:
    """Return whether any record knows which part of the gain *arm* has."""
    return any(of_record(records, bar.record, task).shares(arm, COLUMNS[task][0]) for bar in BARS for task in TASKS)
