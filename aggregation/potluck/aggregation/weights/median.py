"""The geometric median of vectors of which only the inner products are known."""

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import ClassVar, Final, NamedTuple, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.distances import about, centre, distances_from, typical_norm
from potluck.aggregation.weights.preconditions import MOST_ROUNDS, defended, inner_products, positive, whole

SMOOTHING: Final = 1e-7
"""ν over the median norm: ten times what a distance from inner products is uncertain by."""
TOLERANCE: Final = 1e-8
"""Movement over the median norm at which the median stands still: the uncertainty itself."""
ITERATIONS: Final = 5_000
"""Ten are usual; it is slow where a heavy vector is the median, by little, and there it hardly matters."""
EXCESS: Final = 1e-2
"""By which share the sum of distances may be above the least one where the iteration is slow to stand still."""
LEVEL: Final = 1e-12
"""‖γ‖ of a place that is left alone: between two vectors every place is a median, and none of the two is preferred."""
RIDGE: Final = 1e-9
"""Added to the curvature, of itself: where all vectors lie on a line there is none along it."""


class Median(NamedTuple):
    """A geometric median z = Σ coefficients[a]·vₐ, and how sure it is."""

    coefficients: Floats
    """(m,), not negative, of sum 1."""
    moved: float
    """How far z would go, over the median norm, if the nearest vector did not hold it back; 0 if it is that vector."""
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

    *gram* is (m, m), *weights* (m,), not negative, of positive sum.  It ends when z would move by no more than
    *tolerance*, in units of the median norm; a median that is one of the vectors is met to about ν.  The sum of
    distances is convex with the gradient γ = Σ wₐ·(z − vₐ)/‖vₐ − z‖, and no two points are farther apart than their
    two mean distances together, so the excess is at most 2·‖γ‖.

    Beside a vector, which holds z back, the iteration creeps.  So before it ends, after 1, 2, 4, … steps, and for as
    long as it helps, it goes on from where Newton's step leads, or from the lowest place beside the nearest vector,
    if ‖γ‖ is half as large there.  A vector is the median where all others pull by no more than its weight (Kuhn 1973).
    """
    scale = typical_norm(gram)
    whole = spread = Spread(about(gram, centre(gram)), weights / weights.sum(), smoothing * scale)
    coefficients, done, moved, slope, leaps = spread.shares, 0, np.inf, np.inf, True
    while moved > tolerance and done < iterations:
        pull, slope, moved = spread.at(coefficients)
        if slope > LEVEL and (leaps or moved <= tolerance * scale or done & (done - 1) == 0):
            spread = whole.about_nearest(coefficients)
            there = spread.ahead(coefficients, pull)
            leaps = there[1] <= slope / 2
            pull, slope, moved = there if leaps else (pull, slope, moved)
        coefficients, moved, done = pull / pull.sum(), moved / scale, done + 1
    return Median(coefficients, moved, 2 * slope, done)


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """The sum of the distances of vectors to a point z = Σ coefficients[a]·vₐ, and how it falls."""

    gram: Floats
    """(m, m), about one of the vectors."""
    shares: Floats
    """(m,), not negative, of sum 1."""
    floor: float
    """ν, the least distance: below it the sum is a paraboloid."""

    def pull(self, coefficients: Floats) -> Floats:
        """Return pₐ = wₐ / max(ν, ‖vₐ − z‖): (m,) -> (m,)."""
        pull: Floats = self.shares / np.maximum(distances_from(self.gram, coefficients), self.floor)
        return pull

    def at(self, coefficients: Floats) -> tuple[Floats, float, float]:
        """Return the pull, ‖γ‖, and how far z would go by it if the nearest vector did not hold it back."""
        pull = self.pull(coefficients)
        slope = self.length(pull.sum() * coefficients - pull)
        return pull, slope, slope / float((pull.sum() - pull.max()) or pull.sum())

    def length(self, step: Floats) -> float:
        """Return ‖Σ step[a]·vₐ‖, for a *step* of sum 0."""
        return float(np.sqrt(max(0.0, float(step @ self.gram @ step))))

    def about_nearest(self, coefficients: Floats) -> "Spread":
        """Return the same about the vector nearest to z: the distance from it is then known to a share of itself."""
        return replace(self, gram=about(self.gram, int(np.argmin(distances_from(self.gram, coefficients)))))

    def ahead(self, coefficients: Floats, pull: Floats) -> tuple[Floats, float, float]:
        """Return what `at` does, of where Newton's step leads, or of the lowest place beside the nearest vector.

        A vector that is the median, within ν, is as low as can be.
        """
        beside, way = self.beside(int(np.argmin(distances_from(self.gram, coefficients))))
        if way <= self.floor:
            return self.pull(beside), 0.0, 0.0
        newton = coefficients + self.newton(coefficients, pull)
        return min(self.at(newton), self.at(beside), key=itemgetter(1))

    def beside(self, place: int) -> tuple[Floats, float]:
        """Return the lowest place on the steepest way down from one of the vectors (m,), and how far it is.

        The way is that of R = Σ pₐ·(vₐ − v) over all others, the distance (‖R‖ − w)/h with the weight w of the vector
        and its copies and the curvature h = Σ pₐ·sin²∠(vₐ − v, R): 0 where the vector is the median.
        """
        one: Floats = np.zeros_like(self.shares)
        one[place] = 1.0
        lengths = distances_from(self.gram, one)
        pull = np.where(lengths > self.floor, self.pull(one), 0.0)
        rest = pull - pull.sum() * one
        force = self.length(rest)
        excess = force - float(self.shares[pull == 0].sum())
        if excess <= 0:
            return one, 0.0
        along = (self.gram @ rest) / np.maximum(lengths, self.floor) / force
        way = excess / float(pull @ np.maximum(1 - along**2, RIDGE))
        return one + way / force * rest, way

    def newton(self, coefficients: Floats, pull: Floats) -> Floats:
        """Return the coefficients (m,), of sum 0, of Newton's step s = −H⁻¹γ.

        H = P − Σ pₐ·uₐuₐᵀ, where P is the sum of the pull p and uₐ = (z − vₐ)/‖vₐ − z‖; within ν of z a vector has no
        uₐ.  So s = Σ (√pₐ·yₐ·uₐ − pₐ·(z − vₐ))/P, and Woodbury's identity leaves an (m, m) system for y.
        """
        inner = self.gram @ coefficients
        away = self.gram - inner[:, None] - inner[None, :] + coefficients @ inner
        lengths = np.sqrt(np.maximum(np.diag(away), 0.0))
        roots = np.sqrt(pull) * (lengths > self.floor) / np.maximum(lengths, self.floor)
        total = float(pull.sum())
        system = total * (1 + RIDGE) * np.eye(len(pull)) - roots[:, None] * away * roots[None, :]
        parts = (roots * np.linalg.solve(system, -roots * (away @ pull)) - pull) / total
        step: Floats = parts.sum() * coefficients - parts
        return step


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
        whole("median_iterations", self.median_iterations, least=1, most=MOST_ROUNDS)

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
