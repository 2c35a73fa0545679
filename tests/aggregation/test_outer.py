"""Outer steps: known answers, staleness, what they are made of, what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballots import facts
from potluck.aggregation import OUTER, BadSetting, LowRank, Pipeline, State, Update, aggregate
from potluck.aggregation.outer.buffered import Fading
from potluck.aggregation.weights.ballot import Ballot

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_rules.json").read_text("utf-8"))
ADAPTIVE = ["fedadagrad", "fedadam", "fedyogi"]
CHANGES = st.lists(st.floats(-10, 10), min_size=1, max_size=8)


def one_by_one(change: float, start: float) -> Update:
    """Return an update of a 1 × 1 module that trained B by *change* against A = 1."""
    begun = LowRank(np.array([[start]]), np.ones((1, 1)))
    return Update({"w": LowRank(begun.b + change, begun.a)}, {"w": begun}, 1)


@pytest.mark.parametrize("case", VECTORS["steps"], ids=lambda case: case["name"])
def test_known_answers_of_outer_steps(case):
    """T6 through whole rounds: what a step remembers travels in the state, and FFA's basis stays."""
    pipeline = Pipeline(rule="ffa", outer=case["outer"])
    master, state, seen = {}, State(), []

    for change in case["changes"]:
        start = float(master["w"].dense()[0, 0]) if master else 0.0
        master, state, _ = aggregate([one_by_one(change, start)], master, pipeline, state)
        seen.append(float(master["w"].dense()[0, 0]))

    np.testing.assert_allclose(seen, case["results"], rtol=0, atol=2e-12)


@pytest.mark.parametrize("case", VECTORS["late"], ids=lambda case: case["name"])
def test_late_updates_count_less(case):
    """Orthogonal innovations, so that the master shows what each was multiplied by; nothing is divided by a sum."""
    n = len(case["staleness"])
    axes = np.eye(n)
    updates = [
        Update({"w": LowRank(axes[:, [i]], axes[[i]])}, {}, 1, staleness=late)
        for i, late in enumerate(case["staleness"])
    ]

    master = aggregate(updates, {}, Pipeline(outer=case["outer"], settings=case.get("settings", {}))).master["w"]

    np.testing.assert_allclose(master.dense(), np.diag(case["step"]), atol=1e-12)


def test_every_outer_step_has_a_known_answer():
    assert {case["outer"] for section in ("steps", "late") for case in VECTORS[section]} == set(OUTER)


def test_staleness_multiplies_innovations_whatever_steps_came_before():
    """The vectors of a ballot may be mixtures by then: columns of the mix are innovations, rows are vectors."""
    mix = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    known = facts(3)
    late = type(known)(known.examples, known.steps, np.array([0, 3, 8]), known.f)
    ballot = Ballot(late, mix, np.array([0.4, 0.6]))

    after = Fading(0.5).cast(ballot)

    np.testing.assert_allclose(after.coefficients, ballot.coefficients * [1, 1 / 2, 1 / 3], rtol=1e-15)
    np.testing.assert_allclose(Fading(0.5, buffer=6).cast(ballot).coefficients, after.coefficients / 2, rtol=1e-15)
    assert not Fading.reads_gram


def test_a_round_that_is_late_as_a_whole_takes_a_shorter_step():
    """Where the weight factor `staleness` takes the whole one."""
    updates = [Update({"w": LowRank(np.ones((1, 1)), np.ones((1, 1)))}, {}, n, staleness=3) for n in (1, 5)]

    buffered = aggregate(updates, {}, Pipeline(outer="fedbuff")).master["w"].dense()
    shifted = aggregate(updates, {}, Pipeline(weights=("examples", "staleness"))).master["w"].dense()

    assert (buffered[0, 0], shifted[0, 0]) == (pytest.approx(0.5, rel=1e-15), pytest.approx(1, rel=1e-15))


@pytest.mark.parametrize("name", ADAPTIVE)
@given(first=CHANGES, second=CHANGES)
def test_entries_do_not_see_each_other(name: str, first: list[float], second: list[float]):
    """Two coordinates together are the two alone."""
    step = OUTER[name]()
    length = min(len(first), len(second))
    pairs = np.array([first[:length], second[:length]]).T
    together, alone = step.begun((2,)), [step.begun((1,)), step.begun((1,))]

    for pair in pairs:
        moved, together = step(pair, together)
        for i in range(2):
            single, alone[i] = step(pair[[i]], alone[i])
            assert single[0] == moved[i]


@pytest.mark.parametrize("name", ADAPTIVE)
@given(changes=CHANGES)
def test_a_mirrored_history_takes_mirrored_steps(name: str, changes: list[float]):
    step = OUTER[name]()
    plain, mirrored = step.begun((1,)), step.begun((1,))

    for change in changes:
        forth, plain = step(np.array([change]), plain)
        back, mirrored = step(np.array([-change]), mirrored)
        assert forth[0] == -back[0]
        assert plain.second[0] == mirrored.second[0] > 0


@pytest.mark.parametrize("name", ADAPTIVE)
def test_moments_begin_at_zero_and_at_tau_squared(name: str):
    """A round without training moves nothing, at any shape."""
    step = OUTER[name](adaptivity=0.25)
    moments = step.begun((3, 2))

    moved, after = step(np.zeros((3, 2)), moments)

    assert (moments.first.any(), np.unique(moments.second).tolist()) == (False, [0.0625])
    assert (moved.any(), after.first.any(), moved.shape) == (False, False, (3, 2))


def test_yogi_forgets_no_faster_than_it_learns():
    """After one large change Adam's second moment falls by its share, Yogi's by the small square alone."""
    seconds = {}
    for name in ("fedadam", "fedyogi"):
        step = OUTER[name]()
        _, moments = step(np.array([1.0]), step.begun((1,)))
        _, after = step(np.array([0.1]), moments)
        seconds[name] = (moments.second[0], after.second[0])

    assert seconds["fedadam"] == (pytest.approx(0.99e-6 + 0.01), pytest.approx(0.99 * (0.99e-6 + 0.01) + 1e-4))
    assert seconds["fedyogi"] == (
        pytest.approx(1e-6 + 0.01),
        pytest.approx(1e-6 + 0.01 - np.sign(0.010001 - 0.01) * 1e-4),
    )


def test_yogi_stays_where_the_square_is_what_it_remembers():
    """The sign of nothing is nothing: v = Δ² = 1/4 is left alone, beside an entry that moves."""
    step = OUTER["fedyogi"](adaptivity=0.5)

    _, moments = step(np.array([0.5, 1.0]), step.begun((2,)))

    assert moments.second.tolist() == pytest.approx([0.25, 0.26])


@pytest.mark.parametrize("name", ["fedavg", "fedasync", "fedbuff"])
def test_steps_without_momentum_leave_none(name: str):
    assert OUTER[name]()([], []) == ([], ())


@pytest.mark.parametrize("outer", ADAPTIVE)
@pytest.mark.parametrize("rule", ["mean", "fedit", "flexlora", "rolora", "fedsvd", "fedsa", "fedsb"])
def test_element_wise_steps_are_refused_without_a_fixed_public_factor(rule: str, outer: str):
    """The entries of a factor depend on the gauge, and the step would fill the rank."""
    with pytest.raises(BadSetting, match=f"{outer} works entry by entry, and the rule '{rule}'") as refusal:
        Pipeline(rule=rule, outer=outer)

    assert "ffa" in refusal.value.__notes__[0]


@pytest.mark.parametrize("rule", ["ffa", "median", "trimmed_mean", "bulyan"])
def test_element_wise_steps_are_taken_against_a_public_factor(rule: str):
    assert Pipeline(rule=rule, outer="fedadam").stages().outer.elementwise


@pytest.mark.parametrize(
    ("outer", "settings", "message"),
    [
        ("fedavg", {"eta": 0.0}, "^fedavg has eta 0"),
        ("fedavgm", {"eta": -1.0}, "^fedavgm has eta -1"),
        ("fedavgm", {"beta": 1.0}, "^fedavgm beta is 1"),
        ("nesterov", {"eta": float("nan")}, "^nesterov has eta nan"),
        ("nesterov", {"mu": -0.1}, "^nesterov mu is -0.1"),
        ("fedbuff", {"eta": 0.0}, "fedbuff has eta 0"),
        ("fedbuff", {"exponent": -0.5}, "fedbuff exponent is -0.5"),
        ("fedbuff", {"exponent": float("inf")}, "fedbuff exponent is inf"),
        ("fedbuff", {"buffer": -1}, "fedbuff has buffer -1"),
        ("fedasync", {"alpha": 0.0}, "fedasync has alpha 0"),
        ("fedasync", {"alpha": 1.5}, "fedasync has alpha 1.5"),
        ("fedasync", {"exponent": -1}, "fedasync exponent is -1"),
        ("fedasync", {"slope": -1}, "fedasync slope is -1"),
        ("fedasync", {"grace": -1}, "fedasync grace is -1"),
        ("fedadam", {"eta": -1}, "fedadam has eta -1"),
        ("fedadam", {"beta1": 1.0}, "fedadam beta1 is 1"),
        ("fedadam", {"beta2": 1.0}, "fedadam beta2 is 1"),
        ("fedadam", {"adaptivity": 0.0}, "fedadam has adaptivity 0"),
        ("fedadam", {"adaptivity": float("inf")}, "fedadam has adaptivity inf"),
        ("fedyogi", {"eta": 0.0}, "fedyogi has eta 0"),
        ("fedyogi", {"beta1": -0.1}, "fedyogi beta1 is -0.1"),
        ("fedyogi", {"beta2": 2.0}, "fedyogi beta2 is 2"),
        ("fedyogi", {"adaptivity": -1e-3}, "fedyogi has adaptivity -0.001"),
        ("fedadagrad", {"eta": float("inf")}, "fedadagrad has eta inf"),
        ("fedadagrad", {"beta1": 1.0}, "fedadagrad beta1 is 1"),
        ("fedadagrad", {"adaptivity": 0.0}, "fedadagrad has adaptivity 0"),
    ],
)
def test_settings_of_outer_steps_out_of_range_are_refused(outer: str, settings, message: str):
    with pytest.raises(BadSetting, match=message) as refusal:
        OUTER[outer](**settings)

    assert refusal.value.__notes__[0].startswith("fix: use ")


def test_settings_of_outer_steps_at_their_bounds_are_taken():
    """0 is constant staleness, no hinge, no grace, no memory; an alpha of 1 is the whole step."""
    OUTER["fedbuff"](exponent=0, buffer=0)
    OUTER["fedasync"](alpha=1, exponent=0, slope=0, grace=0)
    OUTER["fedadam"](beta1=0, beta2=0)
