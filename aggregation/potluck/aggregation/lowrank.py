"""Matrices kept as two thin factors: their sum, their singular value decomposition, their inner products.

Nothing here makes an array of the size of the matrix itself: one layer of an 8B model is 4096 × 14336 = 59 million
numbers, and its two factors of rank 16 are 0.3 million.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.beside import beside
from potluck.aggregation.errors import BadSetting, BadTensor

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float64]

MATRIX_DIMS: Final = 2
CHUNK_COLUMNS: Final = 256
"""Columns that a running sum gathers before it is recompressed."""
CHUNK_TOLERANCE: Final = 1e-12
"""Singular values below this share of the largest are dropped when a running sum is recompressed."""
GRAM_TOLERANCE: Final = 1e-7
"""Directions that are shorter beside the longest are lost in a Gram matrix in float64."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """The matrix scale·b·a, kept as its factors: b is (d, r), a is (r, k).  Rank 0 is the zero matrix.

    (b·M, M⁻¹·a) is the same matrix for every invertible M, so factors are never compared or averaged: products are.

    Raises:
        BadTensor: the factors are not two matrices that can be multiplied, or the scale is not finite.
    """

    b: Array
    a: Array
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.b.ndim != MATRIX_DIMS or self.a.ndim != MATRIX_DIMS or self.b.shape[1] != self.a.shape[0]:
            raise BadTensor(
                f"factors of shapes {self.b.shape} and {self.a.shape} cannot be multiplied",
                fix="b is (d, r) and a is (r, k), with the same r",
            )
        if not math.isfinite(self.scale):
            raise BadTensor(f"the scale of a {self.shape} adapter is {self.scale}", fix="use a finite scale")

    @property
    def shape(self) -> tuple[int, int]:
        """(d, k), the shape of the product."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """R, the number of columns of b: an upper bound on the rank of the product."""
        return int(self.b.shape[1])

    def dense(self) -> Floats:
        """Return the product as a (d, k) float64 array.  For tests and exports; nothing else needs it."""
        product: Floats = self.scale * (self.b.astype(np.float64) @ self.a.astype(np.float64))
        return product

    def times(self, weight: float) -> "LowRank":
        """Return weight times this matrix; the factors are shared, not copied."""
        return LowRank(self.b, self.a, self.scale * weight)

    def norm(self) -> float:
        """Return the Frobenius norm of the product, gauge-invariant, in O((d + k)·r²); infinite where it overflows."""
        square = gram_of([self])[0, 0] if self.rank else 0.0
        return math.inf if math.isnan(square) else math.sqrt(max(0.0, square))


def zero(shape: tuple[int, int]) -> LowRank:
    """Return the zero matrix of *shape*, as factors of rank 0."""
    return LowRank(np.zeros((shape[0], 0)), np.zeros((0, shape[1])))


def gram(updates: Sequence[Mapping[str, LowRank]]) -> Floats:
    """Return K, (n, n) float64: Kᵢⱼ = Σ over modules of ⟨Δᵢ, Δⱼ⟩, inner products of the products.

    A module that one side lacks counts as zero.  Exactly symmetric.  Good for weights and distances; the square
    squares the condition number too, so singular values are taken from compress instead.

    Raises:
        BadTensor: the same module has different shapes in two updates.
    """
    result = np.zeros((len(updates), len(updates)))
    for name in sorted({name for update in updates for name in update}):
        present = [i for i, update in enumerate(updates) if name in update]
        same_shape([updates[i][name] for i in present], name)
        used = [i for i in present if updates[i][name].rank]
        if used:
            result[np.ix_(used, used)] += gram_of([updates[i][name] for i in used])
    return result


def gram_of(terms: Sequence[LowRank]) -> Floats:
    """Return ⟨Δᵢ, Δⱼ⟩ = tr((XᵢᵀXⱼ)·(YⱼYᵢᵀ)) of the *terms*, all of one shape and of rank above 0, exactly symmetric.

    Where all have one factor in common, that of its rows is worked out once: n²·d·r instead of n²·r²·(d + k).
    """
    if len(terms) > 1 and all(np.array_equal(terms[0].a, term.a) for term in terms[1:]):
        return beside(terms[0].a, [term.b for term in terms], [term.scale for term in terms])
    if len(terms) > 1 and all(np.array_equal(terms[0].b, term.b) for term in terms[1:]):
        return beside(terms[0].b.T, [term.a.T for term in terms], [term.scale for term in terms])
    x = np.concatenate([term.b.astype(np.float64) * term.scale for term in terms], axis=1)
    y = np.concatenate([term.a.astype(np.float64) for term in terms], axis=0)
    starts = np.cumsum([0] + [term.rank for term in terms])
    result = np.zeros((len(terms), len(terms)))
    for i, (here, there) in enumerate(itertools.pairwise(starts)):
        columns = x[:, here:there].T @ x[:, here:]
        columns *= y[here:there] @ y[here:].T
        result[i, i:] = np.add.reduceat(columns.sum(axis=0), starts[i:-1] - here)
    return result + np.triu(result, 1).T


def same_shape(terms: Sequence[LowRank], where: str) -> tuple[int, int]:
    """Return the one (d, k) shape of all *terms*.

    Raises:
        BadTensor: there are none, or two differ.
    """
    shapes = {term.shape for term in terms}
    if len(shapes) != 1:
        raise BadTensor(
            f"{where}: {len(terms)} terms have {len(shapes)} shapes {sorted(shapes)}",
            fix="give at least one term, all of one shape (d, k)",
        )
    return shapes.pop()


class Compressed(NamedTuple):
    """What compress returns: the best approximation, and the Frobenius norm of what was cut off."""

    low_rank: LowRank
    discarded: float


def compress(
    terms: Sequence[LowRank],
    weights: Sequence[float] | Floats | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
) -> Compressed:
    """Return the best low-rank approximation of Σ wⱼ·termⱼ, as balanced factors U·√Σ and √Σ·Vᵀ of scale 1.

    With all R columns of the terms stacked as B and A: B = Q_B·R_B, Aᵀ = Q_A·R_A, R_B·R_Aᵀ = U′·Σ·V′ᵀ (an R × R
    decomposition), U = Q_B·U′, V = Q_A·V′.  This is the singular value decomposition of the dense sum, in
    O((d + k)·R² + R³), in float64.  Columns stand in the order of descending σ; the largest |entry| of every
    column of U is positive.  Equal σ leave a rotation free, so compare products.

    *rank* keeps at most so many columns, *energy* the fewest whose share of Σσ² reaches it; both: the smaller.
    Over half of min(d, k) columns are summed in chunks, see LowRankSum.  *discarded* is √Σσ² over what was cut.

    Source: Eckart and Young 1936 (optimality); Halko, Martinsson and Tropp 2011, §5.1 (small core), arXiv:0909.4061.

    Raises:
        BadTensor: no terms, differing shapes, or a value that is not finite.
        BadSetting: a negative rank, an energy outside (0, 1], or not one weight per term.
    """
    shape = same_shape(terms, "compress")
    if weights is not None and len(weights) != len(terms):
        raise BadSetting(f"compress got {len(weights)} weights for {len(terms)} terms", fix="give one weight per term")
    running = LowRankSum(shape, limit=max(CHUNK_COLUMNS, min(shape) // 2))
    for term, weight in zip(terms, [1.0] * len(terms) if weights is None else weights, strict=True):
        if not (np.isfinite(term.b).all() and np.isfinite(term.a).all() and math.isfinite(weight)):
            raise BadTensor(f"a {shape} term of weight {weight} holds NaN or infinity", fix="leave that term out")
        running.add(term, float(weight))
    return running.compressed(rank=rank, energy=energy)


@final
class LowRankSum:
    """A running weighted sum of terms of one shape, in memory that does not grow with their number.

    Columns are stacked until there are more than *limit* new ones; then the stack is replaced by its singular value
    decomposition without the values below CHUNK_TOLERANCE of the largest.  The errors of the cuts add up, and
    `compressed` counts them.  Up to *limit* columns the sum is exact.
    """

    def __init__(self, shape: tuple[int, int], *, limit: int = CHUNK_COLUMNS) -> None:
        self.shape = shape
        self._limit = limit
        self._terms: list[LowRank] = []
        self._new_columns = 0
        self._dropped = 0.0

    def add(self, term: LowRank, weight: float = 1.0) -> None:
        """Add weight·term to the sum."""
        if weight == 0 or term.rank == 0:
            return
        self._terms.append(term.times(weight))
        self._new_columns += term.rank
        if self._new_columns > self._limit:
            cut, dropped = shortened(self._terms, self.shape, tolerance=CHUNK_TOLERANCE)
            self._terms = [cut]
            self._new_columns = 0
            self._dropped += dropped

    def scaled(self, weight: float) -> list[LowRank]:
        """Return weight times the sum, as the terms whose sum it is."""
        return [term.times(weight) for term in self._terms]

    def compressed(self, *, rank: int | None = None, energy: float | None = None) -> Compressed:
        """Return the sum cut to *rank* and *energy*; see compress."""
        noise = float(np.finfo(np.float64).eps) * max(1, sum(term.rank for term in self._terms))
        cut, dropped = shortened(self._terms, self.shape, rank=rank, energy=energy, tolerance=noise)
        return Compressed(cut, dropped + self._dropped)


def factored(columns: Array) -> tuple[Array, Array]:
    """Return (Q, R) with orthonormal Q and Q·R = *columns*, to rounding."""
    q, r = np.linalg.qr(columns)
    return q, r


def nearly_factored(columns: Array, tolerance: float = GRAM_TOLERANCE) -> tuple[Array, Array]:
    """Return (Q, R), float64, with Q·R = *columns* but for directions below *tolerance* of the longest.

    From the eigenvalues of the Gram matrix, at a sixth of the cost of `factored`; where columns depend on each other,
    Q has fewer of them.  Columns of Q are orthogonal up to the rounding of float64 over their share squared: to 1e-6
    for a tolerance of 1e-5.

    Raises:
        BadTensor: a value is not finite, or the squares overflow.
    """
    wide = columns.astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = wide.T @ wide
    if not np.isfinite(squares).all():
        raise BadTensor(f"{columns.shape} columns overflow when they are squared", fix="leave the largest update out")
    values, vectors = np.linalg.eigh(squares)
    used = values > tolerance**2 * max(values, default=0.0)
    roots, turned = np.sqrt(values[used]), vectors[:, used]
    return wide @ (turned / roots), roots[:, None] * turned.T


def shortened(
    terms: Sequence[LowRank],
    shape: tuple[int, int],
    *,
    rank: int | None = None,
    energy: float | None = None,
    tolerance: float,
    factor: Callable[[Array], tuple[Array, Array]] = factored,
) -> tuple[LowRank, float]:
    """Return the leading singular part of the sum of *terms* as balanced factors, and the norm of the rest.

    Values up to *tolerance* times the largest are cut as well: they are rounding.  *factor* is `factored`, or
    `nearly_factored` where the terms are sketched.
    """
    if rank is not None and rank < 0:
        raise BadSetting(f"rank is {rank}", fix="use a rank of at least 0, or none")
    if energy is not None and not 0 < energy <= 1:
        raise BadSetting(f"energy is {energy}", fix="use a share above 0 and up to 1, such as 0.9999")
    with np.errstate(over="ignore", invalid="ignore"):
        q_b, r_b = factor(stacked([(term.b, term.scale) for term in terms], shape[0]))
        q_a, r_a = factor(stacked([(term.a.T, 1.0) for term in terms], shape[1]))
        core = r_b @ r_a.T
    if not np.isfinite(core).all():
        raise BadTensor(f"the sum of {len(terms)} terms of {shape} overflows", fix="leave the largest out")
    u, sigma, vt = np.linalg.svd(core, full_matrices=False)
    keep = kept(sigma, rank=rank, energy=energy, tolerance=tolerance)
    root = np.sqrt(sigma[:keep])
    b, a = q_b @ (u[:, :keep] * root), (root[:, None] * vt[:keep]) @ q_a.T
    if keep:
        sign = np.where(b[np.argmax(np.abs(b), axis=0), np.arange(keep)] < 0, -1.0, 1.0)
        b *= sign
        a *= sign[:, None]
    return LowRank(b, a), float(np.linalg.norm(sigma[keep:]))


def stacked(factors: Sequence[tuple[Array, float]], rows: int) -> Floats:
    """Return scale·factor for every factor (rows, rᵢ), side by side as (rows, Σrᵢ) float64."""
    result = np.empty((rows, sum(factor.shape[1] for factor, _ in factors)))
    place = 0
    for factor, scale in factors:
        part = result[:, place : place + factor.shape[1]]
        part[:] = factor
        part *= scale
        place += factor.shape[1]
    return result


def kept(sigma: Floats, *, rank: int | None, energy: float | None, tolerance: float) -> int:
    """Return how many of the descending *sigma* the limits leave."""
    keep = int(np.count_nonzero(sigma > tolerance * sigma[0])) if sigma.size else 0
    if energy is not None:
        tails = np.append(np.cumsum(sigma[::-1] ** 2)[::-1], 0.0)  # summed from the small end: no cancellation
        keep = min(keep, int(np.argmax(tails <= (1 - energy) * tails[0])))
    return keep if rank is None else min(keep, rank)
