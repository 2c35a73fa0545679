"""The geometric median of vectors of which only the inner products are known."""

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.distances import about, centre, distances_from, typical_norm
from potluck.aggregation.weights.preconditions import defended, inner_products, positive, whole

SMOOTHING: Final = 1e-7
"""ν over the median norm: ten times what a distance from inner products is uncertain by."""
TOLERANCE: Final = 1e-8
"""Movement over the median norm at which the median stands still: the uncertainty itself."""
ITERATIONS: Final = 5_000
"""Ten to a hundred are usual; the iteration is slow where the sum of distances is flat, and there it hardly matters."""
EXCESS: Final = 1e-2
"""By which share the sum of distances may be above the least one where the iteration is slow to stand still."""


class Median(NamedTuple):
    """A geometric median z = Σ coefficients[a]·vₐ, and how sure it is."""

    coefficients: Floats
    """(m,), not negative, of sum 1."""
    moved: float
    """How far z went in the last iteration, over the median norm."""
    excess: float
    """Σ wₐ·‖vₐ − z‖ is above the least possible by at most this share of itself."""
    iterations: int


def geometric_median(
    gram: Floats,
    weights: Floats,
    *,
    smoothing: float = SMOOTHING,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> Median:
    """Return argmin_z Σ wₐ·‖vₐ − z‖, by the smoothed Weiszfeld iteration cₐ ∝ wₐ / max(ν, ‖vₐ − z‖) from the mean.

    *gram* is (m, m), *weights* (m,), not negative, of positive sum.  It ends when z moves by no more than *tolerance*,
    in units of the median norm; a median that is one of the vectors is met to about ν.  The sum of distances is
    convex with the gradient γ = Σ wₐ·(z − vₐ)/‖vₐ − z‖, and no two points are farther apart than their two mean
    distances together, so the excess is at most 2·‖γ‖.
    """
    scale = typical_norm(gram)
    centred = about(gram, centre(gram))
    shares: Floats = weights / weights.sum()
    coefficients, moved, excess, done = shares, np.inf, np.inf, 0
    while moved > tolerance and done < iterations:
        pull = shares / np.maximum(distances_from(centred, coefficients), smoothing * scale)
        step = pull / pull.sum() - coefficients
        coefficients = coefficients + step
        moved = float(np.sqrt(max(0.0, step @ centred @ step))) / scale
        excess = 2 * moved * scale * float(pull.sum())
        done += 1
    return Median(coefficients, moved, excess, done)


@final
@dataclass(frozen=True, slots=True)
class GeometricMedian:
    """Weigh vectors so that their sum is the weighted geometric median: the point of least Σ wₐ·‖vₐ − z‖.

    It withstands everything that holds less than half of the weight, wherever it lies, and knows no f.  Incoming
    weights are the wₐ, as in RFA.

    Source: Pillutla, Kakade and Harchaoui 2022 (RFA), Algorithm 2, IEEE TSP (arXiv:1912.13445); Weiszfeld 1937.

    Raises:
        BadUpdate: when cast, unless m > 2f, and after median_iterations the median stands still, or its sum of
            distances is within 1 % of the least.
    """

    reads_gram: ClassVar[bool] = True

    median_smoothing: float = SMOOTHING
    """ν over the median norm."""
    median_tolerance: float = TOLERANCE
    """Movement over the median norm at which to stop."""
    median_iterations: int = ITERATIONS

    def __post_init__(self) -> None:
        positive("median_smoothing", self.median_smoothing)
        positive("median_tolerance", self.median_tolerance)
        whole("median_iterations", self.median_iterations, least=1)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "geomedian")
        found = geometric_median(
            inner_products(ballot, "geomedian"),
            ballot.weights,
            smoothing=self.median_smoothing,
            tolerance=self.median_tolerance,
            iterations=self.median_iterations,
        )
        if found.moved > self.median_tolerance and found.excess > EXCESS:
            raise BadUpdate(
                f"after {found.iterations} iterations the geometric median still moves by {found.moved:.1e} of the "
                f"median norm, and its sum of distances may be {found.excess:.1e} above the least",
                fix="raise median_iterations",
            )
        return ballot.weighted(found.coefficients * ballot.weights.sum())
