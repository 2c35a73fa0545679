"""The weighted sum of innovations of one module, exact or sketched, in memory that no number of updates fills.

Updates that share a start B₀·A₀ (one version, one rank, one scale) are split, with b = B − B₀ and a = A − A₀:

    s·(B·A − B₀·A₀) = s·(b·A₀ + B₀·a + b·a)

The first two are linear in what was trained: their weighted sums have the start's rank and cost one addition per
update.  Only the last, small after a short training, grows a column for every column of every update.
"""

from collections.abc import Sequence
from typing import Final, final

import numpy as np

from potluck.aggregation.lowrank import CHUNK_COLUMNS, Array, Floats, LowRank, LowRankSum
from potluck.aggregation.rules.base import Module
from potluck.aggregation.sketch import OVERSAMPLING, RangeFinder
from potluck.aggregation.updates import difference, same_factors

BATCH_COLUMNS: Final = 256
"""Columns that wait in an exact sum until they are added together."""
STACK_BYTES: Final = 48 << 20
"""What waits in a sketched sum until its range is found together."""
WHOLE_BYTES: Final = 80 << 20
"""The same where it is all there is: one merge is better than two."""
FLOAT_BYTES: Final = 4
MOST_STARTS: Final = 16
"""Starts that are told apart; an update from yet another one is added whole."""
MOST_COLUMNS: Final = 1024
"""Columns that an exact sum gathers at most before it recompresses itself."""


@final
class InnovationSum:
    """A running Σ wᵢ·Δᵢ of one module.

    Exact sums are a LowRankSum, with its promise.  Sketched ones are exact in the linear parts and use a RangeFinder
    for the rest; its measured error is noted in the module's `errors`.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self._shared: list[SharedStart] = []
        limit = min(max(CHUNK_COLUMNS, min(module.shape) // 2), MOST_COLUMNS)
        self._exact = LowRankSum(module.shape, limit=limit)
        self._finder: RangeFinder | None = None
        self._waiting = 0
        self._most_waiting = BATCH_COLUMNS if module.exact else max(1, WHOLE_BYTES // (sum(module.shape) * FLOAT_BYTES))

    def add(self, trained: LowRank, start: LowRank, weight: float) -> None:
        """Add weight times what training changed; *start* may be of rank 0."""
        if weight == 0 or trained.rank == 0 == start.rank:
            return
        shared = self._start_of(trained, start)
        if shared is None:
            whole = difference(trained, start)
            self._add_term(LowRank(whole.b * (whole.scale * weight), whole.a))
            return
        shared.add(trained, weight)
        self._waiting += trained.rank
        if shared.full or self._waiting >= self._most_waiting:
            for each in self._shared:
                self._take_over(each)
            self._waiting = 0

    def scaled(self, weight: float) -> list[LowRank]:
        """Return weight times the sum, as the terms whose sum it is."""
        terms: list[LowRank] = []
        for shared in self._shared:
            self._take_over(shared)
            terms += [term.times(weight) for term in shared.linear()]
        terms += self._exact.scaled(weight)
        if self._finder is not None:
            terms.append(self._finder.found().times(weight))
            self._module.errors.append(sum(self._finder.dropped) * abs(weight))
        return terms

    def _start_of(self, trained: LowRank, start: LowRank) -> "SharedStart | None":
        """Return where updates from this *start* are gathered, or None where they cannot be."""
        if start.rank and (start.rank, start.scale) != (trained.rank, trained.scale):
            return None
        for shared in self._shared:
            if shared.same(trained, start):
                return shared
        if len(self._shared) == MOST_STARTS:
            return None
        self._shared.append(SharedStart(trained, start, self._module))
        return self._shared[-1]

    def _take_over(self, shared: "SharedStart") -> None:
        """Add what waits for *shared*; a sketched sum is then done with its memory, an exact one holds on to it."""
        self._add_term(shared.flushed())
        shared.leave(reusable=not self._module.exact)

    def _add_term(self, term: LowRank) -> None:
        """Add a product of scale 1 that has no linear part."""
        if term.rank == 0:
            return
        if self._module.exact:
            self._exact.add(term)
            return
        if self._finder is None:
            columns = self._module.rank + OVERSAMPLING
            self._finder = RangeFinder(self._module.shape, columns=columns, seed=self._module.seed)
        self._finder.merge(term.b, term.a)


def updates_at_once(module: Module, rank: int, column_bytes: int) -> int:
    """Return how many updates of *rank* columns wait together in a sum of *module*."""
    if module.exact:
        columns = BATCH_COLUMNS
    elif module.count * rank * column_bytes <= WHOLE_BYTES:
        columns = WHOLE_BYTES // column_bytes
    else:
        columns = STACK_BYTES // column_bytes
    fitting = columns // max(1, rank)
    return max(1, min(fitting, module.count or fitting))


@final
class SharedStart:
    """Updates of one module from one start: the sums of their linear parts, and the products that wait."""

    def __init__(self, trained: LowRank, start: LowRank, module: Module) -> None:
        self._start = start
        self._scale = trained.scale
        self._rank = trained.rank
        d, k = trained.shape
        begun = (start.b, start.a) if start.rank else ()  # where there is no start, its type says nothing
        own = np.result_type(trained.b, trained.a, *begun, np.float32)  # linalg takes no halves
        self._dtype = np.dtype(np.float64) if module.exact else own
        self._size = updates_at_once(module, self._rank, (d + k) * own.itemsize)
        self._shape = (d, k)
        self._room = module.room
        self._memory: Array | None = None
        self._b: Array = np.empty((0, d), self._dtype)
        self._a: Array = np.empty((0, k), self._dtype)
        self._weights: list[float] = []
        self._start_b = np.ascontiguousarray(start.b.T)
        self._sum_b: Floats = np.zeros((self._rank, d))
        self._sum_a: Floats = np.zeros((self._rank, k))

    def same(self, trained: LowRank, start: LowRank) -> bool:
        """Return whether an update is from this start; compared by content, so that it does not depend on memory."""
        if (trained.rank, trained.scale, start.rank) != (self._rank, self._scale, self._start.rank):
            return False
        return start.rank == 0 or same_factors(start, self._start)

    @property
    def full(self) -> bool:
        """Whether no other update fits before a flush."""
        return len(self._weights) == self._size

    def add(self, trained: LowRank, weight: float) -> None:
        """Take one update in."""
        if self._memory is None:
            self._enter()
        place = len(self._weights) * self._rank
        rows = slice(place, place + self._rank)
        if self._start.rank:
            np.subtract(trained.b.T, self._start_b, out=self._b[rows], dtype=self._dtype)
            np.subtract(trained.a, self._start.a, out=self._a[rows], dtype=self._dtype)
        else:
            self._b[rows] = trained.b.T
            self._a[rows] = trained.a
        self._weights.append(weight * self._scale)

    def flushed(self) -> LowRank:
        """Return the waiting Σ w·s·b·a as one product, and add the linear parts to their sums."""
        weights = np.array(self._weights)
        columns = len(weights) * self._rank
        b, a = self._b[:columns], self._a[:columns]
        if self._start.rank and columns:
            each = np.kron(weights, np.eye(self._rank)).astype(self._dtype)
            self._sum_b += each @ b
            self._sum_a += each @ a
        self._weights.clear()
        b *= np.repeat(weights, self._rank).astype(self._dtype)[:, None]
        if b[:, 0].all() and a[:, 0].all():  # the usual case: nothing to look for
            return LowRank(b.T, a)
        used = b.any(axis=1) & a.any(axis=1)
        return LowRank(b[used].T, a[used])

    def leave(self, *, reusable: bool) -> None:
        """Let go of the memory that flushed() returned a view of: to be used again, or not."""
        if self._memory is not None and reusable:
            self._room.give(self._memory)
        self._memory = None

    def _enter(self) -> None:
        """Take memory for as many updates as wait together; new memory is touched page by page, as it fills."""
        d, k = self._shape
        rows, number = self._size * self._rank, self._dtype.itemsize
        memory = self._room.take(rows * (d + k) * number)
        middle = rows * d * number
        self._b = memory[:middle].view(self._dtype).reshape(rows, d)
        self._a = memory[middle : middle + rows * k * number].view(self._dtype).reshape(rows, k)
        self._memory = memory

    def linear(self) -> Sequence[LowRank]:
        """Return b̄·A₀ and B₀·ā, of the weighted sums of what was flushed."""
        if not self._start.rank:
            return ()
        pairs = ((self._sum_b.T, self._start.a), (self._start.b, self._sum_a))
        return [LowRank(b, a) for b, a in pairs if b.any() and a.any()]
