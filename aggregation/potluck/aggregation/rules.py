"""Aggregation rules: from a cohort to one combined innovation per module.

A rule is frozen settings and a call that takes a Cohort and yields Combined, one per module.  To add one: a class, a
line in AGGREGATORS, a case in tests/vectors.  A rule that needs every pair (Krum, a geometric median) takes one round
of passes for the Gram matrix and a second for the weighted sum.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, final

from potluck.aggregation.cohort import Cohort
from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats, LowRank, LowRankSum, zero
from potluck.aggregation.updates import difference


class Combined(NamedTuple):
    """The combined innovation of one module, and the weights that made it."""

    name: str
    terms: Sequence[LowRank]
    """The innovation, as the low-rank terms whose sum it is."""
    weights: Floats
    """cᵢ, (n,) in the cohort's order of reading."""


class Rule(Protocol):
    """An aggregation rule."""

    def __call__(self, cohort: Cohort) -> Iterator[Combined]:
        """Yield the combined innovation of every module of *cohort*, each once."""


@final
@dataclass(frozen=True, slots=True)
class Mean:
    """Σ cᵢ·Δᵢ, the weighted mean of the innovations as products: exact for any mix of ranks and scales.

    A client that changed nothing contributes zero whatever its rank, so directions that small clients cannot see do
    not decay.

    Source: the weighted mean of McMahan et al. 2017, Algorithm 1, arXiv:1602.05629, on products; in one round from a
    common start it is the effective weight of FedEx-LoRA, Singhal et al. 2024, arXiv:2410.09432.
    """

    def __call__(self, cohort: Cohort) -> Iterator[Combined]:
        for members in cohort.passes():
            sums: dict[str, LowRankSum] = {}
            for member in members:
                for name, delta in member.innovation.items():
                    sums.setdefault(name, LowRankSum(delta.shape)).add(delta, member.weight)
            shares, total = cohort.shares(), cohort.total()
            for name, weighted in sums.items():
                yield Combined(name, weighted.scaled(1 / total), shares)


@final
@dataclass(frozen=True, slots=True)
class FedIT:
    """B̄ = Σ cᵢ·Bᵢ, Ā = Σ cᵢ·Aᵢ: the mean of the factors, for comparison only.

    Its product s·B̄·Ā is not the mean of the products, and depends on the gauge: (B, A) and (−B, −A) are the same
    matrix and average to zero.  The error is Σ cᵢ·(Bᵢ − B̄)(Aᵢ − Ā).  All clients need one rank and one scale.

    Source: Zhang et al. 2023, arXiv:2305.05644.

    Raises:
        BadUpdate: two updates differ in rank or scale.
    """

    def __call__(self, cohort: Cohort) -> Iterator[Combined]:
        for members in cohort.passes():
            trained: dict[str, LowRank] = {}
            start: dict[str, LowRank] = {}
            for member in members:
                for name in member.innovation:
                    term = member.update.trained[name]
                    begun = member.update.start.get(name, zero(term.shape))
                    trained[name] = factors_added(name, trained.get(name), term, member.weight)
                    start[name] = factors_added(name, start.get(name), begun, member.weight)
            shares, total = cohort.shares(), cohort.total()
            for name, summed in trained.items():
                mean = difference(factors_over(summed, total), factors_over(start[name], total))
                yield Combined(name, [mean], shares)


AGGREGATORS: Final[Mapping[str, Callable[..., Rule]]] = MappingProxyType({"mean": Mean, "fedit": FedIT})


def factors_added(name: str, total: LowRank | None, term: LowRank, weight: float) -> LowRank:
    """Return *total* with weight·B added to its b and weight·A to its a, in float64."""
    b, a = term.b.astype("f8") * weight, term.a.astype("f8") * weight
    if total is None:
        return LowRank(b, a, term.scale)
    if (total.rank, total.scale) != (term.rank, term.scale):
        raise BadUpdate(
            f"fedit: {name} has rank {term.rank} and scale {term.scale} in one update, "
            f"{total.rank} and {total.scale} in another",
            fix="use the rule 'mean', which takes any mix",
        )
    return LowRank(total.b + b, total.a + a, term.scale)


def factors_over(total: LowRank, weight: float) -> LowRank:
    """Return *total* with both factors divided by *weight*."""
    return LowRank(total.b / weight, total.a / weight, total.scale)
