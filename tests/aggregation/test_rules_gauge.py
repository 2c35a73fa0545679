"""Gauges, over the registry: a new rule is tested without a line here.

(B·M, M⁻¹·A) is the same matrix for every invertible M, and the client picks M.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.aggregation import AGGREGATORS, BadUpdate, LowRank, Pipeline, State, aggregate
from potluck.aggregation.rules.base import Coordinatewise
from potluck.aggregation.rules.registry import GAUGE_DEPENDENT
from rounds import Round, relative, round_for, turned

SEEDS = st.integers(0, 2**32 - 1)
FREE = sorted(set(AGGREGATORS) - set(GAUGE_DEPENDENT))
FACTORS = sorted(name for name in GAUGE_DEPENDENT if AGGREGATORS[name]().trains == "both")
LINEAR = sorted(set(GAUGE_DEPENDENT) - set(FACTORS))


def combined(name: str, round_: Round):
    """Return the dense master after the round."""
    pipeline = Pipeline(rule=name, f=round_.f, rank=64)
    return aggregate(round_.updates, {"w": round_.before}, pipeline, State(rounds=round_.rounds)).master["w"].dense()


def test_the_list_of_gauge_dependent_rules_names_rules_and_reasons():
    """Whoever adds a rule decides; nothing stays on the list that is not there."""
    assert set(GAUGE_DEPENDENT) < set(AGGREGATORS)
    assert all(len(reason.split()) > 5 for reason in GAUGE_DEPENDENT.values())
    assert all(name in GAUGE_DEPENDENT for name, kind in AGGREGATORS.items() if isinstance(kind(), Coordinatewise))


@pytest.mark.parametrize("name", FREE)
@settings(max_examples=25)
@given(seed=SEEDS)
def test_no_gauge_changes_what_a_rule_on_products_makes(name: str, seed: int):
    """T2 as a property: every client turns what it trained, and its start, each by an M of its own."""
    rng = np.random.default_rng(seed)
    round_ = round_for(name, rng)
    both = replace(round_, updates=[turned(rng, update, start=True) for update in round_.updates])
    trained = replace(round_, updates=[turned(rng, update, start=False) for update in round_.updates])

    plain = combined(name, round_)

    np.testing.assert_allclose(combined(name, both), plain, rtol=0, atol=1e-10)
    np.testing.assert_allclose(combined(name, trained), plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", sorted(GAUGE_DEPENDENT))
@settings(max_examples=10)
@given(seed=SEEDS)
def test_rules_that_a_gauge_changes_refuse_a_round_of_different_bases(name: str, seed: int):
    """Every client in a basis of its own: refused with the reason, never combined."""
    rng = np.random.default_rng(seed)
    round_ = round_for(name, rng)
    others = replace(round_, updates=[turned(rng, update, start=True) for update in round_.updates])

    with pytest.raises(BadUpdate, match="bases"):
        combined(name, others)


@pytest.mark.parametrize("name", FACTORS)
def test_rules_on_factors_do_change_with_a_gauge(name: str):
    """What the list says is true, and is why it is there: the same matrices, another master."""
    rng = np.random.default_rng(8)
    round_ = round_for(name, rng)
    others = replace(round_, updates=[turned(rng, update, start=False) for update in round_.updates])

    assert relative(combined(name, others), combined(name, round_)) > 0.01


@pytest.mark.parametrize("name", LINEAR)
def test_one_gauge_for_all_is_one_basis_for_all(name: str):
    """Linear sums are those of the products, so they are the same; picked entries are others."""
    rng = np.random.default_rng(9)
    round_ = round_for(name, rng)
    mix = rng.normal(size=(4, 4))

    def gauged(term: LowRank) -> LowRank:
        return LowRank(term.b @ mix, np.linalg.inv(mix) @ term.a, term.scale)

    updates = [
        replace(u, trained={"w": gauged(u.trained["w"])}, start={"w": gauged(u.start["w"])}) for u in round_.updates
    ]
    others = Round(updates, gauged(round_.before), round_.rounds, round_.f)

    apart = relative(combined(name, others), combined(name, round_))

    assert (apart > 0.01) if isinstance(AGGREGATORS[name](), Coordinatewise) else (apart <= 1e-12)


@settings(max_examples=25)
@given(seed=SEEDS)
def test_fedrot_undoes_every_orthogonal_gauge(seed: int):
    """Rotations and reflections of what was trained, which a determinant of +1 would not undo."""
    rng = np.random.default_rng(seed)
    round_ = round_for("fedrot", rng)
    updates = []
    for update in round_.updates:
        term = update.trained["w"]
        turn = np.linalg.qr(rng.normal(size=(term.rank, term.rank)))[0]
        updates.append(replace(update, trained={"w": LowRank(term.b @ turn, turn.T @ term.a, term.scale)}))

    assert relative(combined("fedrot", replace(round_, updates=updates)), combined("fedrot", round_)) <= 1e-10
