"""Error feedback: what a codec left out of one update is added to the next, so that nothing is left out for good."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np

from potluck.aggregation.codecs.messages import decode
from potluck.aggregation.container import Limits
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.lowrank import Array, Floats, LowRank
from potluck.aggregation.tensors import LORA_A, LORA_B

OWN: Final = Limits(max_bytes=1 << 40, max_tensors=1 << 20, max_values=1 << 37)
"""For a message that this process has just written."""


class Fed(NamedTuple):
    """One turn of error feedback."""

    message: bytes
    """What to send."""
    left: dict[str, Floats]
    """All there was to send minus what the message holds: the residual for the next turn, float64."""


def feed(
    changes: Mapping[str, Array],
    residual: Mapping[str, Array],
    write: Callable[[Mapping[str, Array]], bytes],
    *,
    beta: float = 1.0,
) -> Fed:
    """Return e ← β·e + Δ as *write* encodes it, and e − sent, which is what that leaves for the next time.

    With β = 1 all that was ever sent and the last residual add up to all changes; β < 1 forgets old ones.  A tensor
    of the residual that is not among the *changes*, such as a factor that is frozen this time, waits as it is.

    Source: Stich et al. 2018, Algorithm 1, arXiv:1809.07599; β: Sarfi et al. 2025 (SparseLoCo), arXiv:2508.15706.

    Raises:
        BadTensor: a residual of another shape, or what *write* refuses.
    """
    total: dict[str, Floats] = {}
    for name, change in changes.items():
        held = residual.get(name)
        if held is not None and held.shape != change.shape:
            raise BadTensor(f"{name} changes in shape {change.shape}, and its residual has {held.shape}")
        total[name] = change.astype(np.float64)
        if held is not None:
            total[name] += beta * held.astype(np.float64)
    message = write(total)
    left = {name: held.astype(np.float64) for name, held in residual.items() if name not in changes}
    left |= {name: total[name] - sent for name, sent in decode(message, limits=OWN).items()}
    return Fed(message, left)


def rebased(
    residual: Mapping[str, Array], before: Mapping[str, LowRank], now: Mapping[str, LowRank]
) -> dict[str, Floats]:
    """Return a *residual* of deltas from the start *before* as deltas from the start *now*.

    Each version decomposes the master anew, and its columns turn, change sign or change places.  A residual e of B
    matters by e·A, so in a turned basis, A' = Qᵀ·A and B' = B·Q, it is e·Q, and one of A is Qᵀ·e.  Q is the orthogonal
    matrix that takes the old start nearest to the new one, max tr(Qᵀ·(BᵀB' + A·A'ᵀ)): exact where the new start is the
    old one turned, nearest where the master moved as well, and of the same norm always.

    Source: Schönemann 1966, the orthogonal Procrustes problem, doi:10.1007/BF02289451.

    Raises:
        BadTensor: a module that one of the starts lacks, or another rank.
    """
    turns: dict[str, Floats] = {}
    result: dict[str, Floats] = {}
    for name, held in residual.items():
        module, of_b = name[: -len(LORA_B)], name.endswith(LORA_B)
        if not of_b and not name.endswith(LORA_A):
            raise BadTensor(f"a residual is called {name}, and ends in neither {LORA_A} nor {LORA_B}")
        if module not in before or module not in now or before[module].rank != now[module].rank:
            raise BadTensor(f"{module} is not in both starts, at one rank")
        if module not in turns:
            turns[module] = turn(before[module], now[module])
        q = turns[module]
        result[name] = held @ q if of_b else q.T @ held
    return result


def turn(before: LowRank, now: LowRank) -> Floats:
    """Return the orthogonal Q (r, r) for which before.b·Q and Qᵀ·before.a are nearest to the factors of *now*."""
    overlap = before.b.T.astype(np.float64) @ now.b + before.a.astype(np.float64) @ now.a.T
    u, _, vt = np.linalg.svd(overlap)
    q: Floats = u @ vt
    return q
