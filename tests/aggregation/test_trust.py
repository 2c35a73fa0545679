"""The trust report: who counted less than they stated, and why."""

import numpy as np
import pytest

from ballots import ballot_of, cast, facts
from potluck.aggregation import BadUpdate
from potluck.aggregation.screening import Weighed, screen, trust
from potluck.aggregation.weights.registry import DEFAULT_DEFENCE


def honest(rng: np.random.Generator, n: int, *, shared: float = 1.0, spread: float = 0.4, p: int = 400):
    """Return n rows: *shared* parts in common, one of each client's own, and norms that differ by *spread*."""
    common, own = rng.normal(size=p), rng.normal(size=(n, p))
    return (shared * common + own) * np.exp(rng.normal(size=(n, 1)) * spread)


def through_the_default(rows, weights):
    """Return the shares, the coefficients and the history of a round that defends by default."""
    ballot = ballot_of(rows, facts(len(rows), f=2), weights=weights)
    shares, history = ballot.coefficients, []
    for name in DEFAULT_DEFENCE:
        ballot = cast(ballot, [name])
        history.append(Weighed(name, ballot.coefficients))
    return shares, ballot.coefficients, history


def test_the_report_names_who_was_weighted_down_and_by_which_step():
    """The volunteer at the other end asks why: the step that took the weight, and what it looked like."""
    rows = honest(np.random.default_rng(4), 10, spread=0.1)
    rows[3] *= -1000
    shares, coefficients, history = through_the_default(rows, np.ones(10))

    verdicts = trust(screen(facts(10), rows @ rows.T), coefficients, shares, history)

    down = {v.place: v.reasons for v in verdicts if v.weighted_down}
    assert 3 in down
    assert len(down) <= 2  # mixing leaves one of the honest aside, which has nobody near, and says so
    assert all(reason.endswith("of its weight") for place in down if place != 3 for reason in down[place])
    assert [v.share for v in verdicts] == pytest.approx([0.1] * 10)
    assert [v.coefficient for v in verdicts] == coefficients.tolist()
    reasons = verdicts[3].reasons
    assert reasons[0] == "norm_bound left 0% of its weight"
    assert reasons[-2].endswith("times as long as the median update")
    assert reasons[-1].startswith("points against the others")
    assert all(v.reasons == () for v in verdicts if v.place not in down)


def test_less_than_half_of_ones_part_is_weighted_down():
    """Parts are compared, so a round that takes half a step weighs nobody down."""
    shares = np.full(4, 0.25)

    verdicts = trust((), np.array([0.15, 0.15, 0.15, 0.05]), shares)
    assert [v.weighted_down for v in verdicts] == [False, False, False, True]
    assert [v.reasons for v in verdicts] == [()] * 4
    assert not any(v.weighted_down for v in trust((), 0.5 * shares, shares))
    assert not trust((), np.array([0.126, 0.29, 0.29, 0.294]), shares)[0].weighted_down
    assert trust((), np.array([0.124, 0.29, 0.29, 0.296]), shares)[0].weighted_down
    assert not trust((), np.array([0.125, 0.25, 0.25, 0.375]), shares)[0].weighted_down  # half exactly is not less
    assert all(v.weighted_down for v in trust((), np.zeros(4), shares))


def test_the_steps_that_took_weight_are_named_in_order():
    """All that left less than four fifths; where none did, the one that took most."""
    shares = np.array([0.5, 0.5])
    history = [
        Weighed("clip", np.array([0.3, 0.5])),
        Weighed("mix", np.array([0.3, 0.5])),
        Weighed("mix", np.array([0.05, 0.5])),
    ]
    first, second = trust((), history[-1].coefficients, shares, history)
    assert first.reasons == ("clip left 75% of its weight", "mix left 24% of its weight")
    assert not second.weighted_down

    slow = [Weighed(n, np.array([p, 1 - p])) for n, p in zip("abcd", (0.425, 0.34425, 0.28917, 0.24001), strict=True)]
    assert trust((), slow[-1].coefficients, shares, slow)[0].reasons == ("b left 81% of its weight",)
    for share, named in ((0.399, ("a left 80% of its weight", "b left 50% of its weight")), (0.401, ())):
        last = Weighed("b", np.array([share / 2, 1 - share / 2]))
        reasons = trust((), last.coefficients, shares, [Weighed("a", np.array([share, 1 - share])), last])[0].reasons
        assert reasons == (named or ("b left 50% of its weight",))
    gone = [Weighed("krum", np.array([0.0, 1.0])), Weighed("mean", np.array([0.0, 1.0]))]
    assert trust((), gone[-1].coefficients, shares, gone)[0].reasons == ("krum left 0% of its weight",)


def test_a_finding_alone_is_told_without_a_loss_of_weight():
    rows = honest(np.random.default_rng(5), 6)
    rows[1] = rows[4]

    verdicts = trust(screen(facts(6), rows @ rows.T), np.full(6, 1 / 6), np.full(6, 1 / 6))

    assert verdicts[1].reasons == ("is 1 times another update: one of them is a copy",)
    assert not verdicts[1].weighted_down


def test_a_report_needs_one_number_per_update():
    with pytest.raises(BadUpdate, match="shares"):
        trust((), np.ones(3), np.ones(2))
    with pytest.raises(BadUpdate, match="shares"):
        trust((), np.ones(2), np.zeros(2))


def test_a_step_is_named_that_took_more_than_a_fifth():
    """Four fifths left exactly is not named beside one that took more; nor is one that took nothing."""
    shares = np.full(4, 0.25)
    fifth, half = np.array([0.2, 0.25, 0.25, 0.3]), np.array([0.1, 0.3, 0.3, 0.3])

    both = trust((), half, shares, [Weighed("one", fifth), Weighed("two", half)])
    none = trust((), half, shares, [Weighed("one", shares)])

    assert [verdict.reasons for verdict in both] == [("two left 50% of its weight",), (), (), ()]
    assert (none[0].weighted_down, none[0].reasons) == (True, ())
