"""Low-rank matrices and updates for tests: random ones from a Generator, others from the JSON of the vectors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from potluck.aggregation import LowRank, Update

SHAPES: dict[str, tuple[int, int]] = {"attention": (12, 9), "mlp": (7, 10)}


def low_rank(rng: np.random.Generator, shape: tuple[int, int], rank: int, scale: float = 1.0) -> LowRank:
    """Return a random float32 matrix of *shape* and *rank*."""
    d, k = shape
    b, a = rng.normal(size=(d, rank)), rng.normal(size=(rank, k))
    return LowRank(b.astype(np.float32), a.astype(np.float32), scale)


def trained_from(rng: np.random.Generator, start: LowRank, step: float = 0.1) -> LowRank:
    """Return *start* after a random training: both factors moved by about *step*."""
    moved = low_rank(rng, start.shape, start.rank)
    b, a = start.b + np.float32(step) * moved.b, start.a + np.float32(step) * moved.a
    return LowRank(b, a, start.scale)


def random_update(
    rng: np.random.Generator, rank: int = 3, scale: float = 2.0, shapes: Mapping[str, tuple[int, int]] | None = None
) -> Update:
    """Return an update of random content over *shapes*, SHAPES unless said."""
    start = {name: low_rank(rng, shape, rank, scale) for name, shape in (shapes or SHAPES).items()}
    trained = {name: trained_from(rng, term) for name, term in start.items()}
    return Update(trained, start, examples=int(rng.integers(1, 100)), staleness=int(rng.integers(0, 4)))


def regauged(rng: np.random.Generator, term: LowRank) -> LowRank:
    """Return the same product through other factors: (B·M, M⁻¹·A) with a random, well-conditioned M, in float64."""
    rotation, _ = np.linalg.qr(rng.normal(size=(term.rank, term.rank)))
    mix = rotation * rng.uniform(0.5, 2.0, term.rank)
    return LowRank(term.b.astype(np.float64) @ mix, np.linalg.solve(mix, term.a.astype(np.float64)), term.scale)


def parsed_term(table: Mapping[str, Any]) -> LowRank:
    """Return the term that a vector's table states."""
    return LowRank(np.array(table["b"], float), np.array(table["a"], float), float(table.get("scale", 1)))


def parsed_update(table: Mapping[str, Any]) -> Update:
    """Return the update of one module "w" that a vector's table states."""
    start = {"w": parsed_term(table["start"])} if "start" in table else {}
    trained = {"w": parsed_term(table["trained"])}
    return Update(trained, start, table["examples"], staleness=table.get("staleness", 0))
