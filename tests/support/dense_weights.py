"""The weight steps as their papers write them, on plain vectors: the reference that the Gram path is compared with.

Every function takes rows (n, p), their weights (n,) of sum 1 and f, and returns the result (p,), or the new rows.
Written for reading, with loops; nothing here knows of inner products.
"""

import itertools

import numpy as np


def distances(rows):
    return np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])


def weighted_mean(rows, weights):
    return sum(w * row for w, row in zip(weights, rows, strict=True)) / sum(weights)


def krum_order(rows, f, margin=1):
    squares = distances(rows) ** 2
    scores = []
    for i in range(len(rows)):
        others = sorted(squares[i, j] for j in range(len(rows)) if j != i)
        scores.append(sum(others[: max(0, len(rows) - f - margin)]))
    return sorted(range(len(rows)), key=scores.__getitem__)


def krum(rows, f, margin=1):
    return rows[krum_order(rows, f, margin)[0]]


def multikrum(rows, weights, f, margin=1, keep=None):
    chosen = krum_order(rows, f, margin)[: keep or len(rows) - f]
    return weighted_mean(rows[chosen], weights[chosen])


def bulyan_selection(rows, weights, f, margin=1):
    left, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        squares = distances(rows[left]) ** 2
        scores = [sum(sorted(np.delete(squares[i], i))[: max(1, len(left) - f - margin)]) for i in range(len(left))]
        chosen.append(left.pop(int(np.argmin(scores))))
    return weighted_mean(rows[chosen], weights[chosen])


def mda(rows, weights, f):
    pairs = distances(rows)

    def diameter(subset):
        return max((pairs[i, j] for i, j in itertools.combinations(subset, 2)), default=0.0)

    chosen = list(min(itertools.combinations(range(len(rows)), len(rows) - f), key=diameter))
    return weighted_mean(rows[chosen], weights[chosen])


def nnm(rows, f):
    return np.array([np.mean(sorted(rows, key=lambda x: np.linalg.norm(x - row))[: len(rows) - f], 0) for row in rows])


def clipped(rows, bound):
    return np.array([row * min(1.0, bound / np.linalg.norm(row)) for row in rows])


def arc(rows, f):
    ordered = sorted((np.linalg.norm(row) for row in rows), reverse=True)
    return clipped(rows, ordered[(2 * f * (len(rows) - f)) // len(rows)])


def centered_clip(rows, weights, iterations, radius=None, *, from_mean=False):
    middle = weighted_mean(rows, weights) if from_mean else np.zeros(rows.shape[1])
    if radius is None:
        radius = np.median([np.linalg.norm(row - middle) for row in rows])
    for _ in range(iterations):
        middle = middle + sum(w * clipped([row - middle], radius)[0] for w, row in zip(weights, rows, strict=True))
    return middle


def geomedian(rows, weights, iterations=20_000):
    """Return the weighted geometric median, by gradient-free Weiszfeld on the vectors themselves, without smoothing."""
    middle = weighted_mean(rows, weights)
    for _ in range(iterations):
        lengths = np.linalg.norm(rows - middle, axis=1)
        if lengths.min() < 1e-13:
            return middle
        nearer = weighted_mean(rows, weights / lengths)
        if np.linalg.norm(nearer - middle) < 1e-15:
            return nearer
        middle = nearer
    return middle


def dnc(rows, weights, f, factor=1.0, rounds=1):
    for _ in range(rounds):
        centred = rows - rows.mean(axis=0)
        direction = np.linalg.svd(centred)[2][0]
        keep = np.argsort((centred @ direction) ** 2)[: len(rows) - int(np.ceil(factor * f))]
        rows, weights = rows[keep], weights[keep]
    return weighted_mean(rows, weights)


def cosine(rows, weights, bound):
    units = rows / np.linalg.norm(rows, axis=1)[:, None]
    direction = geomedian(units, weights)
    keep = units @ direction / np.linalg.norm(direction) >= bound
    return weighted_mean(rows[keep], weights[keep])


def fltrust(rows, weights, trusted):
    total, result = 0.0, np.zeros_like(trusted)
    for w, row in zip(weights, rows, strict=True):
        score = w * max(0.0, row @ trusted / np.linalg.norm(row) / np.linalg.norm(trusted))
        total += score
        result = result + score * np.linalg.norm(trusted) / np.linalg.norm(row) * row
    return result / total


def foolsgold(rows, weights):
    n = len(rows)
    pairs = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in rows] for a in rows])
    np.fill_diagonal(pairs, 0.0)
    most = pairs.max(axis=1)
    for i, j in itertools.permutations(range(n), 2):
        if most[i] < most[j]:
            pairs[i, j] *= most[i] / most[j]
    alpha = np.clip(1 - pairs.max(axis=1), 0, 1)
    alpha = alpha / alpha.max()
    alpha[alpha == 1] = 0.99
    factors = np.array([0.0 if a == 0 else min(1.0, max(0.0, np.log(a / (1 - a)) + 0.5)) for a in alpha])
    return weighted_mean(rows, weights * factors)


def fednova(rows, weights, steps):
    effective = sum(w * tau for w, tau in zip(weights, steps, strict=True))
    return effective * sum(w * row / tau for w, row, tau in zip(weights, rows, steps, strict=True))
