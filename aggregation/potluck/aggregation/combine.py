"""A round's updates and the master, to the next master."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple, final

import numpy as np

from potluck.aggregation.cohort import Cohort
from potluck.aggregation.coordinates import Choice, coordinates
from potluck.aggregation.errors import BadSetting, BadUpdate
from potluck.aggregation.folding import RANK_FACTOR, Folded, Plan, folded, folded_once
from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.moving import After, Before, moved, moved_in_basis
from potluck.aggregation.outer.base import Moments
from potluck.aggregation.pipeline import Pipeline, Stages
from potluck.aggregation.products import Mapped, norms_of
from potluck.aggregation.report import Report, Truncation
from potluck.aggregation.rules.base import Coordinatewise, Rule
from potluck.aggregation.screening import Finding, Verdict, trust
from potluck.aggregation.updates import Update
from potluck.aggregation.weighing import Wanted, Weighing, weighed

DEFAULT: Final = Pipeline()


@final
@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What is remembered from round to round."""

    momentum: Mapping[str, LowRank] = field(default_factory=dict)
    """Of linear outer steps.  Factors have scale 1, so to_tensors stores it whole."""
    moments: Mapping[str, Moments] = field(default_factory=dict)
    """Of element-wise outer steps."""
    rounds: int = 0
    """Rounds that the master has behind it."""


class Aggregated(NamedTuple):
    """The next master, the state to hand to the next round, the report.

    The master has balanced factors of scale 1 in the order of descending σ.  Rules that train one factor against a
    public one leave it in the public one's basis instead.
    """

    master: dict[str, LowRank]
    state: State
    report: Report


def aggregate(
    updates: Iterable[Update],
    master: Mapping[str, LowRank],
    pipeline: Pipeline = DEFAULT,
    state: State | None = None,
    *,
    reference: Update | None = None,
    mapped: Mapped = map,
) -> Aggregated:
    """Combine *updates* into *master*: G ← cut(G + Outer(Σ cᵢ·Δᵢ)), per module, in float64.

    The master may be empty or lack a module: that module is zero, as before the first round.  A Sequence gives the
    same bits in any order.  Any other iterable is read in its own order, one update at a time, and gives the same up
    to rounding; an iterator is read once, which is enough for rules and weights that look at one update at a time.
    Over `pipeline.exact_up_to` updates, sums and inner products are sketched, and the report has their errors.
    *reference* is a trusted update, made from data that the caller vouches for; steps such as fltrust need it.
    *mapped* may run the passes of different modules elsewhere; the bits are the same.

    Raises:
        BadUpdate: no updates, no weight, a value that is not finite, or modules, shapes, ranks that do not fit; or a
            step or rule that cannot give what it promises for this many updates.
        BadTensor: the momentum in *state* has another shape than the master.
    """
    stages = pipeline.stages()
    cohort = Cohort(updates, stages.factors, master)
    remembered = state or State()
    if cohort.once:
        if pipeline.screened or reference is not None:
            raise BadSetting(
                "the updates can be read only once, and comparing them with each other reads them twice",
                fix="give a list, StoredUpdates, or an object that restarts them",
            )
        return _once(cohort, stages, pipeline, master, remembered)
    census = cohort.census(pipeline.f)
    if pipeline.f and len(census.raw) <= 2 * pipeline.f:
        raise BadUpdate(
            f"{len(census.raw)} updates, of which {pipeline.f} may be hostile: nothing withstands half of them",
            fix="wait for more updates, or lower f",
        )
    exact = len(census.raw) <= pipeline.exact_up_to
    trains = stages.rule.trains
    weighing = weighed(cohort, census, Wanted(stages.steps, exact, pipeline.screened, reference, mapped, trains))
    work = _Work(pipeline, stages, master, remembered, exact=exact, seed=census.facts.seed)
    task, coefficients = _task(cohort, work, weighing)
    done = [each for block in mapped(task, cohort.blocks(census)) for each in block]
    shares = census.raw / np.sum(census.raw)
    verdicts = trust(weighing.findings, coefficients, shares, weighing.history)
    return _result(done, remembered, cohort, _Voted(coefficients, weighing, verdicts))


def _task(cohort: Cohort, work: "_Work", weighing: Weighing) -> tuple[Callable[[Sequence[str]], list["_Done"]], Floats]:
    """Return what is to be done for a group of modules, and what every update counts in it."""
    rule = work.stages.rule
    norms = weighing.products is None
    if isinstance(rule, Coordinatewise):
        choice = Choice.of(rule, weighing.ballot, norms=norms, exact=work.exact)
        return partial(_picked, cohort, work, choice), choice.coefficients
    coefficients = weighing.ballot.coefficients
    return partial(_folded, cohort, work, coefficients, work.plan(rule, norms=norms)), coefficients


def _picked(cohort: Cohort, work: "_Work", choice: Choice, names: Sequence[str]) -> list["_Done"]:
    return [work.done(each) for each in coordinates(cohort, names, choice)]


def _folded(cohort: Cohort, work: "_Work", coefficients: Floats, plan: Plan, names: Sequence[str]) -> list["_Done"]:
    return [work.done(each) for each in folded(cohort, names, coefficients, plan)]


class _Voted(NamedTuple):
    """What the weights stage said, with the final coefficients."""

    coefficients: Floats
    weighing: Weighing | None = None
    verdicts: tuple[Verdict, ...] = ()


class _Done(NamedTuple):
    """One module after the round."""

    name: str
    after: After
    squares: Floats
    error: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What is done with every module once its updates are folded."""

    pipeline: Pipeline
    stages: Stages
    master: Mapping[str, LowRank]
    state: State
    exact: bool
    seed: int

    def plan(self, rule: Rule, *, norms: bool) -> Plan:
        """Return what the folds need to know."""
        return Plan(
            rule=rule,
            master=self.master,
            rounds=self.state.rounds,
            exact=self.exact,
            rank=self.pipeline.rank,
            seed=self.seed,
            norms=norms,
        )

    def done(self, each: Folded) -> _Done:
        """Take the outer step and cut."""
        before = Before(
            self.master.get(each.name),
            self.state.momentum.get(each.name),
            self.state.moments.get(each.name),
            exact=self.exact,
        )
        rank = self.pipeline.rank or max(RANK_FACTOR * each.rank, before.master.rank if before.master else 0)
        step = moved_in_basis if self.pipeline.keeps_basis else moved
        after = step(each.terms, before, self.stages.outer, rank=rank, shape=each.shape)
        return _Done(each.name, after, each.squares, each.error)


def _once(
    cohort: Cohort, stages: Stages, pipeline: Pipeline, master: Mapping[str, LowRank], state: State
) -> Aggregated:
    """Combine what can be read only once, in one pass."""
    if stages.steps or isinstance(stages.rule, Coordinatewise):
        raise BadSetting(
            f"the updates can be read only once; {pipeline.weights} and the rule {pipeline.rule!r} read them twice",
            fix="give a list, StoredUpdates, or an object that restarts them",
        )
    work = _Work(pipeline, stages, master, state, exact=True, seed=0)
    modules, weights = folded_once(cohort, work.plan(stages.rule, norms=True))
    return _result([work.done(each) for each in modules], state, cohort, _Voted(weights))


def _result(done: Sequence[_Done], state: State, cohort: Cohort, voted: _Voted) -> Aggregated:
    """Put the modules together, and what is said of updates in the order in which they were given."""
    costs = {each.name: each.after.cost for each in done}
    total = summed(costs)
    error = float(np.linalg.norm([each.error for each in done]))
    products = voted.weighing.products if voted.weighing else None
    norms = norms_of(products.gram) if products else np.sqrt(sum(each.squares for each in done))
    findings = voted.weighing.findings if voted.weighing else ()
    report = Report(
        weights=cohort.as_given(voted.coefficients),
        norms=cohort.as_given(norms),
        modules=costs,
        total=total,
        products="none" if products is None else "sketch" if products.sketched else "exact",
        products_error=products.error if products else 0.0,
        sum_error=error / total.norm if total.norm else 0.0,
        findings=tuple(sorted((_given(each, cohort) for each in findings), key=lambda found: found.place)),
        verdicts=tuple(
            sorted((replace(each, place=cohort.given(each.place)) for each in voted.verdicts), key=lambda v: v.place)
        ),
    )
    momentum = {each.name: each.after.momentum for each in done if each.after.momentum is not None}
    moments = {each.name: each.after.moments for each in done if each.after.moments is not None}
    return Aggregated(
        {each.name: each.after.master for each in done}, State(momentum, moments, state.rounds + 1), report
    )


def _given(finding: Finding, cohort: Cohort) -> Finding:
    """Return *finding* with places in the order in which the updates were given."""
    others = tuple(sorted(cohort.given(place) for place in finding.others))
    return replace(finding, place=cohort.given(finding.place), others=others)


def summed(costs: Mapping[str, Truncation]) -> Truncation:
    """Return the cost of all modules together."""
    return Truncation(
        float(np.linalg.norm([cost.norm for cost in costs.values()])),
        float(np.linalg.norm([cost.discarded for cost in costs.values()])),
    )
