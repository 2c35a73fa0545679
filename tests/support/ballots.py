"""Rounds of plain vectors, cast through the weight steps by name as the product's own path would cast them."""

from collections.abc import Mapping, Sequence

import numpy as np

from potluck.aggregation import LowRank, gram
from potluck.aggregation.pipeline import settings_of
from potluck.aggregation.weights.ballot import Ballot, Facts, Step
from potluck.aggregation.weights.registry import WEIGHTS


def factored(row: np.ndarray, seed: int) -> dict[str, LowRank]:
    """Return *row*, of 4·h numbers, as two modules of (h, 2): factors of a gauge that *seed* draws, scale 2 and 1."""
    rng = np.random.default_rng(seed)
    modules = {}
    for name, scale, part in zip(("q", "v"), (2.0, 1.0), np.split(row, 2), strict=True):
        gauge = rng.normal(size=(2, 2)) + 3 * np.eye(2)
        modules[name] = LowRank(part.reshape(-1, 2) @ gauge / scale, np.linalg.inv(gauge), scale)
    return modules


def facts(count: int, *, f: int = 0, steps: Sequence[int] | None = None, seed: int = 0) -> Facts:
    """Return the facts of a round in which every client has one example and no update is late."""
    return Facts(
        examples=np.ones(count, np.int64),
        steps=np.ones(count, np.int64) if steps is None else np.array(steps, np.int64),
        staleness=np.zeros(count, np.int64),
        f=f,
        seed=seed,
    )


def ballot_of(rows: np.ndarray, known: Facts | None = None, **given: object) -> Ballot:
    """Return the ballot of a round whose innovations are *rows* (n, p), equal in weight unless *given* some."""
    n = len(rows)
    weights = np.asarray(given.get("weights", np.ones(n)), np.float64)
    reference = given.get("reference")
    if rows.shape[1] % 4 == 0:
        products = gram([factored(row, place) for place, row in enumerate(rows)])
    else:
        products = rows @ rows.T
    if reference is not None:
        trusted = np.asarray(reference, np.float64)
        reference = np.append(rows @ trusted, trusted @ trusted)
    return Ballot(known or facts(n), np.eye(n), weights / weights.sum(), products, reference)


def cast(ballot: Ballot, names: Sequence[str], settings: Mapping[str, float] | None = None) -> Ballot:
    """Return *ballot* after the steps called *names*, with those *settings* that each of them has."""
    for name in names:
        kind = WEIGHTS[name]
        step = kind(**{key: value for key, value in (settings or {}).items() if key in settings_of(kind)})
        assert isinstance(step, Step)
        ballot = step.cast(ballot)
    return ballot
