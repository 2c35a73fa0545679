"""Rounds that suit a rule: with as much freedom of versions, ranks and scales as it allows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adapters import low_rank, regauged, trained_from
from potluck.aggregation import AGGREGATORS, LowRank, Update, compress
from potluck.aggregation.rules.base import Coordinatewise

FLOATS: TypeAlias = NDArray[np.float64]
SHAPE = (13, 10)
COLUMNS = frozenset({"hetlora", "raflora"})
"""Rules that take several ranks, as long as all starts are the leading columns of one."""
ONE_START = frozenset({"fedit", "fedrot"})
ONE_SCALE = frozenset({"fedex"})


@dataclass(frozen=True)
class Round:
    """The updates of one module "w", the master they began from, and how many of them may be hostile."""

    updates: Sequence[Update]
    before: LowRank
    rounds: int = 0
    f: int = 0

    @property
    def shares(self) -> FLOATS:
        """Return the weights, by examples."""
        examples = np.array([update.examples for update in self.updates], float)
        return examples / examples.sum()


def random_master(rng: np.random.Generator, rank: int) -> LowRank:
    """Return a random master: balanced factors in the order of descending σ."""
    return compress([low_rank(rng, SHAPE, rank)]).low_rank


def leading(master: LowRank, rank: int) -> LowRank:
    """Return the first columns of *master*, as a client of *rank* is sent them."""
    return LowRank(master.b[:, :rank], master.a[:rank], master.scale)


def round_for(name: str, rng: np.random.Generator, count: int = 7) -> Round:
    """Return a random round that the rule called *name* takes; the largest client has all columns of the master."""
    rule: Any = AGGREGATORS[name]()
    before, rounds = random_master(rng, 4), int(rng.integers(0, 4))
    f = 1 if isinstance(rule, Coordinatewise) else 0
    examples = [int(number) for number in rng.integers(20, 50, count)]
    if rule.trains in ("a", "b", "alternately"):
        factor = ("b", "a")[rounds % 2] if rule.trains == "alternately" else rule.trains
        pairs = [one_factor(rng, before, factor) for _ in examples]
    elif rule.trains == "core":
        starts = [leading(before, rank) for rank in rng.integers(1, 5, count)]
        pairs = [(start, within(rng, before, start)) for start in starts]
    else:
        starts = starts_for(name, rng, before, count)
        pairs = [(start, trained_from(rng, start)) for start in starts]
    updates = [Update({"w": t}, {"w": s}, n) for (s, t), n in zip(pairs, examples, strict=True)]
    return Round(updates, before, rounds, f)


def starts_for(name: str, rng: np.random.Generator, before: LowRank, count: int) -> list[LowRank]:
    """Return the starts of clients that train both factors."""
    if name in COLUMNS:
        return [leading(before, rank) for rank in (4, *rng.integers(1, 5, count - 1))]
    if name in ONE_START:
        return [replace(leading(before, 3), scale=2.0)] * count
    ranks = [3] * count if name in ONE_SCALE else [int(rank) for rank in rng.integers(1, 5, count)]
    scales = [2.0] * count if name in ONE_SCALE else [float(scale) for scale in rng.uniform(0.5, 4, count)]
    return [low_rank(rng, SHAPE, rank, scale) for rank, scale in zip(ranks, scales, strict=True)]


def one_factor(rng: np.random.Generator, before: LowRank, factor: str) -> tuple[LowRank, LowRank]:
    """Return a start of a version of its own, which differs in *factor* alone, and what was trained of that factor."""
    versions = []
    here = before
    for _ in range(2):
        move = low_rank(rng, SHAPE, before.rank)
        here = replace(here, b=here.b + move.b) if factor == "b" else replace(here, a=here.a + move.a)
        versions.append(here)
    return versions[0], versions[1]


def within(rng: np.random.Generator, before: LowRank, start: LowRank) -> LowRank:
    """Return *start* after a training of the core between the factors of *before*, in factors of its own."""
    core = 0.1 * rng.normal(size=(before.rank, before.rank))
    core[: start.rank, : start.rank] += np.eye(start.rank)
    return regauged(rng, LowRank(before.b @ core, before.a))


def turned(rng: np.random.Generator, update: Update, *, start: bool) -> Update:
    """Return the same update in another gauge of what was trained; and of the *start*, in one of its own, if asked."""
    trained = {name: regauged(rng, term) for name, term in update.trained.items()}
    begun = {name: regauged(rng, term) for name, term in update.start.items()} if start else update.start
    return replace(update, trained=trained, start=begun)


def relative(actual: FLOATS, wanted: FLOATS) -> float:
    """Return ‖actual − wanted‖ / ‖wanted‖."""
    return float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))
