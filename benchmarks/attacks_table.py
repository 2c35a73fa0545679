"""The result file of attacks.py as Markdown tables and a picture.

    python benchmarks/attacks_table.py --results docs/attacks.json --png docs/attacks.png

Loss is the mean over seeds, in nats per byte.  "Worst" compares, seed by seed, with the run without attack and without
defence in which clients train the same factors.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm

CLEAN: Final = "none"
ORDER: Final = ("sign_flip", "ipm", "alie", "min_max", "scaling", "gaussian", "copied", "nan")
B_ALONE: Final = ("ffa", "median", "trimmed_mean", "bulyan")
ALLOWED: Final = 5.0
"""Per cent of the clean loss."""
DARK: Final = (0.5, 30.0)
"""Per cent below and above which the picture's colours are dark."""

Cells = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]


def cells_of(results: Mapping[str, Any]) -> Cells:
    """Return every (rule, attack) with its results by seed."""
    cells: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for key, cell in results["cells"].items():
        seed, rule, attack = key.split(" | ")
        cells[rule, attack][int(seed)] = cell
    return cells


def worse(cells: Cells, rule: str, attack: str) -> float:
    """Return by how many per cent the loss is above the clean run's, or NaN where there is no loss."""
    clean = cells["ffa" if rule in B_ALONE else "mean", CLEAN]
    mine = cells.get((rule, attack), {})
    shared = [seed for seed in mine if seed in clean]
    if not shared or not all("loss" in mine[seed] for seed in shared):
        return float("nan")
    return float(100 * np.mean([mine[seed]["loss"] / clean[seed]["loss"] - 1 for seed in shared]))


def written(by_seed: Mapping[int, Mapping[str, Any]]) -> str:
    """Return a cell as the table shows it."""
    if not by_seed:
        return "–"
    for what in ("refused", "diverged"):
        if any(what in cell for cell in by_seed.values()):
            return what
    return f"{np.mean([cell['loss'] for cell in by_seed.values()]):.3f}"


def table(cells: Cells, rules: Sequence[str], attacks: Sequence[str]) -> Iterable[str]:
    """Yield the lines of the table of losses."""
    yield "| weights or rule | " + " | ".join(attacks) + " | worst | seeds |"
    yield "|" + "---|" * (len(attacks) + 3)
    for rule in rules:
        losses = [written(cells.get((rule, attack), {})) for attack in attacks]
        above = {attack: worse(cells, rule, attack) for attack in attacks if attack != CLEAN}
        known = {attack: value for attack, value in above.items() if np.isfinite(value)}
        most = max(known, key=known.__getitem__, default="")
        worst = f"{known[most]:+.1f} % ({most})" if known else "–"
        seeds = min(len(cells[rule, attack]) for attack in attacks if (rule, attack) in cells)
        yield f"| {rule} | " + " | ".join(losses) + f" | {worst} | {seeds} |"


def agreement(cells: Cells, attacks: Sequence[str]) -> Iterable[str]:
    """Yield the lines of the table of selections from sketched and from exact inner products, in the default's runs."""
    attacks = [attack for attack in attacks if attack != CLEAN]  # there nobody is hostile
    runs = {attack: list(cells.get(("default", attack), {}).values()) for attack in attacks}
    steps = sorted({step for cells in runs.values() for cell in cells for step in cell.get("swapped", {})})
    yield "| selection | " + " | ".join(attacks) + " | all |"
    yield "|" + "---|" * (len(attacks) + 2)
    for step in steps:
        rounds = [[one for cell in runs[attack] for one in cell.get("swapped", {}).get(step, [])] for attack in attacks]
        for what, place in (("hostile", (1,)), ("everybody", (0, 1))):
            same = [[not any(one[i] for i in place) for one in each] for each in rounds]
            counts = [f"{sum(each)}/{len(each)}" for each in [*same, [one for each in same for one in each]]]
            yield f"| {step}, {what} | " + " | ".join(counts) + " |"


def screened(cells: Cells, attacks: Sequence[str]) -> Iterable[str]:
    """Yield the lines of the table of whom screening named in the default's runs, counted by update and round."""
    yield "| named | " + " | ".join(attacks) + " |"
    yield "|" + "---|" * (len(attacks) + 1)
    for what in ("found_hostile", "found_honest", "hostile_share"):
        counts = [[cell[what] for cell in cells.get(("default", attack), {}).values()] for attack in attacks]
        words = [f"{np.mean(each):.2f}" if what == "hostile_share" else f"{sum(each)}" for each in counts]
        yield f"| {what.replace('_', ' ')} | " + " | ".join(words) + " |"


def draw(cells: Cells, rules: Sequence[str], attacks: Sequence[str], png: Path) -> None:
    """Draw how many per cent above the clean run each cell is."""
    above = np.array([[worse(cells, rule, attack) for attack in attacks] for rule in rules])
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(1.0 * len(attacks) + 2.6, 0.42 * len(rules) + 1.6), layout="constrained")
    shown = axes.imshow(np.maximum(above, 0.3), norm=LogNorm(0.3, 100), cmap="RdYlGn_r", aspect="auto")
    axes.set_xticks(range(len(attacks)), attacks, rotation=30, ha="right")
    axes.set_yticks(range(len(rules)), rules)
    for (row, column), value in np.ndenumerate(above):
        said = f"{value:+.1f}" if np.isfinite(value) else written(cells.get((rules[row], attacks[column]), {}))
        pale = np.isfinite(value) and not DARK[0] < value < DARK[1]
        axes.text(column, row, said, ha="center", va="center", size=8, color="white" if pale else "black")
    axes.set_title(f"Held-out loss, % above the clean run (allowed for the default: {ALLOWED:g})", size=10)
    figure.colorbar(shown, label="% above")
    figure.savefig(png, dpi=110)


def main() -> None:
    """Read the results; print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/attacks.json"))
    parser.add_argument("--png", type=Path, default=Path("docs/attacks.png"))
    options = parser.parse_args()

    results = json.loads(options.results.read_text("utf-8"))
    cells = cells_of(results)
    plain = [CLEAN, *(a for a in ORDER if any(attack == a for _, attack in cells))]
    rules = sorted({rule for rule, _ in cells}, key=lambda rule: (rule in B_ALONE, rule != "mean", rule))
    special = sorted({attack for _, attack in cells if ":" in attack})
    print(json.dumps(results["about"], indent=1))
    print("", *table(cells, rules, plain), sep="\n")
    if special:
        print("", *table(cells, sorted({rule for rule, attack in cells if ":" in attack}), special), sep="\n")
    print("", *agreement(cells, plain), sep="\n")
    print("", *screened(cells, plain), sep="\n")
    draw(cells, rules, plain, options.png)


if __name__ == "__main__":
    main()
