"""What one lease may spend of the owner's privacy: looked at before training, paid before the update exists."""

import math
from dataclasses import dataclass, replace
from typing import Final, final

from potluck.aggregation.errors import BadSetting
from potluck.client.accounting import Spending, epsilon, in_words, noise_for
from potluck.client.clock import Clock
from potluck.client.errors import OverBudget
from potluck.client.ledger import Ledger
from potluck.wire.recipe import Recipe
from potluck.wire.v1.work_pb2 import Spent

CERTAIN: Final = 0.1
"""Largest chance, over all records together, that the guarantee fails: δ·N."""
OVER: Final = "this run is over for this text: potluck finish"
MORE: Final = "end here with `potluck finish`, or allow more: potluck limits max_epsilon=NUMBER"


@final
@dataclass(frozen=True, slots=True)
class Account:
    """The owner's ledger, and the lease that is to be paid from it."""

    ledger: Ledger
    run_id: str
    lease_id: bytes
    max_epsilon: float
    """What the owner allows over all runs."""
    clock: Clock

    def check(self, recipe: Recipe, records: int, seed_digest: str) -> Spending:
        """Return what a round on so many *records* is to be trained with, if it may be.

        *seed_digest* names the seed of its noise: a round that was paid costs nothing more only with the same noise.

        Raises:
            OverBudget: it would pass what the recipe or the owner allows, or the run's participations are used up.
            BadSetting: the recipe's delta is too large for so many records, or no noise is enough.
        """
        spending = spending_of(recipe, records)
        if self.ledger.holds(self.run_id, self.lease_id, spending, seed_digest):  # the program was killed before
            return spending
        terms = recipe.privacy.differential
        others = len(self.ledger.rounds(self.run_id) - {(self.lease_id, seed_digest)})
        if others >= terms.participations:
            raise OverBudget(
                f"this text took part in {others} rounds of this run, and its recipe allows {terms.participations}",
                fix=OVER,
            )
        _within(
            [*self.ledger.spendings(self.run_id), spending], terms.delta, Bound(terms.epsilon, "the run's recipe", OVER)
        )
        _within([*self.ledger.spendings(), spending], terms.delta, Bound(self.max_epsilon, "your limit", MORE))
        return spending

    def charge(self, spending: Spending, seed_digest: str) -> None:
        """Write the round down; call it before anybody could see what came of it.

        Raises:
            DiskFull: there is no room for a line.
        """
        self.ledger.charge(self.run_id, self.lease_id, spending, seed_digest, self.clock.wall_s())


@final
@dataclass(frozen=True, slots=True)
class Bound:
    """What may not be passed, whose word that is, and what to do then."""

    epsilon: float
    whose: str
    fix: str


def _within(spendings: list[Spending], delta: float, bound: Bound) -> None:
    """Raise where the last of *spendings* would pass *bound*."""
    after = epsilon(spendings, delta)
    if after > bound.epsilon:
        raise OverBudget(
            f"one more round would bring epsilon from {in_words(epsilon(spendings[:-1], delta), 3)} to "
            f"{in_words(after, 3)} at delta {delta:g}, and {bound.whose} allows {bound.epsilon:g}; nothing was trained",
            fix=bound.fix,
        )


def spending_of(recipe: Recipe, records: int) -> Spending:
    """Return how a round of *recipe* draws from *records*, with the recipe's noise or as much as its epsilon takes.

    Raises:
        BadSetting: the recipe's delta is too large for so many records, or no noise is enough.
        NoAccountant: dp-accounting is not installed.
    """
    terms, training = recipe.privacy.differential, recipe.training
    if records * terms.delta > CERTAIN:
        raise BadSetting(
            f"privacy.differential.delta is {terms.delta:g}: with {records} records it would have to be at most "
            f"{CERTAIN / records:.1e}",
            fix="take part with less text, or ask the operator for a smaller delta",
        )
    spending = Spending(records, training.batch, terms.noise or 1.0, training.steps, terms.cap)
    if terms.noise:
        return spending
    return replace(spending, noise=noise_for(terms.epsilon, terms.delta, spending, terms.participations))


def told_of(ledger: Ledger, recipe: Recipe, run_id: str) -> Spent:
    """Return what that run's private rounds cost, as it may leave: epsilon rounded up to a tenth, or infinite.

    Raises:
        NoAccountant: dp-accounting is not installed.
    """
    terms = recipe.privacy.differential
    spent = ledger.spent(terms.delta, run_id)
    told = math.ceil(10 * spent) / 10 if math.isfinite(spent) else spent  # the coordinator takes that for no number
    return Spent(unit=terms.unit, epsilon=told, delta=terms.delta, lines=ledger.length)
