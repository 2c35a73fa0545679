"""The arms of the study: what each does with the same steps and the same text, and what comes of it."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from study_scores import Judge, Score, total
from study_tasks import MIXED, Ground, Task, ground, recipe_for

from potluck.aggregation import CODECS, LowRank, Update, decode, from_deltas, start
from potluck.aggregation.container import Limits
from potluck.client.lessons import Lesson, Term, all_trained
from potluck.client.starts import adapter_in
from potluck.client.training.bases import Base
from potluck.client.training.together.batched import BatchedEngine
from potluck.client.work import Trained, order_of
from potluck.coordinator.checkpoints import Checkpoint, read_checkpoint
from potluck.coordinator.combine import combined
from potluck.simulations.worlds.chance import uniform
from potluck.wire.recipe import Recipe

Adapter = Mapping[str, LowRank]
READ: Final = Limits(max_bytes=1 << 30, max_tensors=1 << 16, max_values=1 << 30)


ROW_BY_ROW: Final = frozenset({"centralised", "alone"})
"""Kinds whose steps are of one row each, one after another: they begin with the low learning rate, others the high."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What is done with the volunteers' text; a federated arm has a rule."""

    about: str
    kind: str = "federated"
    rule: str = "mean"
    init: str = "continue"
    mixed: bool = False
    momentum: float = 0.0
    """Beta of the outer step `fedavgm`; 0: `fedavg`."""
    other: bool = False
    """Whether it trains with that one of the task's two learning rates that its kind does not begin with."""


ARMS: Final[Mapping[str, Arm]] = MappingProxyType(
    {
        "base": Arm("the base model, untrained", "base"),
        "centralised": Arm("all text in one place, the steps of all volunteers one after the other", "centralised"),
        "centralised_other": Arm("as above, with the other learning rate", "centralised", other=True),
        "alone": Arm("each volunteer by itself, with the steps that it gave to the federation in all", "alone"),
        "alone_other": Arm("as above, with the other learning rate", "alone", other=True),
        "mean": Arm("`mean`, init `continue`"),
        "mean_other": Arm("`mean`, init `continue`, with the other learning rate", other=True),
        "orthonormal": Arm("`mean`, init `orthonormal`", init="orthonormal"),
        "fresh": Arm("`mean`, init `fresh`; the same as `flora`", init="fresh"),
        "half": Arm("`mean`, init `half`", init="half"),
        "fedit": Arm("`fedit`", rule="fedit"),
        "ffa": Arm("`ffa`", rule="ffa"),
        "fedsvd": Arm("`fedsvd`", rule="fedsvd"),
        "rolora": Arm("`rolora`", rule="rolora"),
        "flora": Arm("`flora`, init `fresh`", rule="flora", init="fresh"),
        "flexlora": Arm("`flexlora`", rule="flexlora"),
        "mean_mixed": Arm("`mean`, ranks 2, 4, 8 and 16", mixed=True),
        "flexlora_mixed": Arm("`flexlora`, ranks 2, 4, 8 and 16", rule="flexlora", mixed=True),
        "momentum": Arm("`mean`, outer step `fedavgm` with beta 0.5", momentum=0.5),
        "large_batch": Arm("all text in one place, a volunteer's steps with the rows of all in each", "large_batch"),
    }
)


@dataclass(slots=True)
class Outcome:
    """What an arm leaves: an adapter, or one for each volunteer, and what it took."""

    adapters: list[Adapter]
    steps: int = 0
    """Of all volunteers together."""
    tokens: int = 0
    """Predictions learned from."""
    bytes_up: int = 0
    trace: list[float] = field(default_factory=list)
    """Size of the shared adapter after each round, as a Frobenius norm over all modules."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the cells of one task and seed share."""

    base: Base
    engine: BatchedEngine
    judge: Judge
    ground: Ground

    @classmethod
    def of(cls, base: Base, task: Task, seed: int, folders: tuple[Path, Path], dtype: str) -> "Bench":
        """Make it; *folders* are the cache and where text may be written."""
        cache, folder = folders
        judge = Judge.of(base, task.row, task.words, getattr(torch, dtype))
        engine = BatchedEngine(cache, threads=1, at_once=task.volunteers, dtype=dtype)
        return cls(base, engine, judge, ground(task, base, seed, cache, folder))

    def recipe(self, arm: Arm) -> Recipe:
        """Return the recipe of *arm*; of one without a federation, what it trains with."""
        recipe = recipe_for(self.ground.task, self.base, arm.rule, arm.init)
        aggregation, training = recipe.aggregation, recipe.training
        if arm.momentum:
            outer = {"outer": "fedavgm", "settings": {"beta": arm.momentum}}
            aggregation = aggregation.model_copy(update=outer)
        if (arm.kind in ROW_BY_ROW) != arm.other:
            training = training.model_copy(update={"learning_rate": self.ground.task.low})
        if arm.kind == "large_batch":
            training = training.model_copy(update={"batch": self.ground.task.volunteers})
        return recipe.model_copy(update={"aggregation": aggregation, "training": training})

    def seed_of(self, version: int) -> int:
        """Return the seed of the start from *version*: the same in all arms."""
        return int(uniform(self.ground.seed, "study", "version", version) * 2**52)

    def lessons(self, version: int, *, mixed: bool = False, steps: int = 0) -> list[Lesson]:
        """Return the volunteers' lessons from *version*."""
        seed, people = self.seed_of(version), self.ground.people
        ranks = [MIXED[i % len(MIXED)] if mixed else 0 for i in range(len(people))]
        return [
            Lesson(person.data, order_of(person.name, seed), rank=rank, steps=steps)
            for person, rank in zip(people, ranks, strict=True)
        ]


def play(bench: Bench, name: str) -> dict[str, Any]:
    """Return the cell of the arm called *name*, as JSON has it."""
    arm, began, busy = ARMS[name], time.monotonic(), time.process_time()
    outcome = KINDS_OF_ARM[arm.kind](bench, arm)
    trained = time.process_time()
    common, own = measured(bench, outcome.adapters)
    return {
        "common": _told(common),
        "own": [_told([score]) for score in own],
        "rate": bench.recipe(arm).training.learning_rate,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "bytes_up": outcome.bytes_up,
        "norms": outcome.trace,
        "train_cpu_s": round(trained - busy, 1),
        "cpu_s": round(time.process_time() - busy, 1),
        "wall_s": round(time.monotonic() - began, 1),
    }


def measured(bench: Bench, adapters: Sequence[Adapter]) -> tuple[list[Score], list[Score]]:
    """Return scores on the common samples, one an adapter, and each volunteer's on its own held-out samples."""
    there = bench.ground
    common = [bench.judge.score(adapter, there.common) for adapter in adapters] if there.common else []
    each = adapters if len(adapters) == len(there.own) else list(adapters) * len(there.own)
    return common, [bench.judge.score(adapter, own) for adapter, own in zip(each, there.own, strict=True)]


def untrained(bench: Bench, arm: Arm) -> Outcome:  # noqa: ARG001 - as the other kinds
    """Return nothing added to the base."""
    return Outcome([{}])


def alone(bench: Bench, arm: Arm) -> Outcome:
    """Train each volunteer by itself."""
    task, recipe = bench.ground.task, bench.recipe(arm)
    results = all_trained(
        bench.engine.train(_term(bench, recipe, 0, b""), bench.lessons(0, steps=task.rounds * task.steps))
    )
    return _outcome([_whole(bench, recipe, one) for one in results], results)


def centralised(bench: Bench, arm: Arm) -> Outcome:
    """Train on all text in one place: every step of every volunteer, or theirs at the same time in larger batches."""
    task, recipe = bench.ground.task, bench.recipe(arm)
    steps = task.rounds * task.steps * (1 if arm.kind == "large_batch" else task.volunteers)
    lesson = Lesson(bench.ground.pooled, order_of("pooled", bench.seed_of(0)), steps=steps)
    results = all_trained(bench.engine.train(_term(bench, recipe, 0, b""), [lesson]))
    return _outcome([_whole(bench, recipe, results[0])], results)


def federated(bench: Bench, arm: Arm) -> Outcome:
    """Play all rounds: starts, training, codec and combining as a run has them."""
    recipe = bench.recipe(arm)
    before, adapter = Checkpoint(), b""
    outcome = Outcome([])
    for version in range(bench.ground.task.rounds):
        term = _term(bench, recipe, version, adapter)
        lessons = bench.lessons(version, mixed=arm.mixed)
        results = all_trained(bench.engine.train(term, lessons))
        updates = []
        for lesson, one in zip(lessons, results, strict=True):
            update, size = _sent(term, lesson, one)
            updates.append(update)
            outcome.bytes_up += size
        done = combined(recipe, sorted(updates, key=lambda update: update.key), before)
        before, adapter = read_checkpoint(done.checkpoint), done.adapter
        outcome.steps += sum(one.steps for one in results)
        outcome.tokens += sum(one.tokens for one in results)
        outcome.trace.append(round(_norm(before.master), 4))
    outcome.adapters = [adapter_in(adapter, recipe)]
    return outcome


KINDS_OF_ARM: Final[Mapping[str, Callable[[Bench, Arm], Outcome]]] = MappingProxyType(
    {
        "base": untrained,
        "alone": alone,
        "centralised": centralised,
        "large_batch": centralised,
        "federated": federated,
    }
)


def _term(bench: Bench, recipe: Recipe, version: int, adapter: bytes) -> Term:
    return Term(recipe, version, bench.seed_of(version), adapter)


def _begun(term: Term, rank: int) -> Adapter:
    """Return what clients of *rank* (0: the recipe's) train from."""
    recipe = term.recipe
    settings = recipe.adapter.model_copy(update={"rank": rank or recipe.adapter.rank})
    there = adapter_in(term.adapter, recipe) if term.adapter else {}
    shapes = recipe.modules()
    return start(there, shapes, init=recipe.init, rank=settings.rank, scale=settings.scale, seed=term.seed).trainable


def _sent(term: Term, lesson: Lesson, one: Trained) -> tuple[Update, int]:
    """Return the update that a coordinator reads of what was trained, and its bytes on the way."""
    recipe = term.recipe
    data = recipe.codec.choose(tuple(CODECS)).encode(one.deltas)
    update = from_deltas(
        decode(data, limits=READ),
        _begun(term, lesson.rank),
        examples=one.examples,
        steps=one.steps,
        moves=recipe.moves(term.version),
    )
    return Update(update.trained, update.start, update.examples, update.steps, key=hashlib.sha256(data).digest()), len(
        data
    )


def _whole(bench: Bench, recipe: Recipe, one: Trained) -> Adapter:
    """Return what was trained from nothing as an adapter."""
    began = _begun(_term(bench, recipe, 0, b""), 0)
    return from_deltas(one.deltas, began, examples=one.examples).trained


def _outcome(adapters: list[Adapter], results: Sequence[Trained]) -> Outcome:
    return Outcome(adapters, sum(one.steps for one in results), sum(one.tokens for one in results))


def _norm(master: Adapter) -> float:
    """Return ‖G‖ over all modules, without forming a product."""
    squares = [((m.b.T @ m.b) * (m.a @ m.a.T)).sum() * m.scale**2 for m in master.values()]
    return float(sum(squares)) ** 0.5


def _told(scores: Sequence[Score]) -> dict[str, Any]:
    """Return *scores* together, as JSON has them; of several adapters, each asked the same, that is their mean."""
    if not scores:
        return {}
    told = asdict_of(total(scores))
    if scores[0].asked:
        told["accuracies"] = [round(score.accuracy, 5) for score in scores]
    return told


def asdict_of(score: Score) -> dict[str, Any]:
    """Return *score* with its means."""
    result: dict[str, Any] = {"loss": round(score.loss, 5), "tokens": score.tokens}
    if score.asked:
        result |= {"accuracy": round(score.accuracy, 5), "asked": score.asked}
    return result
