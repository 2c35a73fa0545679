"""One client after the other, by the very code of a volunteer's machine: slow, and what faster engines must equal."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import torch

from potluck.aggregation import Start, deltas
from potluck.client.lessons import Lesson, Outcome, Term
from potluck.client.starts import adapter_in
from potluck.client.training.adapters import attach, detach, factors, mount
from potluck.client.training.errors import TrainingDiverged
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.local import HELD_OUT_TOKENS, measured, texts_of
from potluck.client.training.loop import train
from potluck.client.training.together.resident import Resident, resident
from potluck.client.training.together.terms import started, suited
from potluck.client.work import Trained


@final
class SequentialEngine:
    """An Engine that does what LocalTrainer does for each client, without its checkpoints."""

    def __init__(
        self, cache: Path, *, threads: int = 1, dtype: str = "native", progress: Callable[[str], None] = lambda _: None
    ) -> None:
        """*cache* holds base models; *dtype* is one of DTYPES; *progress* is told about anything slow."""
        self._cache = cache
        self._threads = threads
        self._dtype = dtype
        self._progress = progress
        self._resident: Resident | None = None

    def train(self, term: Term, lessons: Sequence[Lesson]) -> list[Outcome]:
        """Train as Engine.train says; a lesson's bits do not depend on the others.

        Raises:
            PotluckError: the base model, the adapter or a client's data does not fit.
        """
        torch.set_num_threads(self._threads)
        base = self._base(term)
        starts = {rank: started(term, rank) for rank in {lesson.rank for lesson in lessons}}
        outcomes: list[Outcome] = []
        for lesson in lessons:
            try:
                outcomes.append(self._one(base, term, lesson, starts[lesson.rank]))
            except TrainingDiverged as error:
                outcomes.append(error)
        return outcomes

    def losses(self, term: Term, data: Sequence[Path]) -> list[tuple[float, int]]:
        """Return (nats per token, tokens) of the shared adapter on each client's held-out text, in their order.

        Raises:
            PotluckError: the base model, the adapter or a client's data does not fit.
        """
        torch.set_num_threads(self._threads)
        base, recipe = self._base(term), term.recipe
        published = adapter_in(term.adapter, recipe) if term.adapter else {}
        carried = any(one.rank for one in published.values())
        model = mount(base.model, published) if carried else base.model
        size = recipe.data.max_tokens
        rows = max(1, HELD_OUT_TOKENS // size)
        try:
            texts = (texts_of(recipe, path).held_out for path in data)
            return [held_out_loss(model, base.tokenizer, text, size, max_rows=rows) for text in texts]
        finally:
            if carried:
                detach(model)

    def _one(self, base: Resident, term: Term, lesson: Lesson, began: Start) -> Trained:
        recipe = suited(term.recipe, lesson)
        moves = recipe.moves(term.version)
        text = base.text(lesson.data)
        held_out = texts_of(recipe, lesson.data).held_out if lesson.measured else ()
        model = attach(base.model, began.trainable, began.tail, recipe.adapter, moves)
        try:
            before = measured(model, base.tokenizer, recipe, held_out) if held_out else 0.0
            ran = train(model, text.ordered(lesson.order), recipe.training)
            after = measured(model, base.tokenizer, recipe, held_out) if held_out else 0.0
            trained = factors(model, recipe.adapter)
        finally:
            detach(model)
        return Trained(
            deltas=deltas(trained, began.trainable, moves),
            examples=text.examples,
            steps=recipe.training.steps,
            tokens=ran.tokens if ran else 0,
            loss_before=before,
            loss_after=after,
        )

    def _base(self, term: Term) -> Resident:
        """Return the recipe's base model, in memory."""
        if self._resident is None or self._resident.recipe != term.recipe:
            self._resident = None
            self._resident = resident(term.recipe, self._cache, self._dtype, self._progress)
        return self._resident
