"""Public random maps of products: one pass, no (d, k) array, and the same for every gauge.

Above some 64 updates the exact Gram matrix costs n²r²(d + k) and the exact sum (d + k)(Σr)².  A map that is applied to
each product on both sides keeps p × p numbers of it, and inner products of those estimate inner products of the
products.  Two maps of the sum, one on each side, are enough to find its leading singular part.  The maps are drawn
from a seed that anybody can redo; nobody can aim at them, since the seed is made from the updates themselves.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, final

import numpy as np

from potluck.aggregation.lowrank import Array, Floats, LowRank, zero

WIDTH: Final = 64
"""p of ProductSketch: the relative error of an inner product is about √2 / p where many directions take part."""
OVERSAMPLING: Final = 16
"""Columns of a RangeFinder beyond the rank that it has to resolve."""
PROBES: Final = 8
"""Rows of the map that measures what a RangeFinder drops."""


@final
class ProductSketch:
    """n sums over modules of Ω_L·Δ·Ω_R, (n, p, p), for Gaussian Ω of variance 1 / p, independent for every module.

    ⟨Sᵢ, Sⱼ⟩ is an unbiased estimate of ⟨Δᵢ, Δⱼ⟩: E[Ω_LᵀΩ_L] = E[Ω_RΩ_Rᵀ] = 1, and parts of different modules are
    orthogonal in the mean.

    Source: Johnson and Lindenstrauss 1984, as a Kronecker product of two maps; for linear sketches of matrices see
    Woodruff 2014, §2, arXiv:1411.4357.
    """

    def __init__(self, count: int, *, seed: int, width: int = WIDTH) -> None:
        self.values: Floats = np.zeros((count, width, width))
        self._seed = seed
        self._width = width

    def maps(self, name: str, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> tuple[Array, Array]:
        """Return (Ω_L (p, d), Ω_R (k, p)) of one module."""
        scale = self._width**-0.5
        left = drawn(self._seed, f"{name}/left", (self._width, shape[0]), dtype)
        right = drawn(self._seed, f"{name}/right", (shape[1], self._width), dtype)
        return left * dtype.type(scale), right * dtype.type(scale)


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
    merge dropped: ‖Θ·E‖² / 8 estimates ‖E‖² without bias.

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
        omega = drawn(self._seed, f"range{len(self.dropped)}", (b.shape[0], columns), b.dtype)
        p = orthonormal(summed([right.T @ (left.T @ omega) for left, right in parts]))
        q = orthonormal(summed([left @ (right @ p) for left, right in parts]))
        core = summed([(q.T @ left) @ right for left, right in parts])
        theta = drawn(self._seed, f"probe{len(self.dropped)}", (PROBES, b.shape[0]), b.dtype)
        missed = summed([(theta @ left) @ right for left, right in parts]) - (theta @ q) @ core
        self.dropped.append(float(np.linalg.norm(missed.astype(np.float64)) / np.sqrt(PROBES)))
        self._kept = LowRank(q, core)

    def found(self) -> LowRank:
        """Return what is kept of the sum, with orthonormal columns of b."""
        return self._kept or zero(self._shape)


def summed(arrays: Sequence[Array]) -> Array:
    """Return the sum of at least one array of one shape, first to last."""
    total = arrays[0]
    for array in arrays[1:]:
        total += array
    return total


def orthonormal(columns: Array) -> Array:
    """Return an orthonormal basis of the range of *columns* (d, p): (d, p)."""
    basis: Array = np.linalg.qr(columns)[0]
    return basis


def drawn(seed: int, role: str, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> Array:
    """Return a Gaussian (rows, columns) array from *seed* and *role*; float32 values whatever the *dtype*."""
    key = hashlib.sha256(f"{seed}:{role}:{shape}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key, "big")))
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
