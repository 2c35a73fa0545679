"""Steps that put means in the place of vectors, so that honest ones come closer together before a rule looks."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.distances import squared_distances
from potluck.aggregation.weights.preconditions import defended, described, inner_products, whole


@final
@dataclass(frozen=True, slots=True)
class NearestNeighbourMixing:
    """Replace every vector by the mean of the m − f nearest to it, itself included.

    Clients with different data are far apart for honest reasons, and that is where a rule lets the hostile hide; after
    this the spread of the honest is as small as their number allows, and (f, κ)-robust rules reach the optimal order.
    Every vector keeps its own weight; inside the means all count the same, as in the paper.

    Source: Allouah et al. 2023, Algorithm 2, AISTATS (arXiv:2302.01772).

    Raises:
        BadUpdate: when cast, unless m > 2f.
    """

    reads_gram: ClassVar[bool] = True

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "nnm")
        distances = squared_distances(inner_products(ballot, "nnm"))
        return ballot.mixed(nearest_means(distances, len(distances) - ballot.facts.f))


def nearest_means(distances: Floats, count: int) -> Floats:
    """Return the matrix that takes vectors to the means of their *count* nearest, themselves included: (m, m)."""
    np.fill_diagonal(distances, -1.0)  # itself first, even among copies
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    matrix = np.zeros_like(distances)
    np.put_along_axis(matrix, nearest, 1 / count, axis=1)
    return matrix


@final
@dataclass(frozen=True, slots=True)
class Bucketing:
    """Shuffle the vectors and put the weighted mean of every bucket_size of them in their place, with all their weight.

    The last bucket may be smaller.  A mean of all behind it is the mean without it.  Each hostile vector spoils one
    bucket, so f of the ⌈m/bucket_size⌉ may be hostile: the steps behind see as many vectors and the same f.  The order
    comes from the round's seed, by PCG64, whose stream is the same on every machine.

    Source: Karimireddy, He and Jaggi 2022, Algorithm 1, ICLR (arXiv:2006.09365).

    Raises:
        BadUpdate: when cast, unless there are more than 2f buckets.
    """

    reads_gram: ClassVar[bool] = False

    bucket_size: int = 2

    def __post_init__(self) -> None:
        whole("bucket_size", self.bucket_size, least=1)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "bucketing")
        m, f = len(ballot.weights), ballot.facts.f
        buckets = -(-m // self.bucket_size)
        if f and buckets <= 2 * f:
            raise BadUpdate(
                f"{described(ballot)} in buckets of {self.bucket_size} are {buckets} buckets, of which {f} may be "
                f"hostile, and more than {2 * f} are needed",
                fix=f"set bucket_size to at most {(m - 1) // (2 * f)}",
            )
        order = np.argsort(np.random.PCG64(ballot.facts.seed).random_raw(m), kind="stable")
        member = np.zeros((buckets, m))
        member[np.arange(m) // self.bucket_size, order] = ballot.weights[order]
        weights = member.sum(axis=1)
        return replace(ballot, mix=(member / weights[:, None]) @ ballot.mix, weights=weights)
