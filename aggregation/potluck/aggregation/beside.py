"""Inner products of products that have one factor in common."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ROWS: Final = 256
"""That are looked at at a time, so that only they are copied."""


def beside(
    common: NDArray[np.floating[Any]], others: Sequence[NDArray[np.floating[Any]]], scales: Sequence[float]
) -> NDArray[np.float64]:
    """Return sᵢsⱼ·⟨Bᵢ·A, Bⱼ·A⟩ of n *others* (d, r) beside the *common* A (r, k): (n, n), exactly symmetric.

    A·Aᵀ is worked out once, and every Bᵢ is a vector then: n²·d·r instead of n²·r²·(d + k).
    """
    square = common.astype(np.float64) @ common.T.astype(np.float64)
    result = np.zeros((len(others), len(others)))
    for place in range(0, len(others[0]), ROWS):
        rows = np.stack([other[place : place + ROWS] for other in others]).astype(np.float64)
        rows *= np.reshape(scales, (-1, 1, 1))
        result += (rows @ square).reshape(len(others), -1) @ rows.reshape(len(others), -1).T
    return np.asarray(np.triu(result) + np.triu(result, 1).T)
