"""Which words an update was made from, read from the linear algebra of LoRA.

The gradient of A is Σ (what came back, through B) ⊗ (what went in): its rows lie in the span of what went in, and into
the first layer goes a vector that the word alone decides.  The gradient of B is Σ (what came back) ⊗ (A · what went
in): its columns lie in the span of what came back, and to the last layer comes back, nearly, the vector of the word
that should have been predicted.  So both are puzzles with known pieces.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np

from potluck.aggregation.lowrank import Array, Floats
from potluck.simulations.leaks.scores import auc

FIRST: Final = ("q_proj.lora_A", "k_proj.lora_A", "v_proj.lora_A")
LAST: Final = ("o_proj.lora_B",)
KEPT: Final = 1e-6  # singular values below this share of the largest are rounding
LEFT: Final = 1e-6  # what is left of a vector's square once the chosen ones have explained it


def went_in(update: Mapping[str, Array], layer: int = 0) -> Floats:
    """Return the rows (3r, k) that are combinations of what entered the attention of *layer*."""
    return np.concatenate([update[name] for name in _of(update, layer, FIRST)]).astype(np.float64)


def came_back(update: Mapping[str, Array], layer: int) -> Floats:
    """Return the rows (r, d) that are combinations of what came back to the output of *layer*'s attention."""
    return np.concatenate([update[name].T for name in _of(update, layer, LAST)]).astype(np.float64)


def explained(seen: Floats, vectors: Array, *, kept: float = KEPT) -> Floats:
    """Return which share of each vector's square lies in the row space of *seen*: (m, k), (V, k) -> (V,), 0 to 1.

    Source: the span check of DAGER, Petrov et al. 2024, arXiv:2405.15586, section 4.1.
    """
    squares = _square(vectors)
    inside = _square(vectors @ _basis(seen, kept).T.astype(vectors.dtype))
    return np.divide(inside, squares, out=np.zeros_like(squares), where=squares > 0)


def pursued(seen: Floats, vectors: Array, count: int, *, kept: float = 1e-3) -> list[int]:
    """Return at most *count* of the (V, k) vectors whose combinations the rows of *seen* (m, k) are, surest first.

    Greedy: the vector that the rest explains best is taken out of the rest and out of all other vectors.  Finds more
    vectors than there are rows, which no span check can.

    Source: simultaneous orthogonal matching pursuit, Tropp, Gilbert & Strauss 2006, Signal Processing 86, Algorithm
    3.1, with the subspace score of Davies & Eldar 2012, arXiv:1004.3529, Algorithm 3.
    """
    _, sizes, rows = np.linalg.svd(seen, full_matrices=False)
    rest = (sizes[:, None] * rows)[sizes > sizes[0] * KEPT]
    whole = np.linalg.norm(rest)
    squares = _square(vectors)
    remaining = squares.copy()
    chosen: list[int] = []
    directions = np.zeros((0, vectors.shape[1]))
    while len(chosen) < count and np.linalg.norm(rest) > KEPT * whole:
        explains = _square(vectors @ _basis(rest, kept).T.astype(vectors.dtype))
        best = int(np.argmax(explains / np.where(remaining <= LEFT * squares, np.inf, remaining)))
        direction = vectors[best] - directions.T @ (directions @ vectors[best])
        direction /= np.linalg.norm(direction)
        rest = rest - (rest @ direction)[:, None] * direction
        remaining = np.maximum(0, remaining - (vectors @ direction.astype(vectors.dtype)).astype(np.float64) ** 2)
        remaining[best] = 0
        directions = np.vstack([directions, direction])
        chosen.append(best)
    return chosen


def whose(shares: Floats, own: AbstractSet[int], others: AbstractSet[int]) -> float:
    """Return how well *shares* tell words that only the victim used from words that only somebody else used.

    The area under the curve: 0.5 is chance.  Guessing frequent words gains nothing: both used them.
    """
    return auc(shares[sorted(own - others)], shares[sorted(others - own)])


def _of(update: Mapping[str, Array], layer: int, names: tuple[str, ...]) -> list[str]:
    """Return the keys of *update* of the modules called *names* in *layer*, in order."""
    return sorted(key for key in update if f".layers.{layer}." in key and key.endswith(names))


def _basis(rows: Floats, kept: float) -> Floats:
    """Return an orthonormal basis of the row space, without directions smaller than *kept* of the largest."""
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    basis: Floats = directions[sizes > kept * sizes[0]]
    return basis


def _square(rows: Array) -> Floats:
    squares: Floats = (rows.astype(np.float64) ** 2).sum(axis=1)
    return squares
