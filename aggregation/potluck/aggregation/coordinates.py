"""The pass for rules that look at every coordinate by itself, over blocks of coordinates of all updates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.cohort import Cohort, Read
from potluck.aggregation.folding import Folded
from potluck.aggregation.lowrank import Array, Floats
from potluck.aggregation.rules.base import Coordinatewise
from potluck.aggregation.rules.public import Public, TrainedFactor, public_part, same_basis
from potluck.aggregation.weights.ballot import Ballot

MOST_BYTES: Final = 80 << 20
"""Of the values that are gathered at a time."""
PAGE: Final = 4096
"""Bytes after which addresses share their place in a processor's nearest cache."""
APART: Final = 128
"""Bytes by which rows are kept from standing whole pages apart."""
SAMPLED: Final = 16
"""Of so many rows one is looked at for a norm, in a round in which sums would be sketched."""
AT_ONCE: Final = 4096
"""Coordinates that are turned and sorted together: few enough to stay in the processor's cache."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What is done with the n values of every coordinate."""

    rule: Coordinatewise
    f: int
    mix: Floats
    """(m, n): the vectors that take part, in terms of the updates."""
    norms: bool
    """Whether norms are still to be computed."""
    sampled: bool
    """Whether a sample of rows is enough for them."""
    seed: int
    """Of that sample."""

    @classmethod
    def of(cls, rule: Coordinatewise, ballot: Ballot, *, norms: bool, exact: bool) -> "Choice":
        """Return the choice among the vectors that *ballot* left any weight."""
        facts = ballot.facts
        return cls(rule, facts.f, ballot.mix[ballot.weights != 0], norms, sampled=not exact, seed=facts.seed)

    @property
    def coefficients(self) -> Floats:
        """(n,): how much each update has a say in, as the mean of the vectors would have it."""
        share: Floats = self.mix.sum(axis=0) / len(self.mix)
        return share

    def picked(self, values: Array) -> Floats:
        """Return (p,) from *values* (n, p)."""
        result = np.empty(values.shape[1])
        chosen = self.selected()
        mix = self.mix.T.astype(values.dtype)
        room = np.empty((min(AT_ONCE, len(result)), len(self.mix)), values.dtype)  # taking memory anew costs as much
        for begin in range(0, len(result), AT_ONCE):
            block = values[:, begin : begin + AT_ONCE].T
            rows = room[: len(block)]
            if chosen is None:
                np.matmul(block, mix, out=rows)
            else:
                rows[:] = block[:, chosen]
            result[begin : begin + AT_ONCE] = self.rule.pick(rows, self.f)
        return result

    def selected(self) -> NDArray[np.intp] | slice | None:
        """Return which updates the vectors are, or None where one of them is a mixture: that costs a multiplication."""
        single = (self.mix != 0).sum(axis=1) == 1
        if not (single.all() and np.array_equal(self.mix.max(axis=1), np.ones(len(self.mix)))):
            return None
        places = self.mix.argmax(axis=1)
        return slice(None) if np.array_equal(places, np.arange(self.mix.shape[1])) else places


class Span(NamedTuple):
    """Some coordinates of one module."""

    name: str
    begin: int
    end: int


@final
class Coordinates:
    """One module's basis, and what has been picked of it."""

    def __init__(self, first: Read, factor: TrainedFactor | None, choice: Choice) -> None:
        self.dtype = np.result_type(first.trained.b, first.trained.a, first.start.b, first.start.a)
        self.public = self._part(first, factor)
        self.result = np.zeros(self.public.change.size)
        self.squares = np.zeros(choice.mix.shape[1])
        self.rank = first.trained.rank
        self.shape = first.trained.shape
        frozen = self.public.frozen.astype(np.float64)
        self._inner: Floats = frozen @ frozen.T if self.public.factor == "b" else frozen.T @ frozen
        length = self.public.change.shape[0 if self.public.factor == "b" else 1]
        few = -(-length // SAMPLED) if choice.sampled else length
        self._rows = np.sort(np.random.Generator(np.random.PCG64(choice.seed)).permutation(length)[:few])
        self._share = few / length

    def change(self, read: Read, row: Array | None = None) -> Array:
        """Return the change of one update, in the basis of all, written into the flat *row* if there is one.

        Raises:
            BadUpdate: it has another basis.
        """
        out = None if row is None else row.reshape(self.public.change.shape)
        part = self._part(read, self.public.factor, out)
        same_basis(read.name, self.public, part)
        return part.change

    def square(self, change: Array) -> float:
        """Return ‖Δ‖² of one update's change: exact, or estimated from the sampled rows."""
        rows = (change if self.public.factor == "b" else change.T)[self._rows].astype(np.float64)
        square: float = np.vdot(rows @ self._inner, rows) / self._share
        return square

    def _part(self, read: Read, factor: TrainedFactor | None, out: Array | None = None) -> Public:
        return public_part(read.trained, read.start, where=read.name, factor=factor, dtype=self.dtype, out=out)


def coordinates(cohort: Cohort, names: Sequence[str], choice: Choice) -> Iterator[Folded]:
    """Yield the modules *names*, every coordinate picked by itself.

    Raises:
        BadUpdate: updates that do not share a public basis, or too few for the rule.
    """
    count = choice.mix.shape[1]
    found = first_parts(cohort, names, choice)
    for spans in grouped(found, count):
        values = {span: apart(count, span.end - span.begin, found[span.name].dtype) for span in spans}
        for read in cohort.parts(sorted({span.name for span in spans})):
            module = found[read.name]
            for span in spans:
                if span.name == read.name:
                    row = values[span][read.place]
                    whole = len(row) == len(module.result)
                    change = module.change(read, row if whole else None)
                    if not whole:
                        row[:] = change.reshape(-1)[span.begin : span.end]
                    if choice.norms and span.begin == 0:
                        module.squares[read.place] = module.square(change)
        for span in spans:
            found[span.name].result[span.begin : span.end] = choice.picked(values.pop(span))
    for name, module in found.items():
        yield Folded(name, [module.public.low_rank(module.result)], module.shape, module.rank, module.squares, 0.0)


def first_parts(cohort: Cohort, names: Sequence[str], choice: Choice) -> dict[str, Coordinates]:
    """Return every module with the basis of the first update that is read."""
    factor = choice.rule.trains if choice.rule.trains in ("a", "b") else None
    found: dict[str, Coordinates] = {}
    for read in cohort.parts(names):
        if read.name not in found:
            found[read.name] = Coordinates(read, factor, choice)
        if len(found) == len(names):
            break
    return found


def apart(count: int, width: int, dtype: np.dtype[Any]) -> Array:
    """Return an array (count, width) whose rows do not begin whole pages apart.

    Modules are often a multiple of 1024 wide.  Rows that far apart share one place in the cache, and turning them into
    columns took five times as long.
    """
    more = (APART - width * dtype.itemsize) % PAGE
    return np.empty((count, width + (more // dtype.itemsize if more <= 2 * APART else 0)), dtype)[:, :width]


def grouped(found: Mapping[str, Coordinates], count: int) -> Iterator[list[Span]]:
    """Yield the spans of all modules, in groups whose values fit in MOST_BYTES."""
    group: list[Span] = []
    left = MOST_BYTES
    for name, module in found.items():
        begin, size = 0, len(module.result)
        while begin < size:
            width = max(1, min(size - begin, left // (count * module.dtype.itemsize)))
            group.append(Span(name, begin, begin + width))
            begin += width
            left -= width * count * module.dtype.itemsize
            if left < count * module.dtype.itemsize:
                yield group
                group, left = [], MOST_BYTES
    if group:
        yield group
