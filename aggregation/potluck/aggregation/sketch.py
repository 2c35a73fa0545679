"""Public random maps of products: one pass, no (d, k) array, and the same for every gauge.

Above some 64 updates the exact Gram matrix costs n²r²(d + k) and the exact sum (d + k)(Σr)².  A map that is applied to
each product on both sides keeps p × p numbers of it, and inner products of those estimate inner products of the
products.  Two maps of the sum, one on each side, are enough to find its leading singular part.  The maps are drawn
from a seed that anybody can redo; nobody can aim at them, since the seed is made from the updates themselves.
"""

import hashlib
from typing import Final, NamedTuple, final

import numpy as np

from potluck.aggregation.lowrank import Array, Floats, LowRank

WIDTH: Final = 64
"""p of ProductSketch: the relative error of an inner product is about √2 / p where many directions take part."""
OVERSAMPLING: Final = 16
"""Columns of a RangeSketch beyond the rank that it has to resolve."""
PROBES: Final = 8
"""Rows that are kept out of the reconstruction, to measure its error."""


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


class Ranged(NamedTuple):
    """What a RangeSketch found."""

    low_rank: LowRank
    error: float
    """Frobenius norm of sum minus low_rank, estimated from maps that took no part in finding it."""


@final
class RangeSketch:
    """A running sum of products, known by Y = A·Ω and W = Ψ·A alone, and found again from them as Q·(Ψ·Q)⁺·W.

    Q is an orthonormal basis of the range of Y.  Y has p columns, W l = 2p + 1 rows.  The error is within a factor of
    about 2 of the best approximation of rank p / 2, and far smaller where singular values fall off.  Eight further rows
    Θ·A, kept out of it, measure what was missed: ‖Θ(A − Â)‖² / q estimates ‖A − Â‖² without bias.

    Source: Tropp, Yurtsever, Udell and Cevher 2017, Algorithm 4 and Theorem 4.3, arXiv:1609.00048; the error estimate
    is §6 of their 2019, arXiv:1902.08651.
    """

    def __init__(self, shape: tuple[int, int], *, columns: int, seed: int, dtype: np.dtype[np.floating]) -> None:
        d, k = shape
        self._columns = min(columns, d, k)
        self._rows = min(2 * self._columns + 1, d)
        self._dtype = dtype
        self._omega = drawn(seed, "range", (k, self._columns), dtype)
        self._psi = drawn(seed, "core", (self._rows + PROBES, d), dtype)
        self._y: Floats = np.zeros((d, self._columns))
        self._w: Floats = np.zeros((self._rows + PROBES, k))

    def add(self, b: Array, a: Array) -> None:
        """Add b·a, of shapes (d, R) and (R, k)."""
        b, a = b.astype(self._dtype, copy=False), a.astype(self._dtype, copy=False)
        self._y += b @ (a @ self._omega)
        self._w += (self._psi @ b) @ a

    def found(self) -> Ranged:
        """Return the sum as far as it was seen, of rank p, and the measured error."""
        q, _ = np.linalg.qr(self._y)
        psi = self._psi.astype(np.float64)
        seen, core = psi[: self._rows] @ q, self._w[: self._rows]
        u, t = np.linalg.qr(seen)
        found = LowRank(q, np.linalg.lstsq(t, u.T @ core, rcond=None)[0])
        missed = self._w[self._rows :] - (psi[self._rows :] @ found.b) @ found.a
        return Ranged(found, float(np.linalg.norm(missed) / np.sqrt(PROBES)))


def drawn(seed: int, role: str, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> Array:
    """Return a Gaussian (rows, columns) array from *seed* and *role*; float32 values whatever the *dtype*."""
    key = hashlib.sha256(f"{seed}:{role}:{shape}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key, "big")))
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
