"""The weights stage of a round: inner products, the steps on the ballot, screening."""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from potluck.aggregation.cohort import Census, Cohort
from potluck.aggregation.products import Mapped, Products, exact_products, sketched_products
from potluck.aggregation.rules.base import Trains
from potluck.aggregation.screening import Finding, Weighed, screen
from potluck.aggregation.updates import Update
from potluck.aggregation.weights.ballot import Ballot, Step
from potluck.aggregation.weights.registry import WEIGHTS


@final
@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """How the weights stage is to work."""

    steps: tuple[Step, ...]
    exact: bool
    screened: bool
    reference: Update | None
    mapped: Mapped
    trains: Trains = "both"
    """What the rule's clients train: a sketch looks closer at the side that is not public."""


class Weighing(NamedTuple):
    """What came of it, in the order of reading."""

    ballot: Ballot
    products: Products | None
    """None where nothing read them."""
    history: tuple[Weighed, ...]
    """What every update counted after each step."""
    findings: tuple[Finding, ...]


def weighed(cohort: Cohort, census: Census, wanted: Wanted) -> Weighing:
    """Return the ballot after all steps, and what screening found where there are inner products to screen by."""
    products = None
    if wanted.screened or wanted.reference is not None or any(step.reads_gram for step in wanted.steps):
        if wanted.exact:
            products = exact_products(cohort, census, wanted.mapped, wanted.reference)
        else:
            products = sketched_products(cohort, census, wanted.mapped, wanted.reference, trains=wanted.trains)
    ballot = first_ballot(census, products)
    history = []
    for step in wanted.steps:
        ballot = step.cast(ballot)
        history.append(Weighed(name_of(step), ballot.coefficients))
    findings = screen(census.facts, products.gram, error=products.error) if products else ()
    return Weighing(ballot, products, tuple(history), findings)


def first_ballot(census: Census, products: Products | None) -> Ballot:
    """Return the ballot before any step: every innovation for itself, at its share."""
    shares = census.raw / np.sum(census.raw)
    unity = np.eye(len(shares))
    if products is None:
        return Ballot(census.facts, unity, shares)
    return Ballot(census.facts, unity, shares, products.gram, products.reference)


def name_of(step: Step) -> str:
    """Return what a recipe calls *step*."""
    return next((name for name, kind in WEIGHTS.items() if kind is type(step)), type(step).__name__)
