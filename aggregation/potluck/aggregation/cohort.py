"""A round's updates, as a rule reads them: checked, weighted, in an order that does not depend on who came first."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.updates import Update, first_bad_value
from potluck.aggregation.weights import Weight


@final
@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One update of the cohort, in one pass."""

    place: int
    """Where it stands in the order of reading; the rows of a Gram matrix are in this order."""
    update: Update
    weight: float
    """The product of its weight factors, not yet divided by the round's total."""
    innovation: Mapping[str, LowRank]
    """Δ per module, for the modules of this pass."""


@final
class Cohort:
    """The updates of one round.  A rule takes one or more `passes`, and in each sees every update once.

    A Sequence is read in the order of its contents' SHA-256, so any order of arrival gives the same bits; equal
    updates are interchangeable.  Another iterable is read as it comes, and only once if it is an iterator.
    Updates in a list or tuple are in memory already, so a pass covers one module and a rule holds one sum at a time;
    otherwise a pass covers all modules and holds one update at a time.
    """

    def __init__(
        self, updates: Iterable[Update], weights: Sequence[Weight], master: Mapping[str, LowRank], *, f: int = 0
    ) -> None:
        self.f = f
        self.ranks: dict[str, int] = {}
        """Per module, the largest rank that a client trained; complete when a pass is."""
        self._updates = updates
        self._factors = weights
        self._shapes = {name: term.shape for name, term in master.items()}
        self._names: frozenset[str] | None = None
        self._raw: dict[int, float] = {}
        self._norms: dict[tuple[int, str], float] = {}
        self._spent = False
        self._order = canonical_order(updates) if isinstance(updates, Sequence) else None

    def passes(self) -> Iterator[Iterator[Member]]:
        """Yield the passes that together show every module of every update once.

        Raises:
            BadUpdate: there are no updates, or one is not like the master and the others; or the updates are an
                iterator that has been read.
        """
        if isinstance(self._updates, list | tuple) and self._updates:
            for name in sorted(self._updates[0].trained):
                yield self._members({name})
        else:
            yield self._members(None)

    def shape_of(self, name: str) -> tuple[int, int]:
        """Return the (d, k) of the module *name*, after a pass over it."""
        return self._shapes[name]

    def shares(self) -> Floats:
        """Return the weights divided by their sum, (n,) in the order of reading, after the first pass.

        Raises:
            BadUpdate: no updates, or a total weight of zero.
        """
        raw = [self._raw[place] for place in sorted(self._raw)]
        return np.array(raw) / self.total()

    def total(self) -> float:
        """Return the sum of all weights, after the first pass; see shares."""
        total = math.fsum(self._raw.values())
        if not self._raw:
            raise BadUpdate("there are no updates to combine", fix="wait for at least one")
        if not 0 < total < math.inf:
            raise BadUpdate(
                f"the {len(self._raw)} updates weigh {total} together",
                fix="leave out updates without examples, or use the weight 'uniform'",
            )
        return total

    def norms(self) -> Floats:
        """Return ‖Δᵢ‖ over all modules, (n,) in the order of reading, after a pass over every module."""
        squares: dict[int, list[float]] = {}
        for (place, _), norm in self._norms.items():
            squares.setdefault(place, []).append(norm * norm)
        return np.array([math.sqrt(math.fsum(squares[place])) for place in sorted(squares)])

    def as_given(self, values: Floats) -> tuple[float, ...]:
        """Return *values*, one per update in the order of reading, in the order in which the updates were given."""
        result = np.empty_like(values)
        result[self._order if self._order is not None else slice(None)] = values
        return tuple(float(value) for value in result)

    def _members(self, names: set[str] | None) -> Iterator[Member]:
        for place, update in enumerate(self._read()):
            where = f"update {self._order[place] if self._order is not None else place}"
            self._check(where, update)
            self._raw[place] = self._weigh(where, update)
            covered = sorted(update.trained if names is None else names)
            innovation = {name: self._innovation(where, place, update, name) for name in covered}
            yield Member(place, update, self._raw[place], innovation)

    def _read(self) -> Iterator[Update]:
        if isinstance(self._updates, Sequence):
            return (self._updates[place] for place in self._order or ())
        fresh = iter(self._updates)
        if fresh is self._updates and self._spent:
            raise BadUpdate("the updates can be read only once", fix="give a list, or an object that restarts them")
        self._spent = True
        return fresh

    def _check(self, where: str, update: Update) -> None:
        """Refuse an update whose modules or shapes are not those of the master and of the updates before it."""
        names = frozenset(update.trained)
        if self._names is None:
            self._names = names | frozenset(self._shapes)
        if names != self._names or not names:
            missing, extra = sorted(self._names - names), sorted(names - self._names)
            raise BadUpdate(
                f"{where} has {len(names)} modules where {len(self._names)} are expected; "
                f"missing {missing[:3]}, unexpected {extra[:3]}",
                fix="train the modules that the recipe names; a module left alone keeps its start",
            )
        for name, term in update.trained.items():
            if (expected := self._shapes.setdefault(name, term.shape)) != term.shape:
                raise BadUpdate(
                    f"{where}: {name} is {term.shape} where the others are {expected}", fix="check the base model"
                )
            self.ranks[name] = max(self.ranks.get(name, 0), term.rank)

    def _weigh(self, where: str, update: Update) -> float:
        weight = math.prod(factor(update) for factor in self._factors)
        if not 0 <= weight < math.inf:
            raise BadUpdate(f"{where} has the weight {weight}", fix="weights are finite and not negative")
        return float(weight)

    def _innovation(self, where: str, place: int, update: Update, name: str) -> LowRank:
        """Return Δ of one module; the first time, refuse what is not finite and note the norm."""
        if (place, name) in self._norms:
            return update.innovation_of(name)
        for role, part in (("trained", update.trained), ("start", update.start)):
            if name in part and (bad := first_bad_value(part[name])):
                raise BadUpdate(f"{where}: {name} {role} {bad} is NaN or infinite", fix="leave this update out")
        with np.errstate(over="ignore", invalid="ignore"):
            delta = update.innovation_of(name)
            norm = delta.norm()
        if not math.isfinite(norm):
            raise BadUpdate(f"{where}: the norm of {name} overflows float64", fix="leave this update out")
        self._norms[place, name] = norm
        return delta


def canonical_order(updates: Sequence[Update]) -> list[int]:
    """Return the places of *updates* in the order of their digests; equal updates may stand either way."""
    digests = [update.digest() for update in updates]
    return sorted(range(len(digests)), key=digests.__getitem__)
