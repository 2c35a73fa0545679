"""Steps that keep some vectors and drop the others, by who is close to whom.

What is dropped is dropped for the steps behind it too: they see fewer vectors, and the same f, which errs on the side
of caution.  The papers count every vector they keep the same.  Here the weights that come in are kept in proportion
among the kept, so they mean the same in every chain; without other weights that is the papers' mean.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.distances import squared_distances
from potluck.aggregation.weights.preconditions import defended, described, inner_products, whole

MOST_SUBSETS: Final = 50_000
"""What mda looks through in about a second."""


def kept(ballot: Ballot, places: NDArray[np.intp]) -> Ballot:
    """Return the ballot with the vectors at *places* alone, in their old order and with the old total weight."""
    places = np.sort(places)
    weights = ballot.weights[places]
    return replace(ballot, mix=ballot.mix[places], weights=weights * (ballot.weights.sum() / weights.sum()))


def krum_scores(distances: Floats, neighbours: int) -> Floats:
    """Return for every vector the sum of the squared *distances* (m, m) to its nearest *neighbours*, itself aside.

    One at least, where there is another vector at all: f = 0 allows rounds of two.
    """
    count = min(max(1, neighbours), len(distances) - 1)
    scores: Floats = np.partition(distances, count, axis=1)[:, : count + 1].sum(axis=1)  # its own is the 0 among them
    return scores


def best(scores: Floats, count: int) -> NDArray[np.intp]:
    """Return the places of the *count* lowest scores; the first of equals, so that no order of arrival matters."""
    places: NDArray[np.intp] = np.argsort(scores, kind="stable")[:count]
    return places


@final
@dataclass(frozen=True, slots=True)
class Krum:
    """Keep the one vector with the smallest Σ‖vₐ − v_b‖² over its m − f − krum_margin nearest others.

    It gets the whole weight; the weights that came in decide nothing else.

    Source: Blanchard et al. 2017, §4, NeurIPS 30 (arXiv:1703.02757).

    Raises:
        BadUpdate: when cast, unless m ≥ 2f + 3.
    """

    reads_gram: ClassVar[bool] = True

    krum_margin: int = 1
    """1 counts m − f − 1 neighbours, as ByzFL and most libraries do; 2 one fewer, as the paper does."""

    def __post_init__(self) -> None:
        whole("krum_margin", self.krum_margin, least=1, most=2)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "krum", more=3)
        distances = squared_distances(inner_products(ballot, "krum"))
        scores = krum_scores(distances, len(distances) - ballot.facts.f - self.krum_margin)
        return kept(ballot, best(scores, 1))


@final
@dataclass(frozen=True, slots=True)
class MultiKrum:
    """Keep the vectors with the smallest Krum scores, m − f of them unless krum_keep says how many.

    Source: Blanchard et al. 2017, §4 (m-Krum), NeurIPS 30 (arXiv:1703.02757).

    Raises:
        BadUpdate: when cast, unless m ≥ 2f + 3 and krum_keep ≤ m − f.
    """

    reads_gram: ClassVar[bool] = True

    krum_margin: int = 1
    """See Krum."""
    krum_keep: int | None = None

    def __post_init__(self) -> None:
        whole("krum_margin", self.krum_margin, least=1, most=2)
        if self.krum_keep is not None:
            whole("krum_keep", self.krum_keep, least=1)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "multikrum", more=3)
        m, f = len(ballot.weights), ballot.facts.f
        keep = m - f if self.krum_keep is None else self.krum_keep
        if keep > m - f:
            raise BadUpdate(
                f"multikrum is to keep {keep} of {described(ballot)} of which {f} may be hostile",
                fix=f"set krum_keep to at most {m - f}, or leave it out",
            )
        distances = squared_distances(inner_products(ballot, "multikrum"))
        return kept(ballot, best(krum_scores(distances, m - f - self.krum_margin), keep))


@final
@dataclass(frozen=True, slots=True)
class BulyanSelection:
    """Keep θ = m − 2f vectors: the best by Krum, then the best of those left, and so on.

    The first stage of Bulyan.  Its second looks at coordinates and is the rule `bulyan`, which needs a public basis.
    Neighbours are counted among the vectors that are left, so the later choices have fewer, but always one.

    Source: El Mhamdi et al. 2018, §4, ICML (arXiv:1802.07927).

    Raises:
        BadUpdate: when cast, unless m ≥ 4f + 3.
    """

    reads_gram: ClassVar[bool] = True

    krum_margin: int = 1
    """See Krum."""

    def __post_init__(self) -> None:
        whole("krum_margin", self.krum_margin, least=1, most=2)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "bulyan_selection", per_hostile=4, more=3)
        distances, f = squared_distances(inner_products(ballot, "bulyan_selection")), ballot.facts.f
        left = np.arange(len(distances))
        while len(left) > 2 * f:
            scores = krum_scores(distances[np.ix_(left, left)], len(left) - f - self.krum_margin)
            left = np.delete(left, best(scores, 1))
        return kept(ballot, np.setdiff1d(np.arange(len(distances)), left))


@final
@dataclass(frozen=True, slots=True)
class MinimumDiameter:
    """Keep the m − f vectors of which the two farthest apart are the closest together; the first such subset.

    Source: Rousseeuw 1985; El Mhamdi et al. 2020 (MDA), PODC (arXiv:1905.03853).

    Raises:
        BadUpdate: when cast, unless m > 2f and there are at most 50 000 subsets to look through.
    """

    reads_gram: ClassVar[bool] = True

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "mda")
        m, f = len(ballot.weights), ballot.facts.f
        if math.comb(m, f) > MOST_SUBSETS:
            raise BadUpdate(
                f"mda would look through {math.comb(m, f)} subsets of {m - f} out of {m} vectors, and {MOST_SUBSETS} "
                "is its limit",
                fix="use 'multikrum', which has no such cost",
            )
        distances = squared_distances(inner_products(ballot, "mda"))
        subsets = (np.array(subset) for subset in itertools.combinations(range(m), m - f))
        return kept(ballot, min(subsets, key=lambda subset: float(distances[np.ix_(subset, subset)].max())))
