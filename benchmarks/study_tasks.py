"""The three tasks of the study: whose text it is, what is trained on it, and on what everybody is measured."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from potluck.client.data import read
from potluck.client.readers import Sample
from potluck.client.training.bases import Base
from potluck.client.training.bases import shapes as shapes_of
from potluck.client.training.local import texts_of
from potluck.simulations.worlds.base import Person
from potluck.simulations.worlds.building import build
from potluck.simulations.worlds.chance import generator
from potluck.simulations.worlds.corpora import KINDS, OPINIONS, row_of
from potluck.simulations.worlds.tables import DeviceShare, Partition, Scenario, Text
from potluck.wire.aggregating import Aggregation
from potluck.wire.bases import Model
from potluck.wire.recipe import Adapter, Data, Recipe, Run, Training

MIXED: Final = (2, 4, 8, 16)
"""Ranks of the volunteers, in turn, where they differ."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is the same for all arms of a table."""

    source: str
    """A key of SOURCES."""
    partition: str
    people: int
    """Among whom the corpus is divided; the first *volunteers* of them take part."""
    alpha: float = 2.0
    minimum: int = 2
    volunteers: int = 4
    rounds: int = 6
    steps: int = 12
    """Of a volunteer in a round."""
    row: int = 64
    """Tokens; a step is one row of them."""
    low: float = 1e-3
    high: float = 2e-3
    """The two learning rates that are tried: low suits steps one after another, high steps that are averaged."""
    rank: int = 8
    held_out: float = 0.2
    tested: int = 0
    """Samples of people who do not take part that everybody is measured on; 0: each on its own held-out text."""
    words: tuple[str, ...] = ()
    """The label words among which a sample's answer is looked for."""

    def settings(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return settings

    def changed(self, changes: Mapping[str, str]) -> "Task":
        """Return the same with other numbers, by their names.

        Raises:
            ValueError: a task has no such number, or it is none.
        """
        numbers = {name: type(value) for name, value in asdict(self).items() if isinstance(value, int | float)}
        if unknown := changes.keys() - numbers:
            raise ValueError(f"a task has no number {', '.join(sorted(unknown))}; it has {', '.join(numbers)}")
        return replace(self, **{name: numbers[name](value) for name, value in changes.items()})


TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "shakespeare": Task("shakespeare", "natural", people=4, minimum=24),
        "trec": Task("trec", "label_skew", people=48, low=2e-3, high=4e-3, tested=200, words=tuple(KINDS.values())),
        "rotten_tomatoes": Task("rotten_tomatoes", "iid", people=72, tested=200, words=OPINIONS),
    }
)


@dataclass(frozen=True, slots=True)
class Ground:
    """One task under one seed: the recipe of `mean`, who takes part, and what is asked of whom."""

    task: Task
    seed: int
    recipe: Recipe
    people: tuple[Person, ...]
    pooled: Path
    """All that the volunteers train on, in one folder."""
    own: tuple[tuple[Sample, ...], ...]
    """Each volunteer's own held-out samples."""
    common: tuple[Sample, ...]
    """Samples of people who do not take part; none where everybody is measured on its own."""


def recipe_for(task: Task, base: Base, rule: str = "mean", init: str = "continue") -> Recipe:
    """Return the recipe by which *task* is learned: every update counts, by its examples, and nobody is hostile."""
    targets = Adapter().targets
    return Recipe(
        run=Run(name=f"study-{task.source.replace('_', '-')}", versions=task.rounds),
        model=Model(base=base.name, digest=base.digest, modules=shapes_of(base.folder, targets)),
        adapter=Adapter(rank=task.rank, alpha=2.0 * task.rank, init=init),
        data=Data(max_tokens=task.row, held_out=task.held_out),
        training=Training(steps=task.steps, batch=1, learning_rate=task.high),
        aggregation=Aggregation(
            rule=rule,
            weights=("examples",),
            hostile=0.0,
            mode="synchronous",
            cohort=task.volunteers,
            minimum=task.volunteers,
            over_selection=1.0,
            master_rank=4 * task.rank,
        ),
    )


def ground(task: Task, base: Base, seed: int, cache: Path, folder: Path) -> Ground:
    """Divide the corpus of *task* under *folder*; the same seed, the same bytes.

    Raises:
        PotluckError: the text is not there, or too little.
    """
    recipe = recipe_for(task, base)
    scenario = Scenario(
        name="study",
        seed=seed,
        text=Text(source=task.source),
        partition=Partition(kind=task.partition, alpha=task.alpha, minimum=task.minimum),
        devices=(DeviceShare(name="laptop"),),
    )
    world = build(scenario, recipe, task.people, folder, cache=cache)
    people, others = world.people[: task.volunteers], world.people[task.volunteers :]
    own = tuple(texts_of(recipe, person.data).held_out for person in people)
    return Ground(task, seed, recipe, people, _pooled(people, folder / "pooled"), own, _common(task, seed, others))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that goes when it is closed: text is not kept."""
    return tempfile.TemporaryDirectory(prefix="potluck-study-")


def _common(task: Task, seed: int, others: Sequence[Person]) -> tuple[Sample, ...]:
    """Return so many samples of *others*, drawn evenly."""
    if not task.tested:
        return ()
    samples = [sample for person in others for sample in read(person.data).samples]
    order = generator(seed, "study", "test").permutation(len(samples))[: task.tested]
    return tuple(samples[i] for i in order)


def _pooled(people: Sequence[Person], folder: Path) -> Path:
    """Write all samples of *people* to *folder*; what is held out is chosen by its content, so it is the same there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row_of(sample) for person in people for sample in read(person.data).samples]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "text.jsonl").write_text("\n".join([*lines, ""]), "utf-8", newline="\n")
    return folder
