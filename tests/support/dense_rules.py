"""The rules as their papers write them, on whole matrices: the reference that the folds are compared with.

Written for reading, with loops; nothing here is low rank, and nothing is ours but LowRank as a container.
"""

import numpy as np

from rounds import FLOATS, Round


def expected(name: str, round_: Round) -> FLOATS:
    """Return the dense innovation that the rule called *name* makes of a round."""
    return EQUATIONS[name](round_)


def factors(round_, role="trained"):
    """Return the update's B, A and scale, in float64."""
    terms = [getattr(update, role)["w"] for update in round_.updates]
    return [(term.b.astype(float), term.a.astype(float), term.scale) for term in terms]


def weighted(shares, matrices):
    return sum(share * matrix for share, matrix in zip(shares, matrices, strict=True))


def innovations(round_):
    pairs = zip(factors(round_), factors(round_, "start"), strict=True)
    return [s * b @ a - s0 * b0 @ a0 for (b, a, s), (b0, a0, s0) in pairs]


def mean(round_):
    return weighted(round_.shares, innovations(round_))


def replacing(round_):
    return weighted(round_.shares, [s * b @ a for b, a, s in factors(round_)]) - round_.before.dense()


def florist(round_):
    u, sigma, vt = np.linalg.svd(replacing(round_) + round_.before.dense())
    keep = next(p for p in range(len(sigma)) if sum(sigma[:p] ** 2) >= 0.99 * sum(sigma**2))
    return sum(sigma[j] * np.outer(u[:, j], vt[j]) for j in range(keep)) - round_.before.dense()


def mean_factors(round_, trained):
    (b0, a0, scale), *_ = factors(round_, "start")
    b = weighted(round_.shares, [b for b, _, _ in trained])
    a = weighted(round_.shares, [a for _, a, _ in trained])
    return scale * (b @ a - b0 @ a0)


def fedit(round_):
    return mean_factors(round_, factors(round_))


def fedrot(round_):
    (b0, a0, _), *_ = factors(round_, "start")
    turned = []
    for b, a, scale in factors(round_):
        cross = a @ a0.T if round_.rounds % 2 == 0 else b.T @ b0
        squares, vectors = np.linalg.eigh(cross.T @ cross)
        turn = cross @ vectors @ np.diag(squares**-0.5) @ vectors.T  # the orthogonal part of its polar form
        turned.append((b @ turn, turn.T @ a, scale))
    return mean_factors(round_, turned)


def hetlora(round_):
    wide = max(b.shape[1] for b, _, _ in factors(round_))
    norms = [np.linalg.norm(s * b @ a) for b, a, s in factors(round_)]
    shares = round_.shares * norms / np.sum(round_.shares * norms)
    b = weighted(shares, [np.pad(b, ((0, 0), (0, wide - b.shape[1]))) for b, _, _ in factors(round_)])
    a = weighted(shares, [np.pad(a, ((0, wide - a.shape[0]), (0, 0))) for _, a, _ in factors(round_)])
    return b @ a - round_.before.dense()


def raflora(round_):
    total, low = 0, 0
    for high in sorted({b.shape[1] for b, _, _ in factors(round_)}):
        have = [(c, b, a) for c, (b, a, _) in zip(round_.shares, factors(round_), strict=True) if b.shape[1] >= high]
        part = sum(c * b[:, low:high] @ a[low:high] for c, b, a in have) / sum(c for c, _, _ in have)
        total, low = total + part, high
    return total - round_.before.dense()


def picking(pick, select=None):
    """Return the equation of a rule that picks from the n values of every entry of B."""

    def equation(round_):
        rows = list(range(len(round_.updates))) if select is None else select(round_)
        changes = [b - b0 for (b, _, _), (b0, _, _) in zip(factors(round_), factors(round_, "start"), strict=True)]
        stack = np.array([changes[i] for i in rows])
        picked = [[pick(sorted(stack[:, i, j]), round_.f) for j in range(stack.shape[2])] for i in range(len(stack[0]))]
        return np.array(picked) @ factors(round_)[0][1]

    return equation


def middle(values, _):
    return np.median(values)


def trimmed(values, f):
    return np.mean(values[f : len(values) - f])


def nearest(values, f):
    return np.mean(sorted(values, key=lambda value: abs(value - np.median(values)))[: len(values) - 2 * f])


def krum_again_and_again(round_):
    """Return the θ selected updates; of two that are each other's nearest, the first by digest."""
    moves, f, chosen = innovations(round_), round_.f, []
    left = sorted(range(len(moves)), key=lambda i: round_.updates[i].digest())
    while len(chosen) < len(moves) - 2 * f:
        near = max(1, len(left) - f - 1)
        scores = [sum(sorted(np.sum((moves[i] - moves[j]) ** 2) for j in left if j != i)[:near]) for i in left]
        chosen.append(left.pop(int(np.argmin(scores))))
    return chosen


EQUATIONS = {
    "bulyan": picking(nearest, krum_again_and_again),
    "fedex": mean,
    "fedit": fedit,
    "fedrot": fedrot,
    "fedsa": mean,
    "fedsb": mean,
    "fedsvd": mean,
    "ffa": mean,
    "flexlora": replacing,
    "flora": mean,
    "florist": florist,
    "hetlora": hetlora,
    "mean": mean,
    "median": picking(middle),
    "raflora": raflora,
    "rolora": mean,
    "trimmed_mean": picking(trimmed),
}
