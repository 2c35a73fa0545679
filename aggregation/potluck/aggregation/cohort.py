"""A round's updates, as the driver reads them: checked, in an order that does not depend on who came first."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.stored import StoredUpdates
from potluck.aggregation.updates import Update, first_bad_value
from potluck.aggregation.weights.ballot import Factor, Facts

MOST_NUMBERS: Final = 1 << 24
"""Float64 numbers that a pass over whole updates may gather: 128 MiB."""


class Read(NamedTuple):
    """One module of one update."""

    place: int
    """Where the update stands in the order of reading; rows and columns of a Gram matrix are in this order."""
    name: str
    trained: LowRank
    start: LowRank
    """Of rank 0 where it began at zero."""


class Census(NamedTuple):
    """What a look at every update, and at none of its numbers, tells."""

    facts: Facts
    raw: Floats
    """(n,): the product of each update's weight factors, not yet divided by the round's total."""
    names: tuple[str, ...]
    """The modules, sorted."""
    sizes: Mapping[str, int]
    """Numbers in the largest part of each module; empty where parts are read one at a time anyway."""


@final
class Cohort:
    """The updates of one round.

    A Sequence is read in the order of its contents' SHA-256, so any order of arrival gives the same bits; equal
    updates are interchangeable.  Another iterable is read as it comes, and only once if it is an iterator.
    Updates in a list, a tuple or StoredUpdates are read module by module; others whole, one at a time.
    """

    def __init__(self, updates: Iterable[Update], factors: Sequence[Factor], master: Mapping[str, LowRank]) -> None:
        self.by_module = isinstance(updates, list | tuple | StoredUpdates)
        self.once = iter(updates) is updates if not isinstance(updates, Sequence) else False
        self.shapes = {name: term.shape for name, term in master.items()}
        self._updates = list(updates) if isinstance(updates, StoredUpdates) else updates  # opened once, read often
        self._factors = factors
        self._names: frozenset[str] | None = None
        self._checked: dict[str, bytearray] = {}  # a byte an update: sets of places took 9 MB in a large round
        self._fine_starts: dict[str, LowRank] = {}
        self._spent = False
        self._count: int | None = None
        self.finite = False
        """Whether every value is known to be finite, from inner products that are; parts are not searched then."""
        digests = [update.digest() for update in self._updates] if isinstance(self._updates, Sequence) else []
        self._order = sorted(range(len(digests)), key=digests.__getitem__) if digests else None
        self._digests = sorted(digests)

    @property
    def seed(self) -> int:
        """A number that follows from all updates together; 0 where they are not a Sequence."""
        return int.from_bytes(hashlib.sha256(b"".join(self._digests)).digest()[:8]) if self._digests else 0

    def census(self, f: int = 0) -> Census:
        """Look at every update once, without reading what it trained.

        Raises:
            BadUpdate: there are none, they weigh nothing together, or one is not like the others.
        """
        rows: list[tuple[int, int, int]] = []
        raw: list[float] = []
        sizes: dict[str, int] = {}
        for place, update in self._read():
            self._check_names(place, update)
            for name in () if self.by_module else update.trained:
                term = update.trained[name]
                sizes[name] = max(sizes.get(name, 0), term.b.size + term.a.size)
            rows.append((update.examples, update.steps, update.staleness))
            raw.append(self.weigh(place, update))
        total_of(raw)
        self._count = len(raw)
        examples, steps, staleness = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
        facts = Facts(examples, steps, staleness, f=f, seed=self.seed)
        return Census(facts, np.array(raw), tuple(sorted(self._names or ())), sizes)

    def updates(self) -> Iterator[tuple[int, Update]]:
        """Yield every update with its place, its names checked: for a single pass over an iterator."""
        for place, update in self._read():
            self._check_names(place, update)
            yield place, update

    def parts(self, names: Sequence[str], *, values: bool = True) -> Iterator[Read]:
        """Yield the modules *names* of every update; the updates of one module are in the order of reading.

        Without *values*, what is not finite is let through; the caller notices it in what it makes of the parts.

        Raises:
            BadUpdate: a shape that is not the others', or a value that is not finite.
        """
        if self.by_module:
            for name in names:
                for place, update in self._read():
                    yield self.part(place, update, name, values=values)
            return
        for place, update in self._read():
            self._check_names(place, update)
            for name in names:
                yield self.part(place, update, name, values=values)

    def part(self, place: int, update: Update, name: str, *, values: bool = True) -> Read:
        """Return one module of one update, its values checked when it is read first."""
        trained, start = update.part_of(name)
        self._check_shape(place, name, trained)
        if values and not self.finite and self._is_new(place, name):
            self._check_values(place, name, trained, start)
        return Read(place, name, trained, start)

    def find_what_is_not_finite(self, names: Sequence[str]) -> None:
        """Raise BadUpdate naming the first value that is NaN or infinite, if there is one."""
        for _ in self.parts(names):
            pass

    def blocks(self, census: Census, held: int = 0) -> Iterator[Sequence[str]]:
        """Yield the modules in groups that are worth one pass, so that *held* numbers per number of a part fit.

        Updates that are read by module get a pass for each; others as few passes as memory allows.
        """
        group: list[str] = []
        size = 0
        for name in census.names:
            more = held * census.sizes.get(name, 0)
            if group and (self.by_module or size + more > MOST_NUMBERS):
                yield group
                group, size = [], 0
            group.append(name)
            size += more
        yield group

    def weigh(self, place: int, update: Update) -> float:
        """Return the product of the update's weight factors."""
        weight = math.prod(factor(update) for factor in self._factors)
        if not 0 <= weight < math.inf:
            raise BadUpdate(f"{self.where(place)} has the weight {weight}", fix="weights are finite and not negative")
        return float(weight)

    def as_given(self, values: Floats) -> tuple[float, ...]:
        """Return *values*, one per update in the order of reading, in the order in which the updates were given."""
        result = np.empty_like(values)
        result[self._order if self._order is not None else slice(None)] = values
        return tuple(float(value) for value in result)

    def given(self, place: int) -> int:
        """Return where the update that is read as *place* was given."""
        return self._order[place] if self._order is not None else place

    def where(self, place: int) -> str:
        """Return what messages call the update that is read as *place*; the reference stands after all others."""
        if self._count is not None and place >= self._count:
            return "the reference"
        return f"update {self.given(place)}"

    def _read(self) -> Iterator[tuple[int, Update]]:
        if isinstance(self._updates, Sequence):
            return ((place, self._updates[given]) for place, given in enumerate(self._order or ()))
        if self.once and self._spent:
            raise BadUpdate("the updates can be read only once", fix="give a list, or an object that restarts them")
        self._spent = True
        return enumerate(self._updates)

    def _is_new(self, place: int, name: str) -> bool:
        """Return whether nobody has asked this of the module *name* of that update before."""
        checked = self._checked.setdefault(name, bytearray())
        checked.extend(bytes(max(0, place + 1 - len(checked))))
        new = not checked[place]
        checked[place] = 1
        return new

    def _check_names(self, place: int, update: Update) -> None:
        """Refuse an update whose modules are not those of the master and of the updates before it."""
        names = frozenset(update.trained)
        if self._names is None:
            self._names = names | frozenset(self.shapes)
        if names != self._names or not names:
            missing, extra = sorted(self._names - names), sorted(names - self._names)
            raise BadUpdate(
                f"{self.where(place)} has {len(names)} modules where {len(self._names)} are expected; "
                f"missing {missing[:3]}, unexpected {extra[:3]}",
                fix="train the modules that the recipe names; a module left alone keeps its start",
            )

    def _check_shape(self, place: int, name: str, trained: LowRank) -> None:
        """Refuse a module of another shape than the others'."""
        if (expected := self.shapes.setdefault(name, trained.shape)) != trained.shape:
            raise BadUpdate(
                f"{self.where(place)}: {name} is {trained.shape} where the others are {expected}",
                fix="check the base model",
            )

    def _check_values(self, place: int, name: str, trained: LowRank, start: LowRank) -> None:
        """Refuse a value that is not finite."""
        known = self._fine_starts.get(name) is start  # one start serves many updates
        for role, term in (("trained", trained),) if known else (("trained", trained), ("start", start)):
            if bad := first_bad_value(term):
                raise BadUpdate(
                    f"{self.where(place)}: {name} {role} {bad} is NaN or infinite", fix="leave this update out"
                )
        self._fine_starts[name] = start


def total_of(raw: Sequence[float]) -> float:
    """Return the sum of all weights.

    Raises:
        BadUpdate: no updates, or a total weight of zero.
    """
    if not raw:
        raise BadUpdate("there are no updates to combine", fix="wait for at least one")
    try:
        total = math.fsum(raw)
    except OverflowError:
        total = math.inf
    if not 0 < total < math.inf:
        raise BadUpdate(
            f"the {len(raw)} updates weigh {total} together",
            fix="leave out updates without examples, or use the weight 'uniform'",
        )
    return total
