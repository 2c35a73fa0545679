"""What fewer bytes cost on the demonstration's own task: four roles, SmolLM2, the demo's recipe but for its codec.

As `demo_settings` plays it, with every update encoded, decoded and, where the arm says so, fed back; beside float32 in
the same run.  Results are added to the file; arms that are there already are not run again.

    python benchmarks/upload_demo.py --cache ~/.cache/potluck --arms fp32 levels3 levels2of4 sparse64
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from statistics import mean
from types import MappingProxyType

import torch
from demo_settings import CASTS, Bench
from upload import Arm, Sender

from potluck.aggregation import Limits, LowRank, Update, aggregate, broadcast, decode, from_deltas
from potluck.client.data import read, split
from potluck.client.training.adapters import attach, detach, factors
from potluck.client.training.bases import load, pick_dtype, resolve, shapes
from potluck.client.training.loop import train
from potluck.simulations.texts import pick, plays, shakespeare, write_role
from potluck.wire.recipe import Recipe

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "fp32": Arm("fp32"),
        "int8": Arm("int8"),
        "nf4": Arm("nf4"),
        "levels4": Arm("levels", {"levels": 4}, 0.95),
        "levels3": Arm("levels", {"levels": 3}, 0.95),
        "levels2": Arm("levels", {"levels": 2}, 0.95),
        "levels2of2": Arm("levels", {"levels": 2, "block": 128, "of": 2}, 0.95),
        "levels2of4": Arm("levels", {"levels": 2, "block": 128, "of": 4}, 0.95),
        "levels2of3": Arm("levels", {"levels": 2, "block": 128, "of": 3}, 0.95),
        "sparse512": Arm("sparse2bit", {"k": 512}, 0.95),
        "sparse256": Arm("sparse2bit", {"k": 256}, 0.95),
        "sparse128": Arm("sparse2bit", {"k": 128}, 0.95),
        "sparse64": Arm("sparse2bit", {"k": 64}, 0.95),
    }
)


def play(bench: Bench, arm: Arm, rounds: int) -> dict[str, object]:
    """Return everybody's held-out loss after every round, and the mean bytes of an update."""
    senders = [Sender(arm) for _ in bench.parts]
    master: Mapping[str, LowRank] = {}
    state, sizes, losses = None, [], []
    adapter = bench.recipe.adapter
    for number in range(rounds):
        published = broadcast(master, adapter.init)
        arrived = []
        for client, part in enumerate(bench.parts):
            begun = bench.begin(published, number)
            model = attach(bench.model, begun.trainable, begun.tail, adapter)
            train(model, bench.batches(client, number), bench.recipe.training)
            update = Update(factors(model, adapter), begun.trainable, len(part.train), bench.recipe.training.steps)
            detach(model)
            data = senders[client].send(update)
            sizes.append(len(data))
            found = decode(data, limits=Limits())
            arrived.append(from_deltas(found, begun.trainable, examples=update.examples, steps=update.steps))
        result = aggregate(arrived, master, bench.recipe.pipeline(len(arrived)), state)
        master, state = result.master, result.state
        losses.append(bench.losses(broadcast(master, adapter.init)))
        print(f"  {arm.name}, round {number + 1}: {mean(losses[-1]):.4f}", flush=True)
    return {"arm": arm.name, "losses": losses, "bytes": mean(sizes)}


def opened(cache: Path, seed: int) -> Bench:
    """Return the demonstration's base, recipe and text."""
    with as_file(files("potluck.simulations") / "recipes" / "demo.toml") as path:
        recipe = Recipe.read(path)
    device = torch.device("cpu")
    base = resolve(recipe.model.base, cache=cache, progress=print)
    model, tokenizer = load(base, device, pick_dtype(device))
    roles = shakespeare(plays(cache))
    with tempfile.TemporaryDirectory() as folder:
        homes = [write_role(Path(folder), role, roles[role]) for role in pick(roles, CASTS["a"])]
        parts = [split(read(home).samples, recipe.data.held_out, seed) for home in homes]
    return Bench(model, tokenizer, shapes(base.folder, list(recipe.adapter.targets)), recipe, parts, seed)


def main() -> None:
    """Play every arm that is asked for, and print the table of all that were played."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "potluck")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=["fp32", "levels3", "levels2of4", "sparse64"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("docs/upload_demo.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(asked.results.read_text("utf-8")) if asked.results.exists() else []
    missing = [name for name in asked.arms if not any(one["name"] == name for one in results)]
    bench = opened(asked.cache, asked.seed) if missing else None
    for name in missing:
        began = time.process_time()
        results.append({"name": name, **play(bench, ARMS[name], asked.rounds), "cpu_s": time.process_time() - began})
        asked.results.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    exact = next((one for one in results if one["name"] == "fp32"), None)
    print("| codec | bytes | times smaller | loss after the last round | beside fp32 |\n|---|---|---|---|---|")
    for one in results:
        loss = mean(one["losses"][-1])
        beside = (
            f"{exact['bytes'] / one['bytes']:.1f} | {loss:.4f} | {100 * (loss / mean(exact['losses'][-1]) - 1):+.2f} %"
        )
        print(f"| {one['arm']} | {one['bytes']:.0f} | {beside} |")


if __name__ == "__main__":
    main()
