"""Many clients at once: their adapters stacked over one frozen base, one batched product per adapted module."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from potluck.aggregation import Start
from potluck.client.lessons import Lesson, Outcome, Term
from potluck.client.starts import adapter_in
from potluck.client.training.batches import IGNORED, Batch, Tokens, collate
from potluck.client.training.errors import NoBatches, TrainingDiverged
from potluck.client.training.together.llama import Llama, understood
from potluck.client.training.together.networks import Hooked, Network
from potluck.client.training.together.resident import Resident, Text, resident
from potluck.client.training.together.room import room
from potluck.client.training.together.stack import Stack, shared, stacked
from potluck.client.training.together.stepping import Stepping
from potluck.client.training.together.terms import started, suited
from potluck.client.work import Trained
from potluck.wire.recipe import Recipe


@final
@dataclass(frozen=True, slots=True)
class Pupil:
    """One lesson with all that it needs; *place* is where its result goes."""

    place: int
    lesson: Lesson
    text: Text
    start: Start
    steps: int
    rank: int

    def company(self) -> tuple[int, int, int]:
        """Sort by this: who is done leaves from the end, and clients alike in rank and rows need little padding."""
        return -self.steps, -self.rank, -self.text.row


@final
@dataclass(frozen=True, slots=True)
class Loaded:
    """A base model in memory, and the network that it is part of."""

    base: Resident
    network: Network


@final
class BatchedEngine:
    """An Engine that trains at_once clients in each forward and backward pass.

    Every client has its own data, gradient, clipping, moments, rank and number of steps; what it ends with differs from
    the SequentialEngine's by rounding alone.  Clients are taken in the order of their steps, so that those who are done
    leave from the end of the stack.
    """

    def __init__(
        self,
        cache: Path,
        *,
        threads: int = 1,
        at_once: int | None = None,
        dtype: str = "native",
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """*cache* holds base models; *at_once* None means as many as fit; *dtype* is one of DTYPES."""
        self._cache = cache
        self._threads = threads
        self._at_once = at_once
        self._dtype = dtype
        self._progress = progress
        self._loaded: Loaded | None = None

    def train(self, term: Term, lessons: Sequence[Lesson]) -> list[Outcome]:
        """Train as Engine.train says.  Which lessons share a batch depends on *lessons* and at_once alone.

        Raises:
            PotluckError: the base model, the adapter or a client's data does not fit.
        """
        torch.set_num_threads(self._threads)
        loaded = self._load(term.recipe)
        pupils = sorted(_pupils(term, lessons, loaded.base), key=Pupil.company)
        most = self._at_once or room(loaded.base, max((pupil.rank for pupil in pupils), default=1))
        results: dict[int, Outcome] = {}
        for first in range(0, len(pupils), most):
            group = pupils[first : first + most]
            results |= zip((pupil.place for pupil in group), _taught(loaded, term, group), strict=True)
        return [results[place] for place in range(len(lessons))]

    def losses(self, term: Term, data: Sequence[Path]) -> list[tuple[float, int]]:
        """Return (nats per token, tokens) of the shared adapter on each client's held-out text, in their order.

        Raises:
            PotluckError: the base model, the adapter or a client's data does not fit.
        """
        torch.set_num_threads(self._threads)
        loaded = self._load(term.recipe)
        return _shared_losses(loaded, term, [loaded.base.text(path) for path in data])

    def room(self, recipe: Recipe, rank: int = 0) -> int:
        """Return how many clients of *rank* (0: the recipe's) at_once None puts into a batch on this machine.

        Raises:
            PotluckError: the base model is nowhere, or not the recipe's.
        """
        return room(self._load(recipe).base, rank or recipe.adapter.rank)

    def _load(self, recipe: Recipe) -> Loaded:
        """Return the recipe's base model, in memory."""
        if self._loaded is None or self._loaded.base.recipe != recipe:
            self._loaded = None
            base = resident(recipe, self._cache, self._dtype, self._progress)
            self._loaded = Loaded(base, network(base.model, recipe.modules()))
        return self._loaded


def network(model: Any, modules: Iterable[str]) -> Network:  # noqa: ANN401 - transformers is untyped
    """Return the fastest network there is for *model* with adapters on *modules*."""
    return Llama(model) if understood(model, modules) else Hooked(model, modules)


def _pupils(term: Term, lessons: Sequence[Lesson], base: Resident) -> Iterator[Pupil]:
    starts: dict[int, Start] = {}
    for place, lesson in enumerate(lessons):
        recipe = suited(term.recipe, lesson)
        rank = recipe.adapter.rank
        if rank not in starts:
            starts[rank] = started(term, rank)
        yield Pupil(place, lesson, base.text(lesson.data), starts[rank], recipe.training.steps, rank)


def _taught(loaded: Loaded, term: Term, group: Sequence[Pupil]) -> list[Outcome]:
    """Train *group*, whose steps do not grow, together."""
    base, recipe = loaded.base, term.recipe
    measured = [i for i, pupil in enumerate(group) if pupil.lesson.measured]
    before = _shared_losses(loaded, term, [group[i].text for i in measured])
    stack = stacked([pupil.start for pupil in group], recipe.moves(term.version), base.dtype, base.device)
    tokens, diverged = _train(loaded, stack, group)
    after = _own_losses(loaded, stack, group, measured)
    losses = {i: (first[0], last) for i, first, last in zip(measured, before, after, strict=True)}
    return [
        diverged[i]
        if i in diverged
        else Trained(stack.deltas(i), pupil.text.examples, pupil.steps, tokens[i], *losses.get(i, (0.0, 0.0)))
        for i, pupil in enumerate(group)
    ]


def _train(loaded: Loaded, stack: Stack, group: Sequence[Pupil]) -> tuple[list[int], dict[int, TrainingDiverged]]:
    """Train the *stack* of *group* in place; return the tokens that each learned from, and whose loss was not finite.

    Nothing of one client reaches another's numbers, so that those go on as they would without it.
    """
    training, device = loaded.base.recipe.training, loaded.base.device
    stepping = Stepping.of(stack, training)
    waiting = [pupil.text.ordered(pupil.lesson.order).rows_after(0) for pupil in group]
    learned = torch.zeros(len(group), dtype=torch.int64, device=device)
    diverged: dict[int, TrainingDiverged] = {}
    for done in range(group[0].steps):
        clients = sum(pupil.steps > done for pupil in group)
        batch = collate([row for rows in waiting[:clients] for row in next(rows)], pad_id=0).to(device)
        tokens = (batch.labels != IGNORED).view(clients, -1).sum(1)
        leaves = stack.leaves(clients)
        losses = loaded.network.losses(batch, stack.parts(leaves, clients)).view(clients, -1).sum(1)
        losses = losses / tokens.clamp(min=1)
        for client in losses.detach().isfinite().logical_not().nonzero()[:, 0].tolist():
            if client not in diverged:
                diverged[client] = _named(group[client], float(losses[client].detach()), done, training.learning_rate)
        gradients = torch.autograd.grad(losses.sum(), leaves)
        stepping.step(torch.cat([gradient.flatten(1) for gradient in gradients], dim=1), done)
        learned[:clients] += tokens
    counts: list[int] = learned.tolist()
    return counts, diverged


def _named(pupil: Pupil, loss: float, done: int, rate: float) -> TrainingDiverged:
    """Return what there is to say of a *loss* that is not finite."""
    return TrainingDiverged(
        f"the loss on {pupil.lesson.data} is {loss} at step {done + 1} of {pupil.steps}",
        fix=f"lower training.learning_rate, now {rate:g}, or set training.clip_grad_norm to 1",
    )


def _shared_losses(loaded: Loaded, term: Term, texts: Sequence[Text]) -> list[tuple[float, int]]:
    """Return (nats per token, tokens) of the shared adapter on the held-out rows of each of *texts*."""
    if not texts:
        return []
    base = loaded.base
    published = adapter_in(term.adapter, term.recipe) if term.adapter else {}
    parts = shared(published, base.dtype, base.device)
    rows = [row for text in texts for row in text.held_out]
    owners = [i for i, text in enumerate(texts) for _ in text.held_out]
    sums, tokens = [0.0] * len(texts), [0] * len(texts)
    at_once = max(1, room(base, 1))
    with torch.no_grad():
        for first in range(0, len(rows), at_once):
            batch = collate(rows[first : first + at_once], pad_id=0).to(base.device)
            losses = loaded.network.losses(batch, parts).tolist()
            counts = _counts(batch)
            for owner, loss, count in zip(owners[first : first + at_once], losses, counts, strict=True):
                sums[owner] += loss
                tokens[owner] += count
    return [_mean(total, count) for total, count in zip(sums, tokens, strict=True)]


def _own_losses(loaded: Loaded, stack: Stack, group: Sequence[Pupil], measured: Sequence[int]) -> list[float]:
    """Return the held-out loss of each of the *measured*, in nats per token, on what they trained themselves.

    All are asked for one row at a time; who has no more is asked for an empty one.
    """
    if not measured:
        return []
    held_out = [group[i].text.held_out for i in measured]
    clients = len(measured)
    own = stack.of(measured)
    blank: tuple[Tokens, ...] = (Tokens((0,), (False,)),)
    sums = torch.zeros(clients, dtype=torch.float64)
    tokens = [0] * clients
    with torch.no_grad():
        parts = own.parts(own.leaves(clients), clients)
        for place in range(max(map(len, held_out))):
            rows = [text[place] if place < len(text) else blank for text in held_out]
            batch = collate(rows, pad_id=0).to(loaded.base.device)
            sums += loaded.network.losses(batch, parts).cpu()
            tokens = [count + more for count, more in zip(tokens, _counts(batch), strict=True)]
    return [_mean(float(total), count)[0] for total, count in zip(sums, tokens, strict=True)]


def _counts(batch: Batch) -> list[int]:
    """Return how many predictions each row of *batch* counts."""
    counts: list[int] = (batch.labels != IGNORED).sum(1).tolist()
    return counts


def _mean(total: float, tokens: int) -> tuple[float, int]:
    """Return (nats per token, tokens).

    Raises:
        NoBatches: there is not one token to predict.
    """
    if not tokens:
        raise NoBatches("a client's held-out samples hold no token to predict", fix="give it longer text")
    return total / tokens, tokens
