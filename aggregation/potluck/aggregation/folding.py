"""The pass in which a rule's folds take the parts of a round, module by module or update by update."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

import numpy as np

from potluck.aggregation.cohort import Cohort, Read, total_of
from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank, zero
from potluck.aggregation.products import Mapper, norm_of
from potluck.aggregation.room import Room
from potluck.aggregation.rules.base import Fold, Module, Part, Rule
from potluck.aggregation.sketch import ProductSketch, widths
from potluck.aggregation.updates import same_factors

RANK_FACTOR: Final = 4
"""Columns of the master for every column of the largest update, unless the pipeline says how many."""
LEAVE: Final = "leave this update out"
NORM_WIDTH: Final = 16
"""Width of the sketch that norms alone are estimated from: each module's to about 5 %, all together far closer."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a pass of folds needs to know of the round."""

    rule: Rule
    master: Mapping[str, LowRank]
    rounds: int
    exact: bool
    rank: int | None
    seed: int
    norms: bool
    """Whether norms are still to be computed."""
    room: Room = field(default_factory=Room, repr=False)


class Folded(NamedTuple):
    """One module, folded."""

    name: str
    terms: Sequence[LowRank]
    shape: tuple[int, int]
    rank: int
    """The largest rank that a client trained."""
    squares: Floats
    """(n,): ‖Δᵢ‖² of this module; zeros where they were not wanted."""
    error: float
    """What sketched sums missed, as a Frobenius norm."""


def folded(cohort: Cohort, names: Sequence[str], coefficients: Floats, plan: Plan) -> Iterator[Folded]:
    """Yield the folded modules *names*, every part weighted by its update's coefficient."""
    ranks: dict[str, list[int]] = {name: [] for name in names}
    if plan.rule.foresees or not (plan.exact or plan.rank):  # a sketch must know how many directions to look for
        for read in cohort.parts(names):
            ranks[read.name].append(read.trained.rank)
    runs: dict[str, Run] = {}
    mapped = plan.norms and not plan.exact  # then what is not finite shows in the norms' sketches
    for read in cohort.parts(names, values=not mapped):
        if read.name not in runs:
            weights = tuple(float(c) for c in coefficients) if plan.rule.foresees else ()
            runs[read.name] = Run(read, plan, len(coefficients), tuple(ranks[read.name]), weights)
        run = runs[read.name]
        run.look(read)
        if mapped and not run.finite(read.place):
            cohort.find_what_is_not_finite([read.name])
            raise BadUpdate(f"{cohort.where(read.place)}: the norm of {read.name} overflows", fix=LEAVE)
        run.add(read, float(coefficients[read.place]))
        if read.place == len(coefficients) - 1:
            yield runs.pop(read.name).folded(1.0)


def folded_once(cohort: Cohort, plan: Plan) -> tuple[list[Folded], Floats]:
    """Return all modules, folded in a single pass over an iterator, and the weights of the updates.

    Raises:
        BadUpdate: the rule needs to look ahead.
    """
    if plan.rule.foresees:
        raise BadUpdate("the updates can be read only once, and the rule reads them twice", fix="give a list")
    runs: dict[str, Run] = {}
    raw: list[float] = []
    for place, update in cohort.updates():
        raw.append(cohort.weigh(place, update))
        for name in sorted(update.trained):
            read = cohort.part(place, update, name)
            if name not in runs:
                runs[name] = Run(read, plan, 0, (), ())
            runs[name].look(read)
            runs[name].add(read, raw[-1])
    total = total_of(raw)
    return [runs[name].folded(total) for name in sorted(runs)], np.array(raw) / total


@final
class Run:
    """The fold of one module, with what the driver watches itself."""

    def __init__(self, first: Read, plan: Plan, count: int, ranks: tuple[int, ...], weights: tuple[float, ...]) -> None:
        name, shape = first.name, first.trained.shape
        master = plan.master.get(name, zero(shape))
        self._rank = 0
        self._plan = plan
        self._start = first.start
        self._squares = [0.0] * count
        norms = 0 if plan.exact or not plan.norms else count
        self._sketch = ProductSketch(norms, seed=plan.seed, widths=widths(plan.rule.trains, NORM_WIDTH))
        self._mapper = Mapper(self._sketch)
        self._module = Module(
            name=name,
            shape=shape,
            master=master,
            rounds=plan.rounds,
            ranks=ranks,
            weights=weights,
            count=count,
            exact=plan.exact,
            rank=plan.rank or max(RANK_FACTOR * max(ranks, default=first.trained.rank), master.rank),
            seed=plan.seed,
            room=plan.room,
        )
        self._fold: Fold = plan.rule.fold(self._module)

    def look(self, read: Read) -> None:
        """Check one part, and note its norm."""
        self._rank = max(self._rank, read.trained.rank)
        if not self._plan.rule.any_start and not same_factors(read.start, self._start):
            raise BadUpdate(
                f"{read.name} was started from different factors, and the rule "
                f"{type(self._plan.rule).__name__} combines entries of factors, which mean nothing in different bases",
                fix="combine updates of one version, rank and scale only, or use the rule 'mean'",
            )
        if self._plan.norms:
            self._note_norm(read)

    def finite(self, place: int) -> bool:
        """Return whether the sketch of the part that was looked at is finite."""
        return bool(np.isfinite(self._sketch.values[place]).all())

    def add(self, read: Read, weight: float) -> None:
        """Hand one part to the fold."""
        if weight:
            self._fold.add(Part(weight, read.trained, read.start))

    def folded(self, total: float) -> Folded:
        """Close the fold."""
        terms = self._fold.combined(total)
        error = float(np.linalg.norm(self._module.errors)) if self._module.errors else 0.0
        squares = np.array(self._squares)
        if len(self._sketch.values):
            squares = np.einsum("npq,npq->n", self._sketch.values, self._sketch.values)
        return Folded(self._module.name, terms, self._module.shape, self._rank, squares, error)

    def _note_norm(self, read: Read) -> None:
        """Note ‖Δ‖² of one part: exact, or sketched where sums are."""
        if not self._plan.exact:
            with np.errstate(over="ignore", invalid="ignore"):
                self._mapper.add(read)
            return
        norm = norm_of(read)
        if not np.isfinite(norm):
            raise BadUpdate(f"the norm of {read.name} overflows float64", fix=LEAVE)
        if read.place >= len(self._squares):
            self._squares.append(0.0)
        self._squares[read.place] = norm * norm
