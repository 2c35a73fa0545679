"""The inner products of a round's innovations: exact for a small cohort, from a sketch for a large one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar, final

import numpy as np

from potluck.aggregation.cohort import Census, Cohort, Read
from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Array, Floats, LowRank, gram_of
from potluck.aggregation.rules.base import Trains
from potluck.aggregation.sketch import ProductSketch, gram_of_sketches, widths
from potluck.aggregation.updates import Update, difference, same_factors

MEASURED: Final = 8
"""Updates whose norms are computed exactly too, to measure a sketch."""


Block = TypeVar("Block")
Result = TypeVar("Result")


class Mapped(Protocol):
    """How the passes over a round's modules are run: `map` itself, or one that runs them elsewhere, in order."""

    def __call__(self, task: Callable[[Block], Result], blocks: Iterable[Block], /) -> Iterable[Result]:
        """Yield task(block) for every block, in their order."""


class Products(NamedTuple):
    """Inner products of the innovations over all modules."""

    gram: Floats
    """(n, n): Kᵢⱼ = ⟨Δᵢ, Δⱼ⟩, in the order of reading."""
    error: float
    """Largest relative error of a norm, measured on a few of them; 0 where the products are exact."""
    sketched: bool
    reference: Floats | None
    """(n + 1,): ⟨g, Δᵢ⟩ for each i, then ⟨g, g⟩, of the trusted update that was handed over; None without one."""

    @classmethod
    def of(cls, gram: Floats, reference: Update | None, *, error: float, sketched: bool) -> "Products":
        """Return the products of a *gram* whose last row is that of the *reference*, if there is one."""
        if reference is None:
            return cls(gram, error, sketched, None)
        return cls(gram[:-1, :-1].copy(), error, sketched, gram[-1].copy())


def exact_products(cohort: Cohort, census: Census, mapped: Mapped, reference: Update | None = None) -> Products:
    """Return K to rounding; holds the innovations of one module of all n updates, and costs n²r²(d + k) for each."""
    count = len(census.raw) + (reference is not None)

    def task(names: Sequence[str]) -> Floats:
        gram = np.zeros((count, count))
        waiting: dict[str, list[Read]] = {name: [] for name in names}
        for read in with_reference(cohort, names, reference, count - 1):
            waiting[read.name].append(read)
            if len(waiting[read.name]) == count:
                add_products(gram, waiting.pop(read.name))
        return gram

    total = np.zeros((count, count))
    for gram in mapped(task, cohort.blocks(census, held=2 * count)):
        total += gram
    return Products.of(checked(total, cohort), reference, error=0.0, sketched=False)


def sketched_products(
    cohort: Cohort, census: Census, mapped: Mapped, reference: Update | None = None, *, trains: Trains = "both"
) -> Products:
    """Return an estimate of K from one pass that keeps p × q numbers of every update; see ProductSketch.

    The first few updates' norms are computed exactly as well; the largest relative difference is the error.
    """
    count = len(census.raw) + (reference is not None)
    measured = min(MEASURED, count)

    def task(names: Sequence[str]) -> tuple[Floats, Floats]:
        sketch, exact = ProductSketch(count, seed=census.facts.seed, widths=widths(trains)), np.zeros(measured)
        mappers = {name: Mapper(sketch) for name in names}
        with np.errstate(over="ignore", invalid="ignore"):
            for read in with_reference(cohort, names, reference, count - 1, values=False):
                mappers[read.name].add(read)
                if read.place < measured:
                    exact[read.place] += norm_of(read) ** 2
        return sketch.values, exact

    values, exact = np.zeros((count, *widths(trains))), np.zeros(measured)
    with np.errstate(over="ignore", invalid="ignore"):
        for more, norms in mapped(task, cohort.blocks(census)):
            values += more
            exact += norms
        if not np.isfinite(values).all():
            cohort.find_what_is_not_finite(census.names)
        gram = checked(gram_of_sketches(values), cohort)
    cohort.finite = True
    seen = exact > 0
    ratios = np.sqrt(np.diag(gram)[:measured][seen] / exact[seen])
    return Products.of(gram, reference, error=float(np.abs(ratios - 1).max(initial=0.0)), sketched=True)


def with_reference(
    cohort: Cohort, names: Sequence[str], reference: Update | None, place: int, *, values: bool = True
) -> Iterator[Read]:
    """Yield the parts of *names*, and those of the reference, at *place*, after all others of their module."""
    yield from cohort.parts(names, values=values)
    if reference is not None:
        for name in names:
            yield cohort.part(place, reference, name, values=values)


def add_products(gram: Floats, reads: list[Read]) -> None:
    """Add the inner products of one module to *gram*."""
    with np.errstate(over="ignore", invalid="ignore"):
        terms = [difference(read.trained, read.start) for read in reads]
        used = [place for place, term in enumerate(terms) if term.rank]
        if used:
            gram[np.ix_(used, used)] += gram_of([terms[place] for place in used])


def checked(gram: Floats, cohort: Cohort) -> Floats:
    """Refuse products that overflowed, naming the first update whose norm did."""
    bad = ~np.isfinite(np.diag(gram))
    if bad.any() or not np.isfinite(gram).all():
        place = int(np.argmax(bad if bad.any() else ~np.isfinite(gram).all(axis=1)))
        raise BadUpdate(
            f"{cohort.where(place)}: the norm of its innovation overflows float64", fix="leave this update out"
        )
    return gram


@final
class Mapper:
    """Applies the maps of one module to one update after the other: Ω_L·(b·A + B₀·a)·Ω_R.

    A factor that was not trained is the start's own array, and costs no multiplication.
    """

    def __init__(self, sketch: ProductSketch) -> None:
        self._sketch = sketch
        self._maps: tuple[Array, Array] | None = None
        self._start: LowRank | None = None
        self._mapped_start: tuple[Array, Array] = (np.empty(0), np.empty(0))
        self._room: tuple[Array, Array] | None = None

    def add(self, read: Read) -> None:
        """Add the sketch of one part."""
        trained, start = read.trained, read.start
        if (trained.rank, trained.scale) != (start.rank, start.scale):
            trained = difference(trained, start)
            start = LowRank(np.zeros_like(trained.b), np.zeros_like(trained.a), trained.scale)
        if trained.rank == 0:
            return
        if self._maps is None:
            dtype = np.result_type(trained.b, trained.a, start.b, start.a, np.float32)
            self._maps = self._sketch.maps(read.name, trained.shape, dtype)
        left, right = self._maps
        if self._start is None or not same_factors(start, self._start):
            self._start = start
            self._mapped_start = (left @ start.b, start.a @ right)
        if self._room is None or self._room[0].shape != trained.b.shape:  # memory taken anew costs as much as its use
            self._room = (np.empty(trained.b.shape, left.dtype), np.empty(trained.a.shape, right.dtype))
        start_b, start_a = self._mapped_start
        product = self._sketch.values[read.place]
        a = start_a
        if trained.a is not start.a:
            moved = np.subtract(trained.a, start.a, out=self._room[1]) @ right
            product += trained.scale * (start_b @ moved)
            a = start_a + moved
        if trained.b is not start.b:
            product += trained.scale * ((left @ np.subtract(trained.b, start.b, out=self._room[0])) @ a)


def norms_of(gram: Floats) -> Floats:
    """Return ‖Δᵢ‖ from K, (n,)."""
    return np.sqrt(np.maximum(np.diag(gram), 0.0))


def norm_of(read: Read) -> float:
    """Return ‖Δ‖ of one part, or infinity where it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return difference(read.trained, read.start).norm()
