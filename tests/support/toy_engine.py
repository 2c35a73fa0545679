"""An engine without a model: what it says follows from the term and the lesson alone."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from potluck.aggregation.errors import PotluckError
from potluck.client.lessons import Lesson, Outcome, Term
from potluck.client.work import Trained
from potluck.simulations.worlds.tables import Scenario
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import Manifest

MODULES = {"layer.q_proj": [12, 10], "layer.v_proj": [8, 10]}


@dataclass
class ToyEngine:
    """Moves every factor by numbers drawn from the shared adapter, the order of samples and the rank."""

    groups: list[int] = field(default_factory=list)
    """How many lessons came at once, call by call."""
    on_train: Callable[[], None] = lambda: None
    fails: Callable[[Term, Lesson], bool] = lambda _term, _lesson: False
    """Whose training comes to nothing."""

    def train(self, term: Term, lessons: Sequence[Lesson]) -> list[Outcome]:
        self.groups.append(len(lessons))
        self.on_train()
        return [self._failed() if self.fails(term, lesson) else self._one(term, lesson) for lesson in lessons]

    def losses(self, term: Term, data: Sequence[Path]) -> list[tuple[float, int]]:
        return [(3.0 / (1 + term.version) + len(path.name) / 100, 10 + i) for i, path in enumerate(data)]

    @staticmethod
    def _failed() -> PotluckError:
        return PotluckError("the loss is nan at step 1 of 3", fix="lower training.learning_rate")

    def _one(self, term: Term, lesson: Lesson) -> Trained:
        recipe = term.recipe
        facts = hashlib.sha256(term.adapter + f"{term.seed}/{lesson.order}/{lesson.rank}".encode()).digest()
        rng = np.random.default_rng(list(facts))
        rank = lesson.rank or recipe.adapter.rank
        manifest = Manifest.of_update(recipe.modules(), rank, recipe.moves(term.version))
        moved = {name: rng.normal(0.1, 0.05, shape).astype(np.float32) for name, shape in manifest.entries}
        tokens = int(rng.integers(50, 400))
        return Trained(moved, examples=5 + tokens % 7, steps=recipe.training.steps, tokens=tokens)


def toy_recipe(**tables: Mapping[str, Any]) -> Recipe:
    """Return a recipe of a model that nobody has."""
    rounds = {"cohort": 4, "weights": ["examples", "staleness"], **tables.pop("aggregation", {})}
    model = {"base": "toy", "digest": "ab" * 32, "modules": MODULES}
    table = {"run": {"name": "toy"}, "model": model, "adapter": {"rank": 2}, "aggregation": rounds, **tables}
    return Recipe.parse(json.dumps(table))


def toy_scenario(folder: Path, people: int = 12, **tables: object) -> Scenario:
    """Return a scenario in which each of *people* has a few sentences."""
    for person in range(people):
        home = folder / "text" / f"person-{person}"
        home.mkdir(parents=True, exist_ok=True)
        for note in range(4):
            (home / f"{note}.txt").write_text(f"Note {note} of person {person}: the hen saw the fox. " * 3, "utf-8")
    text = {"source": str(folder / "text")}
    devices = [{"name": "laptop"}]
    return Scenario.parse(json.dumps({"name": "toys", "text": text, "devices": devices, **tables}))
