"""The pass for rules that look at every coordinate by itself, over blocks of coordinates of all updates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.cohort import Cohort, Read
from potluck.aggregation.errors import BadUpdate, PotluckError
from potluck.aggregation.folding import Folded
from potluck.aggregation.lowrank import Array, Floats
from potluck.aggregation.room import Room
from potluck.aggregation.rules.base import Coordinatewise
from potluck.aggregation.rules.public import Public, TrainedFactor, public_part, same_basis
from potluck.aggregation.weights.ballot import Ballot

MOST_BYTES: Final = 80 << 20
"""Of the values that are gathered at a time."""
LINE: Final = 64
"""Bytes that a processor's caches hold together."""
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
    room: Room = field(default_factory=Room, repr=False)

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
        """Return (p,) from *values* (n, p), all of them finite.

        Raises:
            NotFinite: they are not.
        """
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
            rows.sort(axis=1)
            if not np.isfinite(rows[:, :: max(1, rows.shape[1] - 1)]).all():  # what is not stands first or last
                raise NotFinite(f"{rows.dtype} values are NaN or infinite, or overflow")
            result[begin : begin + AT_ONCE] = self.rule.pick(rows, self.f)
        return result

    def selected(self) -> NDArray[np.intp] | slice | None:
        """Return which updates the vectors are, or None where one of them is a mixture: that costs a multiplication."""
        single = (self.mix != 0).sum(axis=1) == 1
        if not (single.all() and np.array_equal(self.mix.max(axis=1), np.ones(len(self.mix)))):
            return None
        places = self.mix.argmax(axis=1)
        return slice(None) if np.array_equal(places, np.arange(self.mix.shape[1])) else places


@final
class NotFinite(PotluckError):
    """Values that cannot be ordered; which update they are from is found out then."""


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
        self.unit = first.trained.scale
        self.public = self._part(first, factor)
        self.result = np.zeros(self.public.change.size)
        self.squares = np.zeros(choice.mix.shape[1])
        self.rank = first.trained.rank
        self.shape = first.trained.shape
        frozen = self.public.frozen.astype(np.float64) * self.public.unit
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
        return public_part(
            read.trained, read.start, where=read.name, factor=factor, dtype=self.dtype, out=out, unit=self.unit
        )


def coordinates(cohort: Cohort, names: Sequence[str], choice: Choice) -> Iterator[Folded]:
    """Yield the modules *names*, every coordinate picked by itself.

    Raises:
        BadUpdate: updates that do not share a public basis, or too few for the rule.
    """
    count = choice.mix.shape[1]
    found = first_parts(cohort, names, choice)
    for spans in grouped(found, count):
        taken = choice.room.take(sum(size_of(count, span, found[span.name].dtype) for span in spans))
        values = laid(taken, count, {span: found[span.name].dtype for span in spans})
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is found where values are put in order
            for read in cohort.parts(sorted({span.name for span in spans}), values=False):
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
            try:
                found[span.name].result[span.begin : span.end] = choice.picked(values.pop(span))
            except NotFinite as error:
                cohort.find_what_is_not_finite([span.name])
                raise BadUpdate(f"{span.name}: {error}", fix="leave the update with the largest values out") from None
        choice.room.give(taken)
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


def stride_of(span: Span, dtype: np.dtype[Any]) -> int:
    """Return the bytes from one update's values to the next one's: an odd number of cache lines.

    Rows an even number apart, as those of modules mostly are, share few places in the cache, and turning them into
    columns takes half as long again; whole pages apart, five times as long.
    """
    lines = -(-(span.end - span.begin) * dtype.itemsize // LINE)
    return LINE * (lines + 1 - lines % 2)


def size_of(count: int, span: Span, dtype: np.dtype[Any]) -> int:
    """Return the bytes that the values of *count* updates take."""
    return count * stride_of(span, dtype)


def laid(taken: NDArray[np.uint8], count: int, dtypes: Mapping[Span, np.dtype[Any]]) -> dict[Span, Array]:
    """Return an array (count, width) for every span, one after the other in the memory *taken*."""
    values: dict[Span, Array] = {}
    place = 0
    for span, dtype in dtypes.items():
        end = place + size_of(count, span, dtype)
        rows = taken[place:end].view(dtype).reshape(count, -1)
        values[span] = rows[:, : span.end - span.begin]
        place = end
    return values


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
