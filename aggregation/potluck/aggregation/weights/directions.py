"""Steps that judge a vector by where it points."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final, final

import numpy as np

from potluck.aggregation.errors import BadSetting, BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.distances import about, centre, cosines, norms
from potluck.aggregation.weights.median import geometric_median
from potluck.aggregation.weights.preconditions import MOST_ROUNDS, defended, described, inner_products, positive, whole
from potluck.aggregation.weights.selection import best, kept

FOOLSGOLD_TOP: Final = 0.99
"""What foolsgold puts in the place of 1, whose logit is infinite."""


@final
@dataclass(frozen=True, slots=True)
class DivideAndConquer:
    """Drop the ⌈dnc_factor·f⌉ vectors that stick out most along the direction of the largest spread, dnc_rounds times.

    Along the top eigenvector u of the centred inner products, with eigenvalue λ, vector a scores λ·uₐ².  The paper
    looks at random coordinates, several times, and keeps what is always kept; here all coordinates are looked at at
    once, so there is nothing to repeat, and a further round looks for a further direction among those that are left.
    The weights that come in are kept in proportion, and do not enter the centre.

    Source: Shejwalkar and Houmansadr 2021, Algorithm 2 (DnC), NDSS.

    Raises:
        BadUpdate: when cast, unless m > 2f, and more than f are left.
    """

    reads_gram: ClassVar[bool] = True

    dnc_factor: float = 1.0
    dnc_rounds: int = 1

    def __post_init__(self) -> None:
        positive("dnc_factor", self.dnc_factor)
        whole("dnc_rounds", self.dnc_rounds, least=1, most=MOST_ROUNDS)

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "dnc")
        m, f = len(ballot.weights), ballot.facts.f
        drop = math.ceil(self.dnc_factor * f)
        if m - drop * self.dnc_rounds <= f:
            raise BadUpdate(
                f"dnc is to drop {drop * self.dnc_rounds} of {described(ballot)} and must leave more than {f}",
                fix="lower dnc_factor or dnc_rounds, or wait for more updates",
            )
        for _ in range(self.dnc_rounds if drop else 0):
            scores = outlying(inner_products(ballot, "dnc"))
            ballot = kept(ballot, best(scores, len(scores) - drop))
        return ballot


def outlying(gram: Floats) -> Floats:
    """Return λ·uₐ² of every vector, u the top eigenvector of the inner products about the mean: (m, m) -> (m,).

    Taken about a vector first, see `about`; then about the mean, which is part of the rule.
    """
    m = len(gram)
    centred = about(gram, centre(gram))
    centred = centred - centred.mean(axis=0) - centred.mean(axis=1)[:, None] + centred.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    scores: Floats = max(0.0, values[m - 1]) * vectors[:, m - 1] ** 2
    return scores


@final
@dataclass(frozen=True, slots=True)
class Cosine:
    """Drop the vectors whose cosine to the robust direction is below min_cosine.

    The direction is the geometric median of the vectors, each divided by its norm, so it withstands just under half,
    and being long helps nobody.  A zero vector has no direction: its cosine is 0.  The weights that come in count in
    the median and are kept in proportion.

    Source: ours, after Cao et al. 2021 (the sign of the cosine), with a robust direction in place of a trusted one.

    Raises:
        BadUpdate: when cast, unless m > 2f, and some vector is left.
    """

    reads_gram: ClassVar[bool] = True

    min_cosine: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.min_cosine < 1:
            raise BadSetting(f"min_cosine is {self.min_cosine!r}", fix="use a number from -1 to below 1, such as 0")

    def cast(self, ballot: Ballot) -> Ballot:
        ballot = defended(ballot, "cosine")
        towards = cosines_to_median(inner_products(ballot, "cosine"), ballot.weights)
        places = np.flatnonzero(towards >= self.min_cosine)
        if not len(places):
            raise BadUpdate(
                f"no cosine of {described(ballot)} to their median direction reaches {self.min_cosine}; the largest is "
                f"{towards.max():.3f}",
                fix="lower min_cosine, or wait for more updates",
            )
        return kept(ballot, places)


def cosines_to_median(gram: Floats, weights: Floats) -> Floats:
    """Return the cosine of every vector to the geometric median of the unit vectors: (m, m), (m,) -> (m,)."""
    units = cosines(gram)
    coefficients = geometric_median(units, weights).coefficients
    towards = units @ coefficients
    length = math.sqrt(max(0.0, float(coefficients @ units @ coefficients)))
    result: Floats = towards / length if length > 0 else np.zeros_like(towards)
    return result


@final
@dataclass(frozen=True, slots=True)
class TrustBootstrap:
    """Weigh by max(0, cosine) to an innovation g made from trusted data, and scale every vector to ‖g‖.

    c ∝ wₐ·TSₐ with TSₐ = max(0, ⟨g, vₐ⟩/(‖g‖·‖vₐ‖)), and vₐ becomes (‖g‖/‖vₐ‖)·vₐ.  It knows no f: one honest
    update is enough, because g decides.  The paper has no wₐ; it is uniform unless a weight came in.

    Source: Cao et al. 2021, Algorithm 2 (FLTrust), NDSS (arXiv:2012.13995).

    Raises:
        BadUpdate: when cast without a reference, with one of zero, or if no update points its way.
    """

    reads_gram: ClassVar[bool] = True

    def cast(self, ballot: Ballot) -> Ballot:
        if ballot.reference is None:
            raise BadUpdate(
                "fltrust has no trusted innovation to compare with",
                fix="give the coordinator trusted data to train one on, or use 'cosine'",
            )
        length = math.sqrt(max(0.0, float(ballot.reference[-1])))
        lengths = norms(inner_products(ballot, "fltrust"))
        pairs = length * lengths
        inner = ballot.mix @ ballot.reference[:-1]
        trust = np.maximum(np.divide(inner, pairs, out=np.zeros_like(pairs), where=pairs > 0), 0.0)
        weights = ballot.weights * trust
        if not weights.any():
            raise BadUpdate(
                f"none of {described(ballot)} points the way of the trusted innovation, whose norm is {length:.3g}",
                fix="check that the trusted data is like the clients'",
            )
        scale = np.divide(length, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        weights *= ballot.weights.sum() / weights.sum()
        return replace(ballot, mix=ballot.mix * scale[:, None], weights=weights)


@final
@dataclass(frozen=True, slots=True)
class FoolsGold:
    """Multiply weights by a factor in [0, 1] that is small for vectors that resemble another one.

    With sₐ the largest cosine of a to another vector (at least 0), pardoned cosines cos(a, b)·min(1, sₐ/s_b), and
    αₐ = 1 − their largest, divided by the largest α: the factor is ln(αₐ/(1 − αₐ)) + ½, cut to [0, 1].

    The paper sums each client's updates over all rounds; no history is kept here, so these are this round's cosines.
    It stops sybils that send the same, however many, and needs no f; it also drops honest clients that agree, so it
    is no rule for clients with like data.

    Source: Fung, Yoon and Beschastnikh 2020, Algorithm 1, RAID (arXiv:1808.04866).

    Raises:
        BadUpdate: when cast, if every update is a copy of another.
    """

    reads_gram: ClassVar[bool] = True

    def cast(self, ballot: Ballot) -> Ballot:
        weights = ballot.weights * originality(cosines(inner_products(ballot, "foolsgold")))
        if not weights.any():
            raise BadUpdate(
                f"every one of {described(ballot)} is a copy of another, or without weight",
                fix="use 'geomedian', which does not take agreement for an attack",
            )
        return ballot.weighted(weights * (ballot.weights.sum() / weights.sum()))


def originality(pairs: Floats) -> Floats:
    """Return FoolsGold's factor of every vector from the cosines of all *pairs*: (m, m) -> (m,), in [0, 1]."""
    others = pairs.copy()
    np.fill_diagonal(others, 0.0)
    most = others.max(axis=1)
    pardon = np.divide(most[:, None], most[None, :], out=np.ones_like(others), where=most[None, :] > most[:, None])
    alpha: Floats = np.clip(1 - np.max(others * pardon, axis=1), 0.0, 1.0)
    if not alpha.any():
        return alpha
    alpha = np.minimum(alpha / alpha.max(), FOOLSGOLD_TOP)
    odds = np.divide(alpha, 1 - alpha)
    factors: Floats = np.clip(np.log(odds, out=np.full_like(odds, -np.inf), where=odds > 0) + 1 / 2, 0.0, 1.0)
    return factors
