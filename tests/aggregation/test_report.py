"""What a round says of itself: products, norms, errors, findings and verdicts, of updates in the order given."""

from dataclasses import replace

import numpy as np
import pytest

from adapters import SHAPES, low_rank, random_update
from ballots import facts
from potluck.aggregation import BadSetting, LowRank, Pipeline, State, Update, aggregate, gram
from potluck.aggregation.cohort import Cohort
from potluck.aggregation.errors import PotluckError
from potluck.aggregation.products import norms_of, sketched_products
from potluck.aggregation.screening import Weighed, screen, trust
from potluck.aggregation.sketch import ProductSketch

EXAMPLES = (3, 1, 4, 1, 5, 9)


def odd_round() -> list[Update]:
    """Return six updates: the second is the fourth again, the last points the other way and is far too long."""
    rng = np.random.default_rng(1)
    common = {name: low_rank(rng, shape, 2) for name, shape in SHAPES.items()}
    made = [{n: LowRank(t.b + low_rank(rng, t.shape, 2).b / 4, t.a) for n, t in common.items()} for _ in EXAMPLES]
    made[1] = {name: term.times(0.5) for name, term in made[3].items()}
    made[5] = {name: term.times(-50.0) for name, term in made[5].items()}
    return [Update(trained, {}, number) for trained, number in zip(made, EXAMPLES, strict=True)]


@pytest.mark.parametrize("turn", range(6))
def test_findings_and_verdicts_are_of_updates_as_they_were_given(turn: int):
    """Digests decide the order of reading; a volunteer is told of the own update."""
    updates = odd_round()[turn:] + odd_round()[:turn]
    pipeline = Pipeline(weights=("examples", "norm_bound"), screened=True)

    report = aggregate(updates, {}, pipeline).report

    products = gram([update.innovation() for update in updates])
    examples = np.array([update.examples for update in updates], np.int64)
    known = replace(facts(6), examples=examples, steps=np.ones(6, np.int64))
    expected = screen(known, products)
    assert [(f.place, f.check, f.others) for f in report.findings] == [(f.place, f.check, f.others) for f in expected]
    places = [finding.place for finding in report.findings]
    assert places == sorted(places)
    assert {"duplicate", "norm", "cosine"} <= {finding.check for finding in report.findings}
    lengths = np.sqrt(np.diag(products))
    shares = examples / examples.sum()
    counted = shares * np.minimum(1, np.median(lengths) / lengths)
    np.testing.assert_allclose(report.weights, counted, rtol=1e-12)
    np.testing.assert_allclose(report.norms, lengths, rtol=1e-12)
    verdicts = trust(expected, counted, shares, [Weighed("norm_bound", counted)])
    assert [(v.place, v.weighted_down, v.reasons) for v in report.verdicts] == [
        (v.place, v.weighted_down, v.reasons) for v in verdicts
    ]
    assert [verdict.share for verdict in report.verdicts] == pytest.approx(shares.tolist())
    assert sum(verdict.weighted_down for verdict in report.verdicts) == 1
    assert (report.products, report.products_error, report.sum_error) == ("exact", 0.0, 0.0)


def test_a_round_that_nobody_looked_at_says_so():
    """No products, no findings, and a verdict each all the same; read once, not even that."""
    updates = odd_round()

    looked = aggregate(updates, {}).report
    once, state = (
        aggregate(iter(updates), {}, state=State(rounds=4))[2],
        aggregate(updates, {}, state=State(rounds=4))[1],
    )

    for report in (looked, once):
        assert (report.products, report.products_error, report.sum_error, report.findings) == ("none", 0.0, 0.0, ())
        np.testing.assert_allclose(report.norms, norms_of(gram([u.innovation() for u in updates])), rtol=1e-6)
    assert [verdict.place for verdict in looked.verdicts] == [0, 1, 2, 3, 4, 5]
    assert once.verdicts == ()
    assert state.rounds == 5
    assert looked.total.norm == pytest.approx(np.hypot(*(cost.norm for cost in looked.modules.values())), rel=1e-12)


@pytest.mark.parametrize("rule", ["mean", "ffa"])
def test_a_sketched_round_reports_the_norms_and_the_error_of_its_sketch(rule: str):
    """Wider on the public side where the rule has one."""
    rng = np.random.default_rng(2)
    start = {name: low_rank(rng, shape, 2) for name, shape in SHAPES.items()}
    updates = [
        Update({n: LowRank(low_rank(rng, t.shape, 2).b, t.a) for n, t in start.items()}, start, 1) for _ in "abc"
    ]

    report = aggregate(updates, {}, Pipeline(rule=rule, screened=True, exact_up_to=2)).report

    cohort = Cohort(updates, (), {})
    found = sketched_products(cohort, cohort.census(), map, trains="b" if rule == "ffa" else "both")
    assert (report.products, report.products_error) == ("sketch", found.error)
    assert report.norms == cohort.as_given(norms_of(found.gram))
    assert 0 < found.error < 1


@pytest.mark.parametrize(("rule", "kind"), [("mean", (16, 16)), ("ffa", (8, 32))])
def test_norms_beside_sketched_sums_follow_from_the_digests(rule: str, kind: tuple[int, int]):
    """No client could know the maps before all updates were in."""
    rng = np.random.default_rng(3)
    start = {name: low_rank(rng, shape, 2) for name, shape in SHAPES.items()}
    updates = [
        Update({n: LowRank(low_rank(rng, t.shape, 2).b, t.a) for n, t in start.items()}, start, 1) for _ in "abc"
    ]

    report = aggregate(updates, {}, Pipeline(rule=rule, exact_up_to=2)).report

    sketch = ProductSketch(0, seed=Cohort(updates, (), {}).seed, widths=kind)
    squares = np.zeros(3)
    for name, shape in SHAPES.items():
        left, right = sketch.maps(name, shape, np.dtype(np.float64))
        squares += [np.sum((left @ u.innovation()[name].dense() @ right) ** 2) for u in updates]
    np.testing.assert_allclose(report.norms, np.sqrt(squares), rtol=1e-5)


def test_the_error_of_sketched_sums_is_a_share_of_the_whole():
    """Of 40 columns where 4 + 8 are looked for: the same in any unit, near what is missed, and 0 of nothing."""
    rng = np.random.default_rng(4)
    shape = (60, 50)
    terms = [low_rank(rng, shape, 8) for _ in range(5)]
    errors = []
    for size in (1.0, 1e3, 1e-3):
        updates = [Update({"m": term.times(size)}, {}, 1, key=bytes([i])) for i, term in enumerate(terms)]
        report = aggregate(updates, {}, Pipeline(rank=4, exact_up_to=2)).report
        errors.append(report.sum_error)
        assert report.total.norm == pytest.approx(size * np.linalg.norm(sum(t.dense() for t in terms)) / 5, rel=0.5)

    assert errors == pytest.approx([errors[0]] * 3, rel=1e-5)
    assert 0.1 < errors[0] < 2
    start = {"m": terms[0]}
    still = aggregate([Update(start, start, n) for n in (1, 2, 3)], {}, Pipeline(exact_up_to=2)).report
    assert (still.total.norm, still.sum_error) == (0.0, 0.0)


def test_a_sketched_round_is_cut_as_one():
    """A direction of 1e-9 beside 1 is kept where sums are exact, and noise where they are not."""
    a = np.eye(9)[:2]
    start = {"m": LowRank(np.zeros((12, 2)), a)}
    updates = [Update({"m": LowRank(np.eye(12)[:, :2] * [1.0, 1e-9] * n, a)}, start, n) for n in (1, 2, 3)]

    ranks = [aggregate(updates, {}, Pipeline(exact_up_to=most)).master["m"].rank for most in (3, 2)]

    assert ranks == [2, 1]


@pytest.mark.parametrize("options", [{"weights": ("examples", "nnm")}, {"rule": "median"}])
def test_what_is_read_twice_is_refused_of_an_iterator(options):
    """A step on all updates, or a rule that looks at coordinates: either is enough."""
    with pytest.raises(BadSetting, match="the updates can be read only once"):
        aggregate(iter([random_update(np.random.default_rng(5))]), {}, Pipeline(**options))


def test_the_columns_that_a_pipeline_grants_are_those_that_a_sketch_looks_for():
    """Forty directions of equal size: eight more than the rank are found, and the rest is the reported error."""
    rng = np.random.default_rng(6)
    q, _ = np.linalg.qr(rng.normal(size=(60, 40)))
    updates = [Update({"m": LowRank(q[:, 8 * i : 8 * i + 8], q[:50, 8 * i : 8 * i + 8].T)}, {}, 1) for i in range(5)]

    errors = [aggregate(updates, {}, Pipeline(rank=rank, exact_up_to=2)).report.sum_error for rank in (1, 20, 40)]

    assert errors[0] > errors[1] > 1e-3
    assert errors[2] < 1e-6


def test_norms_beside_coordinates_are_exact_where_sums_would_be():
    """From every row of a small round, from a sixteenth of the rows of a large one."""
    rng = np.random.default_rng(7)
    start = {name: low_rank(rng, shape, 2) for name, shape in SHAPES.items()}
    updates = [
        Update({n: LowRank(low_rank(rng, t.shape, 2).b, t.a) for n, t in start.items()}, start, 1) for _ in "abc"
    ]
    expected = norms_of(gram([update.innovation() for update in updates]))

    exact, sampled = (
        np.array(aggregate(updates, {}, Pipeline(rule="median", exact_up_to=most)).report.norms) for most in (3, 2)
    )

    np.testing.assert_allclose(exact, expected, rtol=1e-5)
    assert not np.allclose(sampled, expected, rtol=1e-2)
    assert (sampled > 0).all()


def test_a_round_is_weighed_by_the_update_that_is_trusted():
    """By the cosine to it, at its length; whoever points away from it counts nothing."""
    updates = odd_round()
    trusted = Update({name: term.times(0.1) for name, term in updates[0].trained.items()}, {}, 1)

    report = aggregate(updates, {}, Pipeline(weights=("examples", "fltrust")), reference=trusted).report

    products = gram([update.innovation() for update in [*updates, trusted]])
    lengths = np.sqrt(np.diag(products))
    trust_in = np.maximum(products[:6, 6] / (lengths[:6] * lengths[6]), 0.0) * EXAMPLES
    np.testing.assert_allclose(report.weights, trust_in / trust_in.sum() * lengths[6] / lengths[:6], rtol=1e-10)
    assert report.weights[5] == 0 < report.weights[4]


def test_an_error_without_a_fix_has_no_note():
    assert not hasattr(PotluckError("what happened"), "__notes__")
    assert PotluckError("what happened", fix="do this").__notes__ == ["fix: do this"]
