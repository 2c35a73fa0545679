"""The pass that feeds a rule's folds: which parts, with which weights, and what a fold is told before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from adapters import low_rank, trained_from
from potluck.aggregation import BadUpdate, LowRank, Update
from potluck.aggregation.cohort import Cohort
from potluck.aggregation.folding import NORM_WIDTH, Plan, folded, folded_once
from potluck.aggregation.rules.base import Module, Part
from potluck.aggregation.sketch import ProductSketch

SHAPES = {"p": (9, 7), "q": (5, 8)}


@dataclass
class Told:
    """A fold that only keeps what it is told."""

    module: Module
    parts: list[Part] = field(default_factory=list)
    total: float = 0.0

    def add(self, part: Part) -> None:
        self.parts.append(part)

    def combined(self, total: float) -> Sequence[LowRank]:
        self.total = total
        self.module.errors.extend([3.0, 4.0] if self.module.name == "p" else [])
        return [part.trained for part in self.parts]


@dataclass
class Telling:
    """A rule whose folds can be looked at."""

    foresees: bool = False
    any_start: bool = True
    folds: dict[str, Told] = field(default_factory=dict)
    trains: ClassVar[Literal["both"]] = "both"

    def fold(self, module: Module) -> Told:
        self.folds[module.name] = Told(module)
        return self.folds[module.name]


def crowd(count: int = 4) -> list[Update]:
    """Return updates of one start, of ranks 3, 1, 2 and so on, and 3, 2, 1, 2 and so on."""
    rng = np.random.default_rng(1)
    start = {name: low_rank(rng, shape, 2, 2.0) for name, shape in SHAPES.items()}
    ranks = {"p": (3, 1, 2), "q": (3, 2, 1, 2)}
    return [
        Update({n: low_rank(rng, s, ranks[n][i % len(ranks[n])], 1.5) for n, s in SHAPES.items()}, start, 1 + i)
        for i in range(count)
    ]


def plan(rule: Telling, **other: Any) -> Plan:
    options = {"master": {}, "rounds": 7, "exact": True, "rank": None, "seed": 6, "norms": True}
    return Plan(rule=rule, **(options | other))


def squares(updates: Sequence[Update], name: str) -> list[float]:
    return [float(np.sum(update.innovation()[name].dense() ** 2)) for update in updates]


class Restarting:
    """Read whole, in its own order, as often as asked."""

    def __iter__(self):
        return iter(crowd())


@pytest.mark.parametrize("foresees", [False, True])
@pytest.mark.parametrize("given", [crowd(), Restarting()], ids=["list", "restarting"])
def test_a_fold_takes_the_parts_with_their_weights(given, *, foresees: bool):
    """In the order of reading, without those that weigh nothing; ranks and weights beforehand if the rule foresees."""
    rule, cohort = Telling(foresees=foresees), Cohort(given, (), {})
    ordered = [crowd()[cohort.given(place)] for place in range(4)]
    master = {"p": low_rank(np.random.default_rng(2), SHAPES["p"], 5)}
    coefficients = np.array([0.5, 0.0, -0.25, 2.0])

    of = plan(rule, master=master)
    found = list(folded(cohort, ["p", "q"], coefficients, of))

    assert [each.name for each in found] == ["p", "q"]
    assert all(fold.module.room is of.room for fold in rule.folds.values())
    for each in found:
        fold, name = rule.folds[each.name], each.name
        ranks = tuple(update.trained[name].rank for update in ordered)
        assert [part.weight for part in fold.parts] == [0.5, -0.25, 2.0]
        for part, place in zip(fold.parts, (0, 2, 3), strict=True):
            assert np.array_equal(part.trained.b, ordered[place].trained[name].b)
            assert np.array_equal(part.start.a, ordered[place].start[name].a)
        assert (fold.total, len(each.terms), each.shape, each.rank) == (1.0, 3, SHAPES[name], 3)
        np.testing.assert_allclose(each.squares, squares(ordered, name), rtol=1e-6)
        assert each.error == (5.0 if name == "p" else 0.0)
        known = fold.module
        assert (known.name, known.shape, known.rounds, known.count) == (name, SHAPES[name], 7, 4)
        assert (known.ranks, known.weights) == ((ranks, tuple(coefficients)) if foresees else ((), ()))
        assert known.master.rank == (5 if name == "p" else 0)
        assert known.master.shape == SHAPES[name]
        assert (known.exact, known.seed) == (True, 6)
        widest = known.ranks or [ordered[0].trained[name].rank]
        assert known.rank == max(4 * max(widest), known.master.rank)


def test_a_fold_is_told_the_rank_of_the_plan_or_the_larger_of_two():
    """Four columns for each of the first client's, or the master's if it has more."""
    for rank, master_rank, expected in ((6, 20, 6), (None, 20, 20), (None, 1, 4)):
        rule = Telling()
        update = Update({"p": low_rank(np.random.default_rng(3), SHAPES["p"], 1)}, {}, 1)
        master = {"p": low_rank(np.random.default_rng(4), SHAPES["p"], master_rank)}
        list(folded(Cohort([update], (), {}), ["p"], np.ones(1), plan(rule, rank=rank, master=master)))
        assert rule.folds["p"].module.rank == expected


def test_norms_that_nobody_wants_are_not_computed():
    """Zeros, exact or sketched."""
    for exact in (True, False):
        found = list(folded(Cohort(crowd(), (), {}), ["p"], np.ones(4), plan(Telling(), exact=exact, norms=False)))
        assert [each.squares.tolist() for each in found] == [[0.0] * 4]


def test_norms_beside_sketched_sums_are_sketched():
    """By a map of width 16 from the plan's seed."""
    cohort = Cohort(crowd(9), (), {})
    ordered = [crowd(9)[cohort.given(place)] for place in range(9)]

    rule = Telling()
    for each in folded(cohort, ["p", "q"], np.ones(9), plan(rule, exact=False)):
        assert not rule.folds[each.name].module.exact
        left, right = ProductSketch(1, seed=6, widths=(16, 16)).maps(each.name, SHAPES[each.name], np.dtype(np.float64))
        expected = [np.sum((left @ u.innovation()[each.name].dense() @ right) ** 2) for u in ordered]
        np.testing.assert_allclose(each.squares, expected, rtol=1e-5)
    assert NORM_WIDTH == 16


def test_one_pass_over_an_iterator_gives_weights_and_total():
    """Raw weights go into the folds, and their sum closes them; modules come sorted."""
    rule, updates = Telling(), crowd()

    found, weights = folded_once(Cohort(iter(updates), (lambda u: 2.0 * u.examples,), {}), plan(rule))

    assert [each.name for each in found] == ["p", "q"]
    assert weights.tolist() == [0.1, 0.2, 0.3, 0.4]
    for each in found:
        fold = rule.folds[each.name]
        assert [part.weight for part in fold.parts] == [2.0, 4.0, 6.0, 8.0]
        assert (fold.total, each.rank, fold.module.count) == (20.0, 3, 0)
        assert (fold.module.ranks, fold.module.weights) == ((), ())
        np.testing.assert_allclose(each.squares, squares(updates, each.name), rtol=1e-6)
    with pytest.raises(BadUpdate, match="reads them twice"):
        folded_once(Cohort(iter(updates), (), {}), plan(Telling(foresees=True)))
    with pytest.raises(BadUpdate, match="update 2 has the weight -1"):
        folded_once(Cohort(iter(updates), (lambda u: 2.0 - u.examples,), {}), plan(Telling()))


def test_the_rank_is_the_largest_whoever_trained_it():
    """Whether the first, a later one, or one that weighs nothing; foreseen or not."""
    for order in ((3, 1, 2), (1, 3, 2), (1, 2, 3), (0, 0, 0)):
        for foresees in (False, True):
            rng = np.random.default_rng(5)
            updates = [Update({"p": low_rank(rng, SHAPES["p"], rank)}, {}, 1) for rank in order]
            rule = Telling(foresees=foresees)
            (each,) = folded(Cohort(iter_again(updates), (), {}), ["p"], np.array([1.0, 1.0, 0.0]), plan(rule))
            assert each.rank == max(order)


def iter_again(updates: list[Update]):
    """Return an object over *updates* that keeps their order."""
    return dict(enumerate(updates)).values()


def test_a_rule_of_one_start_refuses_another():
    """The same factors in another array are the same start; the rule is named."""
    first, second = crowd(2)
    copied = {n: LowRank(t.b.copy(), t.a.copy(), t.scale) for n, t in first.start.items()}
    moved = {n: trained_from(np.random.default_rng(6), t) for n, t in first.start.items()}

    for start, refused in ((copied, False), (moved, True)):
        for any_start in (False, True):
            cohort = Cohort([first, Update(second.trained, start, 2)], (), {})
            run = folded(cohort, ["p"], np.ones(2), plan(Telling(any_start=any_start)))
            if refused and not any_start:
                with pytest.raises(BadUpdate, match="p was started from different factors, and the rule Telling"):
                    list(run)
            else:
                assert len(list(run)) == 1


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "sketched"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("b", "a", "says"),
    [(1e160, 1e160, "the norm of p overflows"), (1.0, np.inf, r"p trained lora_A\[0, 0\] is NaN or infinite")],
)
def test_a_norm_that_overflows_is_refused_without_a_warning(place: int, b: float, a: float, says: str, *, exact: bool):
    """Each value is finite, and the square of the norm is not; or one was not, which is said instead."""
    rng = np.random.default_rng(7)
    updates = [Update({"p": low_rank(rng, SHAPES["p"], 2)}, {}, 1) for _ in range(3)]
    term = updates[place].trained["p"]
    updates[place] = Update({"p": LowRank(np.float64(b) * term.b, np.float64(a) * term.a)}, {}, 1)

    with pytest.raises(BadUpdate, match=says) as refusal:
        list(folded(Cohort(iter_again(updates), (), {}), ["p"], np.ones(3), plan(Telling(), exact=exact, rank=4)))

    if not exact or np.isinf(a):
        assert str(refusal.value).startswith(f"update {place}: ")
    assert "leave this update out" in refusal.value.__notes__[0]


def test_a_sketch_of_norms_looks_closer_at_the_public_side():
    """By maps of 8 and 32 rows where B is trained."""

    class TrainsB(Telling):
        trains: ClassVar[str] = "b"

    (each,) = folded(Cohort(crowd(1), (), {}), ["p"], np.ones(1), plan(TrainsB(), exact=False))

    left, right = ProductSketch(1, seed=6, widths=(8, 32)).maps("p", SHAPES["p"], np.dtype(np.float64))
    change = crowd(1)[0].innovation()["p"].dense()
    np.testing.assert_allclose(each.squares, [np.sum((left @ change @ right) ** 2)], rtol=1e-5)
