"""Rules: known answers, equality with dense arithmetic, what no training does, and in which order does not matter."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import parsed_term, parsed_update
from dense_rules import expected
from potluck.aggregation import AGGREGATORS, LowRank, Pipeline, State, Update, aggregate
from potluck.aggregation.rules.base import Coordinatewise, Module, Part
from rounds import COLUMNS, SHAPE, leading, random_master, relative, round_for

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_rules.json").read_text("utf-8"))
SEEDS = st.integers(0, 2**32 - 1)
FOLDING = sorted(name for name, kind in AGGREGATORS.items() if not isinstance(kind(), Coordinatewise))
KEEPING = sorted({*AGGREGATORS} - {"flexlora", "hetlora", "florist"})
"""Rules that leave the master alone when nobody learns anything."""


@pytest.mark.parametrize("case", VECTORS["rules"], ids=lambda case: case["name"])
def test_known_answers_of_rules(case):
    """One round of one module by exact fractions, and the public factor that linear rules leave in place."""
    before = {"w": parsed_term(case["before"])} if "before" in case else {}
    pipeline = Pipeline(rule=case["rule"], f=case.get("f", 0), settings=case.get("settings", {}))
    updates = [parsed_update(table) for table in case["updates"]]

    after = aggregate(updates, before, pipeline, State(rounds=case.get("rounds", 0))).master["w"]

    np.testing.assert_allclose(after.dense(), case["after"], atol=1e-12)
    for side, kept in case.get("keeps", {}).items():
        rows, public = (after.a, np.array(kept)) if side == "a" else (after.b.T, np.array(kept).T)
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(public, axis=1)
        np.testing.assert_allclose(np.abs(np.sum(rows * public, axis=1)), lengths, rtol=1e-12)


def test_every_rule_has_a_known_answer():
    """A new rule adds a vector; bulyan needs more updates than fit on a page, and has its own."""
    published = {case["rule"] for section in ("rules", "coordinates") for case in VECTORS[section]}

    assert published == set(AGGREGATORS)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@settings(max_examples=15)
@given(seed=SEEDS)
def test_every_rule_is_its_dense_equation(name: str, seed: int):
    """Against the equation in NumPy on whole matrices, written for the test alone."""
    round_ = round_for(name, np.random.default_rng(seed))
    pipeline = Pipeline(rule=name, f=round_.f, rank=64)

    after = aggregate(round_.updates, {"w": round_.before}, pipeline, State(rounds=round_.rounds)).master["w"]

    assert relative(after.dense(), round_.before.dense() + expected(name, round_)) <= 1e-12


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@settings(max_examples=5)
@given(seed=SEEDS)
def test_no_rule_sees_the_order_of_its_updates(name: str, seed: int):
    """To the last bit, with one update that is there twice."""
    rng = np.random.default_rng(seed)
    round_ = round_for(name, rng)
    updates = [*round_.updates, round_.updates[0]]
    pipeline = Pipeline(rule=name, f=round_.f, rank=5)

    first, second = (
        aggregate([updates[i] for i in order], {"w": round_.before}, pipeline, State(rounds=round_.rounds)).master["w"]
        for order in (range(len(updates)), rng.permutation(len(updates)))
    )

    assert (first.b.tobytes(), first.a.tobytes()) == (second.b.tobytes(), second.a.tobytes())


@pytest.mark.parametrize("name", KEEPING)
def test_fifty_rounds_in_which_nobody_learns_leave_the_master(name: str):
    """Clients of rank 1, 2 and 3 where the rule takes several ranks; what nobody is sent stays as well."""
    before = random_master(np.random.default_rng(3), 4)
    master, state = {"w": before}, State()
    ranks = (1, 2, 3) if name in COLUMNS | {"mean", "flora", "fedsb"} else (3, 3, 3)

    for _ in range(50):
        starts = [leading(master["w"], rank) for rank in ranks * 3]
        updates = [Update({"w": start}, {"w": start}, 1 + i) for i, start in enumerate(starts)]
        master, state, _ = aggregate(updates, master, Pipeline(rule=name, rank=8, f=1), state)

    assert relative(master["w"].dense(), before.dense()) <= 1e-12


def test_replacing_rules_wear_the_master_out():
    """T4: rank 32, σ from 2 to 1, clients of rank 4, 8, 16 and 32, no training at all."""
    expected = {
        "flexlora": {1: 0.629, 2: 0.528, 5: 0.463, 20: 0.451},
        "florist": {1: 0.629},
        "raflora": {1: 1.0, 20: 1.0},
        "mean": {1: 1.0, 20: 1.0},
    }

    for name, norms in expected.items():
        sizes, energy = worn(name, max(norms), settings={"energy": 1.0} if name == "florist" else {})
        assert {t: round(sizes[t], 3) for t in norms} == norms
        if name == "flexlora":
            assert [round(energy[t], 4) for t in (0, 1)] == [0.2036, 0.5149]
            assert [round(energy[t], 3) for t in (2, 20)] == [0.730, 1.000]


def test_hetlora_wears_the_master_out_twice_over():
    """T4 with both factors padded: a column's share is squared, and norms favour large clients a little."""
    sizes, energy = worn("hetlora", 20)
    norms = np.array([np.linalg.norm(np.linspace(2, 1, 32)[:rank]) for rank in (4, 8, 16, 32)])
    shares = norms / norms.sum()
    kept = np.repeat([shares[i:].sum() for i in range(4)], [4, 4, 8, 16])
    first = np.linalg.norm(np.linspace(2, 1, 32) * kept**2) / norms[3]

    assert sizes[1] == pytest.approx(first, rel=1e-12)
    assert (round(sizes[1], 3), round(sizes[20], 3)) == (0.586, 0.451)
    assert energy[20] == pytest.approx(1, abs=1e-3)


def worn(name: str, rounds: int, settings=None):
    """Return ‖G_t‖ / ‖G₀‖ and the share of its four leading directions for t = 0 … *rounds*."""
    rng = np.random.default_rng(4)
    u, v = (np.linalg.qr(rng.normal(size=(size, 32)))[0] for size in (48, 40))
    root = np.sqrt(np.linspace(2, 1, 32))
    master, state = {"w": LowRank(u * root, root[:, None] * v.T)}, State()
    whole = master["w"].norm()
    sizes, energy = [], []
    for _ in range(rounds + 1):
        sigma = np.linalg.norm(master["w"].b, axis=0) * np.linalg.norm(master["w"].a, axis=1)
        sizes.append(float(np.linalg.norm(sigma) / whole))
        energy.append(float(np.sum(sigma[:4] ** 2) / np.sum(sigma**2)))
        starts = [leading(master["w"], rank) for rank in (4, 8, 16, 32)]
        updates = [Update({"w": start}, {"w": start}, 1) for start in starts]
        master, state, _ = aggregate(updates, master, Pipeline(rule=name, rank=32, settings=settings or {}), state)
    return sizes, energy


@pytest.mark.parametrize("name", sorted({*FOLDING} - {"fedit", "fedrot"}))
def test_a_fold_is_divided_by_the_rounds_total_and_not_by_its_own(name: str):
    """Weights that sum to half of the total are half a step: FedBuff and clipping rely on it.

    The means of factors go half of the way with each factor, which is not half of the product.
    """
    round_ = round_for(name, np.random.default_rng(5))

    whole, half = (folded(name, round_, total) for total in (1.0, 2.0))

    np.testing.assert_allclose(half, whole / 2, atol=1e-13)
    assert np.linalg.norm(whole) > 0.01


@pytest.mark.parametrize("name", FOLDING)
def test_nothing_folded_is_nothing(name: str):
    """A fold that was fed nothing, as when every weight is zero, moves nothing."""
    module = Module("w", SHAPE, random_master(np.random.default_rng(6), 3))

    assert all(term.norm() == 0 for term in AGGREGATORS[name]().fold(module).combined(1.0))


@pytest.mark.parametrize("name", FOLDING)
def test_weights_need_not_sum_to_one(name: str):
    """Updates that are read once are weighed by examples, and divided by their sum when the fold is closed."""
    round_ = round_for(name, np.random.default_rng(7))

    np.testing.assert_allclose(folded(name, round_, 3.0, weight=3.0), folded(name, round_, 1.0), atol=1e-13)


def folded(name: str, round_, total: float, weight: float = 1.0):
    """Return the dense innovation of one fold whose weights sum to *weight*."""
    shares = list(weight * round_.shares)
    ranks = tuple(update.trained["w"].rank for update in round_.updates)
    module = Module("w", SHAPE, round_.before, round_.rounds, ranks, tuple(shares), rank=64)
    fold = AGGREGATORS[name]().fold(module)
    for update, share in zip(round_.updates, shares, strict=True):
        fold.add(Part(share, *update.part_of("w")))
    return sum((term.dense() for term in fold.combined(total)), np.zeros(SHAPE))
