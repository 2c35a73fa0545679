"""Public random maps of products: one pass, no (d, k) array, and the same for every gauge.

Above some 64 updates the exact Gram matrix costs n²r²(d + k) and the exact sum (d + k)(Σr)².  A map that is applied to
each product on both sides keeps p × p numbers of it, and inner products of those estimate inner products of the
products.  Two maps of the sum, one on each side, are enough to find its leading singular part.  The maps are drawn
from a seed that anybody can redo; nobody can aim at them, since the seed is made from the updates themselves.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, final

import numpy as np

from potluck.aggregation.lowrank import Array, Floats, LowRank, nearly_factored, zero
from potluck.aggregation.rules.base import Trains

WIDTH: Final = 64
"""√(p·q) of ProductSketch: an inner product is off by √2 of its inverse where many directions take part."""
OVERSAMPLING: Final = 8
"""Columns of a RangeFinder beyond the rank that it has to resolve."""
SPARSE: Final = 8
"""Coordinates for every column from which on a first look is sparse."""
RANGE_TOLERANCE: Final = 1e-5
"""Directions of a RangeFinder that are shorter beside the longest are not worth finding."""
PROBES: Final = 8
"""Rows of the map that measures what a RangeFinder drops."""


@final
class ProductSketch:
    """n sums over modules of Ω_L·Δ·Ω_R, (n, p, q), for Gaussian Ω of variance 1 / p and 1 / q, other for every module.

    ⟨Sᵢ, Sⱼ⟩ is an unbiased estimate of ⟨Δᵢ, Δⱼ⟩: E[Ω_LᵀΩ_L] = E[Ω_RΩ_Rᵀ] = 1, and parts of different modules are
    orthogonal in the mean.

    Source: Johnson and Lindenstrauss 1984, as a Kronecker product of two maps; for linear sketches of matrices see
    Woodruff 2014, §2, arXiv:1411.4357.
    """

    def __init__(self, count: int, *, seed: int, widths: tuple[int, int] = (WIDTH, WIDTH)) -> None:
        self.values: Floats = np.zeros((count, *widths))
        self._seed = seed
        self._widths = widths

    def maps(self, name: str, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> tuple[Array, Array]:
        """Return (Ω_L (p, d), Ω_R (k, q)) of one module."""
        p, q = self._widths
        left = drawn(self._seed, f"{name}/left", (p, shape[0]), dtype)
        right = drawn(self._seed, f"{name}/right", (shape[1], q), dtype)
        return left * dtype.type(p**-0.5), right * dtype.type(q**-0.5)


def widths(trains: Trains, width: int = WIDTH) -> tuple[int, int]:
    """Return (p, q) of a ProductSketch with p·q = width² numbers for updates that train *trains*.

    A public factor is mapped once for all updates, so a wide map of its side is nearly free.  Where the other side's
    is half as wide for it, the pass costs half, and inner products of updates of 32 columns vary a tenth more.
    """
    return {"b": (width // 2, 2 * width), "a": (2 * width, width // 2)}.get(trains, (width, width))


def gram_of_sketches(values: Floats) -> Floats:
    """Return the estimate of ⟨Δᵢ, Δⱼ⟩ from (n, p, p) sketches: (n, n), exactly symmetric."""
    flat = values.reshape(len(values), -1)
    gram: Floats = flat @ flat.T
    return (gram + gram.T) / 2


@final
class RangeFinder:
    """A running sum of products that keeps its leading p singular directions.

    What is merged in at a time is known whole, as b·a with hundreds of columns, so its range is found by subspace
    iteration: P ← orth(Aᵀ·Ω), Q ← orth(A·P), and A is replaced by Q·(QᵀA); A itself is never made.  Looking at A
    from both sides brings the error within some 5 to 25 % of the best one of that rank where singular values hardly
    fall off, and far closer where they do; a single look through two maps of A leaves 100 % or more.  The kept part
    is merged with the next.  Eight rows Θ·(A − QQᵀA), of a map that took no part in finding Q, measure what each
    merge dropped: ‖Θ·E‖² / 8 estimates ‖E‖² without bias.  Ω is sparse where that pays, see first_look: the
    second look makes up for what a sparse first one misses.

    Source: Halko, Martinsson and Tropp 2011, Algorithm 4.4, arXiv:0909.4061; the measure is §6.1 of Tropp, Yurtsever,
    Udell and Cevher 2019, arXiv:1902.08651, whose single look (2017, arXiv:1609.00048) this replaces.
    """

    def __init__(self, shape: tuple[int, int], *, columns: int, seed: int) -> None:
        self._shape = shape
        self._columns = min(columns, *shape)
        self._seed = seed
        self._kept: LowRank | None = None
        self.dropped: list[float] = []
        """Frobenius norms of what the merges dropped, as measured; the error is at most their sum."""

    def merge(self, b: Array, a: Array) -> None:
        """Add b·a, of shapes (d, C) and (C, k)."""
        parts = [(b, a)]
        if self._kept is not None:
            parts.append((self._kept.b.astype(b.dtype), self._kept.a.astype(a.dtype)))
        columns = min(self._columns, sum(right.shape[0] for _, right in parts))
        theta = drawn(self._seed, f"probe{len(self.dropped)}", (PROBES, b.shape[0]), b.dtype)
        q = self._basis(parts, columns)
        looks = np.concatenate([q.T, theta])  # one pass for both
        seen = summed([(looks @ left) @ right for left, right in parts])
        core, missed = seen[:-PROBES], seen[-PROBES:] - (theta @ q) @ seen[:-PROBES]
        self.dropped.append(float(np.linalg.norm(missed.astype(np.float64)) / np.sqrt(PROBES)))
        self._kept = LowRank(q, core)

    def _basis(self, parts: Sequence[tuple[Array, Array]], columns: int) -> Array:
        """Return orthonormal columns (d, q) that hold the leading directions of the sum of *parts*."""
        d, k = self._shape
        dtype = parts[0][0].dtype
        if columns == d:  # every direction there is; a random map might all but miss one
            return np.eye(d, dtype=dtype)
        if columns == k:
            p: Array = np.eye(k, dtype=dtype)
        else:
            look = first_look(self._seed, f"range{len(self.dropped)}", (d, columns), dtype)
            p = orthonormal(summed([right.T @ look(left.T) for left, right in parts]))
        return orthonormal(summed([left @ (right @ p) for left, right in parts]))

    def found(self) -> LowRank:
        """Return what is kept of the sum, with orthonormal columns of b."""
        return self._kept or zero(self._shape)


def summed(arrays: Sequence[Array]) -> Array:
    """Return the sum of at least one array of one shape, first to last."""
    total = arrays[0]
    for array in arrays[1:]:
        total += array
    return total


def first_look(seed: int, role: str, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> Callable[[Array], Array]:
    """Return rows (C, d) ↦ rows·Ω (C, p) for one map of *shape* (d, p): Gaussian, or sparse from d = SPARSE·p on.

    A sparse map costs an eighth; one of few coordinates might have two columns alike.
    """
    if shape[0] < SPARSE * shape[1]:
        omega = drawn(seed, role, shape, dtype)
        return lambda rows: rows @ omega
    signs = np.sign(drawn(seed, role, (2, shape[0]), dtype))
    return partial(scattered, columns=shape[1], signs=signs)


def scattered(rows: Array, columns: int, signs: Array) -> Array:
    """Return *rows* (C, d) times a sparse map (d, p) with two entries ± 1 in every row, (C, p), for p ≤ d.

    Coordinate i goes, with the *signs* (2, d), into the column of its place in p runs of neighbours, and into that of
    its place in runs of p: no two share both, so what lies in a few rows only is spread out all the same.

    Source: sparse sign maps, Martinsson and Tropp 2020, §9.2, arXiv:2002.01387, with public instead of random places.
    """
    run = rows.shape[1] // columns
    whole = run * columns
    blocks, strides = rows[:, :whole].reshape(-1, columns, run), rows[:, :whole].reshape(-1, run, columns)
    result: Array = np.einsum("cps,ps->cp", blocks, signs[0, :whole].reshape(columns, run))
    result += np.einsum("csp,sp->cp", strides, signs[1, :whole].reshape(run, columns))
    result[:, : rows.shape[1] - whole] += rows[:, whole:] * signs[0, whole:]
    return result


def orthonormal(columns: Array) -> Array:
    """Return an orthonormal basis of the range of *columns* (d, p), (d, q) with q ≤ p, by its Gram matrix in float64.

    Directions below RANGE_TOLERANCE of the longest are left out; a QR decomposition would keep them, at several times
    the cost.

    Raises:
        BadTensor: a value is not finite.
    """
    basis, _ = nearly_factored(columns, RANGE_TOLERANCE)
    return basis.astype(columns.dtype, copy=False)


def drawn(seed: int, role: str, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> Array:
    """Return a Gaussian (rows, columns) array from *seed* and *role*; float32 values whatever the *dtype*."""
    key = hashlib.sha256(f"{seed}:{role}:{shape}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key, "big")))
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
