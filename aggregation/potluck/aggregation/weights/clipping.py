"""Steps that shorten vectors, which bounds what one client can do, and one that draws all towards their middle.

A norm here is that of the product, ‖Δ‖ over all modules: no change of factors moves it.  Scaling both factors, as is
done elsewhere, shortens the product by the square.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.distances import distances_from, norms
from potluck.aggregation.weights.preconditions import MOST_ROUNDS, defended, inner_products, positive, whole


def shortened(ballot: Ballot, lengths: Floats, bound: float) -> Ballot:
    """Return the ballot with every vector longer than *bound* scaled down to it; weights stay."""
    return replace(ballot, mix=ballot.mix * shrink(lengths, bound)[:, None])


def shrink(lengths: Floats, bound: float) -> Floats:
    """Return min(1, bound / length) for every length: (m,) -> (m,); 1 for a length of zero."""
    factors: Floats = np.divide(bound, lengths, out=np.ones_like(lengths), where=lengths > bound)
    return factors


@final
@dataclass(frozen=True, slots=True)
class NormBound:
    """Scale vectors down to a norm of max_norm, or to the median norm where none is given.

    The median is not moved beyond the others' norms by fewer than half; a fixed bound is not moved at all.  Where
    over half of the vectors are zero, so is their median, and all become zero.  Weights are kept.

    Source: Sun et al. 2019, §3.2 (norm thresholding), arXiv:1911.07963.

    Raises:
        BadUpdate: when cast, unless m > 2f.
    """

    reads_gram: ClassVar[bool] = True

    max_norm: float | None = None

    def __post_init__(self) -> None:
        if self.max_norm is not None:
            positive("max_norm", self.max_norm)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "norm_bound")
        lengths = norms(inner_products(ballot, "norm_bound"))
        return shortened(ballot, lengths, float(np.median(lengths)) if self.max_norm is None else self.max_norm)


@final
@dataclass(frozen=True, slots=True)
class AdaptiveClipping:
    """Scale the ⌊2(f/m)(m − f)⌋ longest vectors down to the norm of the next one.  Weights are kept.

    Counted in whole numbers: ByzFL counts in floating point, where 2.9999… is cut to 2.

    Source: Allouah et al. 2025 (ARC), Algorithm 2, ICLR (arXiv:2405.14432).

    Raises:
        BadUpdate: when cast, unless m > 2f.
    """

    reads_gram: ClassVar[bool] = True

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "arc")
        m, f = len(ballot.weights), ballot.facts.f
        lengths = norms(inner_products(ballot, "arc"))
        clipped = 2 * f * (m - f) // m
        return shortened(ballot, lengths, float(np.sort(lengths)[m - clipped - 1]))


@final
@dataclass(frozen=True, slots=True)
class CenteredClip:
    """Walk from zero to the middle of the vectors: v ← v + Σ wₐ·(vₐ − v)·min(1, τ/‖vₐ − v‖), clip_iterations times.

    Weights become the walk's coefficients, which sum to less than 1 if it ends short of the middle: every iteration
    moves by at most τ.  The paper starts from the last round's result; innovations are relative to the master, so zero
    stands for no change, and nobody hostile has a say in it.  One iteration from zero is `norm_bound` and the mean.

    Source: Karimireddy, He and Jaggi 2021, Algorithm 2, ICML (arXiv:2012.10333).

    Raises:
        BadUpdate: when cast, unless m > 2f.
    """

    reads_gram: ClassVar[bool] = True

    clip_iterations: int = 10
    clip_radius: float | None = None
    """τ, in units of the product norm; by default the median distance from where the walk begins."""
    clip_from_mean: bool = False
    """Begin at the weighted mean instead, which one hostile vector moves as far as it likes."""

    def __post_init__(self) -> None:
        whole("clip_iterations", self.clip_iterations, least=1, most=MOST_ROUNDS)
        if self.clip_radius is not None:
            positive("clip_radius", self.clip_radius)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "centered_clip")
        gram, total = inner_products(ballot, "centered_clip"), ballot.weights.sum()
        shares: Floats = ballot.weights / total
        walk = shares if self.clip_from_mean else np.zeros_like(shares)
        radius = self.clip_radius
        for _ in range(self.clip_iterations):
            lengths = distances_from(gram, walk)
            radius = float(np.median(lengths)) if radius is None else radius
            steps = shares * shrink(lengths, radius)
            walk = walk * (1 - steps.sum()) + steps
        return ballot.weighted(walk * total)
