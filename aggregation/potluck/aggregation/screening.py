"""What looks wrong about a round's updates, and who counted less for which reason.

Screening refuses nobody: a finding is a sentence with a number and the bound it crossed.  All of it comes from the
inner products of the innovations, exact or sketched, so no choice of factors hides anything.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias, final

import numpy as np

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Facts
from potluck.aggregation.weights.distances import cosines, norms
from potluck.aggregation.weights.median import geometric_median

Check: TypeAlias = Literal["zero", "norm", "duplicate", "cosine"]

ROUNDING: Final = 1e-10
"""What 1 − |cosine| of exact copies may come to."""
MAD_OF_A_GAUSSIAN: Final = 0.6745
"""Median distance from the median over the standard deviation."""


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """Where screening draws the line.  Honest clients differ in what they have and in how long they train."""

    least_share: float = 1e-3
    """A norm below this share of the median norm is that of an update that says nothing."""
    norm_deviations: float = 6.0
    """Robust standard deviations of the log norms above the median at which a norm is too long."""
    norm_spread: float = 0.25
    """The least standard deviation of log norms that is believed: few clients can be alike by chance."""
    copy_distance: float = 1e-4
    """1 − |cosine| of two updates that nobody trained apart from each other."""
    copy_share: float = 0.1
    """The same over the median of all pairs: where all are nearly parallel, two that are are no copies."""
    against: float = -0.25
    """Cosine to the others' direction below which an update works against them."""
    against_deviations: float = 4.0
    """Robust standard deviations below the median cosine that it must be as well."""
    against_spread: float = 0.05
    """The least standard deviation of cosines that is believed."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about one update that is not as it should be."""

    place: int
    """Where the update stands in the round's order."""
    check: Check
    measured: float
    bound: float
    """What *measured* crossed."""
    sentence: str
    others: tuple[int, ...] = ()
    """The places of other updates that it is about."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the checks look at."""

    facts: Facts
    norms: Floats
    """(n,)."""
    cosines: Floats
    """(n, n)."""
    typical: float
    """The median of the norms that are not zero; 0 where all are."""
    error: float
    """Of the inner products: 0 if they are exact, else the relative error of a norm from the sketch."""
    bounds: Bounds


def screen(facts: Facts, products: Floats, *, error: float = 0.0, bounds: Bounds | None = None) -> tuple[Finding, ...]:
    """Return what all checks find, in the order of the updates; *products* are their inner products, (n, n).

    *error* is the relative error of a norm where the products come from a sketch.

    Raises:
        BadUpdate: the products are not finite, or not those of as many updates as the facts.
    """
    if products.shape != (len(facts.examples),) * 2 or not np.isfinite(products).all():
        raise BadUpdate(
            f"{len(facts.examples)} updates cannot be screened by inner products of shape {products.shape} of which "
            f"{np.count_nonzero(~np.isfinite(products))} are not finite",
            fix="leave out updates that hold NaN or infinity first",
        )
    lengths = norms(products)
    typical = float(np.median(lengths[lengths > 0])) if lengths.any() else 0.0
    evidence = Evidence(facts, lengths, cosines(products), typical, error, bounds or Bounds())
    findings = [finding for check in CHECKS.values() for finding in check(evidence)]
    return tuple(sorted(findings, key=lambda finding: finding.place))


def zero(evidence: Evidence) -> Iterator[Finding]:
    """Find free-riders: updates that claim examples and send nothing, or next to nothing."""
    bound = evidence.bounds.least_share * evidence.typical
    for place, norm in enumerate(evidence.norms.tolist()):
        if norm <= bound:
            said = f"states {evidence.facts.examples[place]} examples and {evidence.facts.steps[place]} steps"
            yield Finding(place, "zero", norm, bound, f"{said} and moved the adapter by {norm:.3g}")


def norm(evidence: Evidence) -> Iterator[Finding]:
    """Find updates far longer than the others, by the median of log ‖Δ‖ and the median distance from it.

    A mean and a standard deviation cannot do this: among n no value is more than (n − 1)/√n deviations from the mean,
    2.85 for ten, so a bound of 3 never speaks (Shiffler 1988).
    """
    bounds, long = evidence.bounds, evidence.norms > evidence.bounds.least_share * evidence.typical
    if not long.any():
        return
    logs = np.log(evidence.norms[long])
    middle = float(np.median(logs))
    spread = max(robust_spread(logs), bounds.norm_spread) + evidence.error
    for place, log in zip(np.flatnonzero(long).tolist(), logs.tolist(), strict=True):
        deviations = (log - middle) / spread
        if deviations > bounds.norm_deviations:
            sentence = f"is {math.exp(min(log - middle, 700)):.3g} times as long as the median update"
            yield Finding(place, "norm", deviations, bounds.norm_deviations, sentence)


def duplicate(evidence: Evidence) -> Iterator[Finding]:
    """Find copies: two updates that are multiples of each other, whatever the factor and its sign.

    A sketch is linear, so copies' sketches are copies too, and 1 − |cosine| of those that nearly are is off by a
    share of itself: a sketch needs a bound that is a little wider, not one as wide as its error.  Which of two is the
    copy cannot be seen.
    """
    moved = np.flatnonzero(evidence.norms > 0)
    if len(moved) < 2:  # noqa: PLR2004 - a pair
        return
    apart = 1 - np.abs(evidence.cosines[np.ix_(moved, moved)])
    usual = float(np.median(apart[np.triu_indices(len(moved), 1)]))
    bounds = evidence.bounds
    bound = max(ROUNDING, min(bounds.copy_distance, bounds.copy_share * usual) * (1 + 2 * evidence.error))
    np.fill_diagonal(apart, np.inf)
    for row, place in enumerate(moved.tolist()):
        others = moved[apart[row] <= bound]
        if len(others):
            nearest = int(moved[np.argmin(apart[row])])
            cosine = float(evidence.cosines[place, nearest])
            factor = math.copysign(evidence.norms[place] / evidence.norms[nearest], cosine)
            sentence = f"is {factor:.3g} times another update: one of them is a copy"  # which: see others
            yield Finding(place, "duplicate", abs(cosine), 1 - bound, sentence, tuple(others.tolist()))


def against(evidence: Evidence) -> Iterator[Finding]:
    """Find updates that point away from where the others go.

    Their direction is the geometric median of the unit vectors, without the share that the update itself has in it.
    An update is named if its cosine is negative and far below the others' cosines: clients with nothing in
    common have cosines about 0, and none of them is against the others.
    """
    bounds, moved = evidence.bounds, np.flatnonzero(evidence.norms > 0)
    if not len(moved):
        return
    towards = others_cosines(evidence.cosines[np.ix_(moved, moved)])
    spread = max(robust_spread(towards), bounds.against_spread) + evidence.error
    bound = min(bounds.against - evidence.error, float(np.median(towards)) - bounds.against_deviations * spread)
    for place, cosine in zip(moved.tolist(), towards.tolist(), strict=True):
        if cosine < bound:
            yield Finding(place, "cosine", cosine, bound, f"points against the others, at a cosine of {cosine:.3f}")


def others_cosines(units: Floats) -> Floats:
    """Return the cosine of every unit vector to the robust direction of the others: (m, m) -> (m,)."""
    coefficients = geometric_median(units, np.ones(len(units))).coefficients
    inner = units @ coefficients
    squares = coefficients @ inner - 2 * coefficients * inner + coefficients**2
    lengths = np.sqrt(np.maximum(squares, 0.0))
    result: Floats = np.divide(inner - coefficients, lengths, out=np.zeros_like(inner), where=lengths > ROUNDING)
    return np.clip(result, -1.0, 1.0)


def robust_spread(values: Floats) -> float:
    """Return the standard deviation that a Gaussian of the same median distance from its median would have."""
    return float(np.median(np.abs(values - np.median(values)))) / MAD_OF_A_GAUSSIAN


CHECKS: Final[Mapping[Check, Callable[[Evidence], Iterator[Finding]]]] = MappingProxyType(
    {"zero": zero, "norm": norm, "duplicate": duplicate, "cosine": against}
)


class Weighed(NamedTuple):
    """What every update was multiplied by after one step of the weights stage."""

    step: str
    """As the recipe names it."""
    coefficients: Floats
    """(n,)."""


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """How far one update was trusted, and why."""

    place: int
    share: float
    """Of the round, as the weights that clients state would have it."""
    coefficient: float
    """What its innovation was multiplied by in the end."""
    weighted_down: bool
    """Whether it counts less than half as much, beside the others, as its share says."""
    reasons: tuple[str, ...] = field(default=())
    """The steps that took weight from it, and what screening found; there may be findings without a step."""


LESS: Final = 0.5
"""A coefficient below this part of the share is called weighted down."""
TAKEN: Final = 0.8
"""A step that leaves less than this part of an update's weight beside the others' is named."""


def trust(
    findings: Sequence[Finding], coefficients: Floats, shares: Floats, history: Sequence[Weighed] = ()
) -> tuple[Verdict, ...]:
    """Return one verdict per update, in their order.

    *shares* (n,) are the weights before any step, *coefficients* (n,) what the round used, *history* what stood in
    between, in order.  Both are compared as parts of their sums, since a round as a whole may take a shorter step.
    Where an update lost weight in small parts, the step that took most is named.

    Raises:
        BadUpdate: not one coefficient and one share per update, or shares that sum to zero.
    """
    if coefficients.shape != shares.shape or not shares.sum() > 0:
        raise BadUpdate(f"{shares.shape} shares of sum {shares.sum()} and {coefficients.shape} coefficients")
    found: dict[int, list[str]] = {}
    for finding in findings:
        found.setdefault(finding.place, []).append(finding.sentence)
    stages = [("", parts(shares)), *((name, parts(after)) for name, after in history)]
    before, now = stages[0][1], parts(coefficients)
    verdicts = []
    for place in range(len(shares)):
        down = bool(now[place] < LESS * before[place])
        reasons = (*(takers(stages, place) if down else ()), *found.get(place, ()))
        verdicts.append(Verdict(place, float(shares[place]), float(coefficients[place]), down, reasons))
    return tuple(verdicts)


def takers(stages: Sequence[tuple[str, Floats]], place: int) -> list[str]:
    """Return what to say of the steps that took weight from the update at *place*."""
    left = [
        (name, float(after[place] / before[place]))
        for (_, before), (name, after) in itertools.pairwise(stages)
        if before[place] > 0
    ]
    most = min((part for _, part in left), default=1.0)
    return [f"{name} left {part:.0%} of its weight" for name, part in left if part < TAKEN or part == most < 1]


def parts(values: Floats) -> Floats:
    """Return *values* over their sum; zeros where that is zero."""
    total = float(values.sum())
    result: Floats = values / total if total > 0 else np.zeros_like(values)
    return result
