"""Norms and distances of vectors of which only the inner products are known.

‖a − b‖² = ⟨a,a⟩ + ⟨b,b⟩ − 2⟨a,b⟩ cancels: whatever is done with the three numbers, an error of about 10⁻¹⁶·‖a‖² is in
them already, so a distance is known to about 10⁻⁸ of the norms, and never better.  Differences that small are noise
here, squares below zero are zero, and every step's smallest length stays above it.
"""

import numpy as np

from potluck.aggregation.lowrank import Floats


def norms(gram: Floats) -> Floats:
    """Return ‖vₐ‖ for every vector: (m, m) -> (m,), never NaN for rounding."""
    lengths: Floats = np.sqrt(np.maximum(np.diag(gram), 0.0))
    return lengths


def squared_distances(gram: Floats) -> Floats:
    """Return ‖vₐ − v_b‖² for every pair: (m, m) -> (m, m), symmetric, never negative, zero on the diagonal."""
    squares = np.diag(gram)
    pairs: Floats = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(pairs, 0.0)
    return pairs


def distances_from(gram: Floats, coefficients: Floats) -> Floats:
    """Return ‖vₐ − z‖ of every vector to z = Σ coefficients[b]·v_b: (m, m), (m,) -> (m,)."""
    inner = gram @ coefficients
    squares: Floats = np.diag(gram) - 2 * inner + coefficients @ inner
    lengths: Floats = np.sqrt(np.maximum(squares, 0.0))
    return lengths


def centre(gram: Floats) -> int:
    """Return the place of the vector whose median distance to all is the smallest; the first of equals.

    As long as fewer than half of the vectors are hostile it lies within the spread of the others.
    """
    return int(np.argmin(np.median(squared_distances(gram), axis=1)))


def about(gram: Floats, place: int) -> Floats:
    """Return the inner products of all vectors minus the one at *place*: (m, m) -> (m, m), symmetric.

    That moves no vector relative to another, and takes out what all have in common before it is squared again.  The
    origin is a vector and not the mean (double centring), because one hostile vector carries a mean far away: with
    one 10⁶ times as long as the others, their own inner products would drown at 10⁻⁴.
    """
    row = gram[place]
    centred: Floats = gram - row[:, None] - row[None, :] + gram[place, place]
    return centred


def typical_norm(gram: Floats) -> float:
    """Return the median norm; the largest where over half are zero; 1 where all are.  A scale to measure by."""
    lengths = norms(gram)
    return float(np.median(lengths)) or float(lengths.max()) or 1.0


def cosines(gram: Floats) -> Floats:
    """Return the cosine of every pair: (m, m) -> (m, m), within ±1; that of a zero vector with any other is 0."""
    lengths = norms(gram)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    result: Floats = np.clip(gram * inverse[:, None] * inverse[None, :], -1.0, 1.0)
    return result
