"""What fewer bytes cost: the held-out loss of a shared adapter after some rounds, for every codec beside float32.

One process plays twelve clients and their coordinator with the production code on a small real language model
(`small_lm`): train, add what waits, encode, decode, combine.  Every codec gets the same text, seeds and rounds.
Sizes are of the messages as they would travel.  Runs that the result file has already are not made again.

    python benchmarks/upload.py --cache ~/.cache/potluck --rounds 20 --seeds 0 1
    python benchmarks/upload.py --table            # the table and the picture, from the result file
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import numpy as np
import torch
from small_lm import Lesson, SmallLM, small_lm

from potluck.aggregation import (
    Limits,
    LowRank,
    Pipeline,
    State,
    Update,
    aggregate,
    broadcast,
    decode,
    deltas,
    encode,
    from_deltas,
)
from potluck.aggregation.codecs.feedback import feed, rebased

CLIENTS = range(12)
RESULTS = Path("docs/upload.json")
INIT = "continue"


@dataclass(frozen=True, slots=True)
class Arm:
    """A codec as a recipe states it; beta 0 is no error feedback."""

    codec: str
    settings: Mapping[str, int] = field(default_factory=dict)
    beta: float = 0.0
    turned: bool = True
    """Whether what waits is turned into the new start's basis."""

    @property
    def name(self) -> str:
        """In one line."""
        settings = "".join(f" {name}={value}" for name, value in self.settings.items())
        feedback = f", feedback {self.beta:g}" if self.beta else ""
        return f"{self.codec}{settings}{feedback}{'' if self.turned else ', not turned'}"


ARMS: Sequence[Arm] = (
    Arm("fp32"),
    Arm("int8"),
    Arm("nf4"),
    Arm("int4"),
    Arm("levels", {"levels": 4}, 0.95),
    Arm("levels", {"levels": 3}, 0.95),
    Arm("levels", {"levels": 2}, 0.95),
    Arm("levels", {"levels": 2}),
    Arm("levels", {"levels": 2, "block": 128, "of": 2}, 0.95),
    Arm("levels", {"levels": 2, "block": 128, "of": 4}, 0.95),
    Arm("sparse2bit", {"k": 1024}, 0.95),
    Arm("sparse2bit", {"k": 512}, 0.95),
    Arm("sparse2bit", {"k": 256}, 0.95),
    Arm("sparse2bit", {"k": 256}, 0.95, turned=False),
    Arm("sparse2bit", {"k": 128}, 0.95),
    Arm("sparse2bit", {"k": 64}, 0.95),
    Arm("topk", {"k": 64}, 0.95),
)


@dataclass(slots=True)
class Sender:
    """One client's encoder, and what waits for its next update."""

    arm: Arm
    left: Mapping[str, np.ndarray] = field(default_factory=dict)
    before: Mapping[str, LowRank] = field(default_factory=dict)

    def send(self, update: Update) -> bytes:
        """Return the update's message."""
        changes, arm = deltas(update.trained, update.start), self.arm

        def write(tensors: Mapping[str, np.ndarray]) -> bytes:
            return encode(tensors, arm.codec, lossless=True, **arm.settings)

        if not arm.beta:
            return write(changes)
        turned = rebased(self.left, self.before, update.start) if self.left and arm.turned else self.left
        fed = feed(changes, turned, write, beta=arm.beta)
        self.left, self.before = fed.left, update.start
        return fed.message


def play(model: SmallLM, arm: Arm, rounds: int, seed: int) -> tuple[list[float], float]:
    """Return the mean held-out loss after each fifth round, and the mean bytes of an update."""
    senders = [Sender(arm) for _ in CLIENTS]
    master: Mapping[str, LowRank] = {}
    state, sizes, losses = State(), [], []
    for number in range(rounds):
        published = broadcast(master, INIT)
        arrived = []
        for sender, update in zip(senders, model.train(published, CLIENTS, INIT, seed * 1000 + number), strict=True):
            data = sender.send(update)
            sizes.append(len(data))
            found = decode(data, limits=Limits())
            arrived.append(from_deltas(found, update.start, examples=update.examples, steps=update.steps))
        made = aggregate(arrived, master, Pipeline(rank=4 * model.lesson.rank), state)
        master, state = made.master, made.state
        if (number + 1) % 5 == 0:
            losses.append(mean(model.losses(broadcast(master, INIT), CLIENTS)))
    return losses, mean(sizes)


def told(results: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, float, float, float]]:
    """Yield (arm, times smaller, last loss, percent worse) of every arm, over its seeds, beside fp32 of the same."""
    table = {(one["arm"], one["seed"]): one for one in results}
    for arm in dict.fromkeys(one["arm"] for one in results):
        mine = [(one, table["fp32", seed]) for (name, seed), one in table.items() if name == arm]
        smaller = mean(exact["bytes"] / one["bytes"] for one, exact in mine)
        worse = mean(one["losses"][-1] / exact["losses"][-1] - 1 for one, exact in mine)
        yield str(arm), smaller, mean(one["losses"][-1] for one, _ in mine), 100 * worse


def table(results: Sequence[Mapping[str, object]], png: Path) -> None:
    """Print the table and draw the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    print("| codec | times smaller | loss, nats a byte | worse than fp32 |\n|---|---|---|---|")
    for arm, smaller, loss, worse in told(results):
        print(f"| {arm} | {smaller:.1f} | {loss:.4f} | {worse:+.2f} % |")
        axes.plot(
            smaller, worse, "o" if "feedback" in arm else "s", color="tab:blue" if "feedback" in arm else "tab:red"
        )
        label = arm.removesuffix(", feedback 0.95").replace("levels levels", "levels")
        axes.annotate(label, (smaller, worse), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.set(xscale="log", xlim=(0.9, 160), xlabel="times smaller than float32", ylabel="held-out loss, % worse")
    axes.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
    axes.set_title("blue: with error feedback; red: without", fontsize=9)
    axes.axhline(0.5, lw=0.5, color="grey")
    axes.axhline(2.0, lw=0.5, color="grey")
    figure.savefig(png, dpi=110)


def main() -> None:
    """Play every arm for every seed, or print what was played."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "potluck")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    results = json.loads(asked.results.read_text()) if asked.results.exists() else []
    if asked.table:
        table(results, asked.results.with_suffix(".png"))
        return
    torch.set_num_threads(1)
    model = small_lm(asked.cache, Lesson(rank=asked.rank))
    for seed in asked.seeds:
        for arm in ARMS:
            if any((one["arm"], one["seed"]) == (arm.name, seed) for one in results):
                continue
            began = time.process_time()
            losses, size = play(model, arm, asked.rounds, seed)
            cpu_s = time.process_time() - began
            results.append(
                {"arm": arm.name, "seed": seed, "bytes": size, "losses": losses, "cpu_s": cpu_s} | asdict(arm)
            )
            asked.results.write_text(json.dumps(results, indent=1) + "\n")
            print(arm.name, [round(loss, 4) for loss in losses], round(size), f"{cpu_s:.0f} CPU-s", flush=True)


if __name__ == "__main__":
    main()
