"""Attacks do what their papers say, in the products that a rule looks at."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import SHAPES, low_rank, trained_from
from potluck.aggregation import BadSetting, BadUpdate, LowRank, Update, aggregate, gram
from potluck.simulations.attacks import (
    ATTACKS,
    ALittle,
    Copied,
    Gaussian,
    InnerProduct,
    MinMax,
    NotANumber,
    Scaling,
    SignFlip,
)
from potluck.simulations.hostile import combination, entrywise, largest_gamma

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "attacks.json").read_text("utf-8"))
FINITE = sorted(set(ATTACKS) - {"nan"})
COMMON = sorted(set(FINITE) - {"copied"})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def honest_updates(rng: np.random.Generator, n: int = 5, trains: str = "both", dtype: str = "f8") -> list[Update]:
    """Return n updates from one random start."""
    start = {name: low_rank(rng, shape, 3, 2.0) for name, shape in SHAPES.items()}
    updates = []
    for i in range(n):
        trained = {}
        for name, term in start.items():
            moved = trained_from(rng, term)
            b, a = (moved.b if trains != "a" else term.b), (moved.a if trains != "b" else term.a)
            trained[name] = LowRank(b.astype(dtype), a.astype(dtype), term.scale)
        updates.append(Update(trained, start, examples=10 + i))
    return updates


def row_update(row: list[float]) -> Update:
    """Return the update that a row of the vectors stands for."""
    eye = np.eye(2)
    return Update({"w": LowRank(np.array(row, float).reshape(2, 2), eye)}, {"w": LowRank(np.zeros((2, 2)), eye)}, 1)


def dense(update: Update) -> np.ndarray:
    """Return the innovation of all modules as one long vector."""
    return np.concatenate([term.dense().ravel() for _, term in sorted(update.innovation().items())])


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"{case['attack']}-{case['settings']}")
def test_an_attack_sends_what_the_vectors_say(case: dict[str, Any], rng: np.random.Generator):
    attack = ATTACKS[case["attack"]](**case["settings"])

    hostile = attack([row_update(row) for row in VECTORS["honest"]], len(case["expected"]), rng)

    rows = [dense(update) for update in hostile]
    np.testing.assert_allclose(rows, case["expected"], rtol=0, atol=VECTORS["tolerance"])


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_updates_are_sent_as_there_are_hostile_clients(name: str, count: int, rng: np.random.Generator):
    honest = honest_updates(rng)

    hostile = ATTACKS[name]()(honest, count, rng)

    assert len(hostile) == count
    assert all(update.examples == 14 or name == "copied" for update in hostile)  # the largest honest claim


@pytest.mark.parametrize("trains", ["both", "b", "a"])
@pytest.mark.parametrize(
    ("attack", "factor"), [(SignFlip(), -1.0), (InnerProduct(tau=0.3), -0.3), (InnerProduct(tau=7.0), -7.0)]
)
def test_a_linear_attack_is_exact_in_the_products(
    attack: Callable[..., list[Update]], factor: float, trains: str, rng: np.random.Generator
):
    honest = honest_updates(rng, trains=trains)

    (sent,) = attack(honest, 1, rng)

    np.testing.assert_allclose(dense(sent), factor * np.mean([dense(u) for u in honest], axis=0), rtol=0, atol=1e-12)


def test_scaling_multiplies_an_honest_innovation_and_loses_no_digit(rng: np.random.Generator):
    honest = honest_updates(rng)

    first, second = Scaling(factor=100.0)(honest, 2, rng)

    np.testing.assert_allclose(dense(first), 100 * dense(honest[0]), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(dense(second), 100 * dense(honest[1]), rtol=1e-13, atol=1e-13)


def test_a_combination_has_any_weights(rng: np.random.Generator):
    honest = honest_updates(rng, 3)

    sent = combination(honest, np.array([1.0, -2.0, 0.0]))

    np.testing.assert_allclose(dense(sent), dense(honest[0]) - 2 * dense(honest[1]), rtol=0, atol=1e-12)
    assert {term.rank for term in sent.trained.values()} == {3 + 3 + 2 * 3}


@pytest.mark.parametrize("trains", ["b", "a"])
@pytest.mark.parametrize("name", FINITE)
def test_no_attack_touches_a_public_factor_or_the_rank(name: str, trains: str, rng: np.random.Generator):
    """A rule that looks at coordinates refuses whoever does, and an intake refuses another rank."""
    honest = honest_updates(rng, trains=trains, dtype="f4")
    public = "a" if trains == "b" else "b"

    for update in ATTACKS[name]()(honest, 2, rng):
        for module, term in update.trained.items():
            start = update.start[module]
            np.testing.assert_array_equal(getattr(term, public), getattr(start, public))
            assert (term.rank, term.scale, term.b.dtype, term.a.dtype) == (3, 2.0, np.float32, np.float32)


def test_alie_moves_every_entry_of_both_factors_by_its_own_deviation(rng: np.random.Generator):
    honest = honest_updates(rng)

    (sent,) = ALittle(z=0.7)(honest, 1, rng)

    for module, term in sent.trained.items():
        for side in ("b", "a"):
            each = np.stack([getattr(update.trained[module], side) for update in honest])
            expected = each.mean(axis=0) + 0.7 * each.std(axis=0, ddof=1)
            np.testing.assert_allclose(getattr(term, side), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("trains", ["both", "b"])
def test_min_max_is_exactly_as_far_out_as_the_honest_are_apart(trains: str, rng: np.random.Generator):
    honest = honest_updates(rng, n=6, trains=trains)
    each = np.array([dense(update) for update in honest])
    widest = max(np.linalg.norm(one - other) for one in each for other in each)

    (sent,) = MinMax()(honest, 1, rng)

    assert max(np.linalg.norm(dense(sent) - one) for one in each) == pytest.approx(widest, rel=1e-9)
    assert largest_gamma(honest) > 0.1
    further = entrywise(honest, lambda m: m.mean(axis=0) - 1.01 * largest_gamma(honest) * m.std(axis=0, ddof=1))
    assert max(np.linalg.norm(dense(further) - one) for one in each) > widest


def test_min_max_of_equal_updates_is_that_update(rng: np.random.Generator):
    honest = honest_updates(rng, 1) * 4

    (sent,) = MinMax()(honest, 1, rng)

    np.testing.assert_allclose(dense(sent), dense(honest[0]), rtol=0, atol=1e-7)


def test_gaussian_moves_entries_by_its_deviation_and_every_client_by_another_draw():
    rng = np.random.default_rng(0)
    start = {"w": low_rank(rng, (200, 150), 8)}
    honest = [Update({"w": trained_from(rng, start["w"])}, start, examples=1) for _ in range(3)]

    first, second = Gaussian(std=0.5)(honest, 2, rng)

    moved = np.concatenate(
        [(first.trained["w"].b - start["w"].b).ravel(), (first.trained["w"].a - start["w"].a).ravel()]
    )
    assert moved.std() == pytest.approx(0.5, rel=0.05)
    assert moved.mean() == pytest.approx(0.0, abs=0.05)
    assert not np.array_equal(first.trained["w"].b, second.trained["w"].b)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_function_of_its_generator(name: str, rng: np.random.Generator):
    honest = honest_updates(rng)

    once, again = (ATTACKS[name]()(honest, 2, np.random.default_rng(3)) for _ in range(2))

    assert [update.digest() for update in once] == [update.digest() for update in again]


def test_a_copy_is_the_honest_update_farthest_from_the_mean_bit_for_bit(rng: np.random.Generator):
    honest = honest_updates(rng)
    each = np.array([dense(update) for update in honest])
    outlier = int(np.argmax(np.linalg.norm(each - each.mean(axis=0), axis=1)))

    sent = Copied()(honest, 2, rng)

    assert [update.digest() for update in sent] == [honest[outlier].digest()] * 2
    assert np.ptp(gram([honest[outlier].innovation(), *(update.innovation() for update in sent)])) < 1e-12


def test_a_nan_has_the_honest_shape_and_is_refused(rng: np.random.Generator):
    honest = honest_updates(rng)

    (sent,) = NotANumber()(honest, 1, rng)

    assert {name: term.shape for name, term in sent.trained.items()} == SHAPES
    assert all(np.isnan(term.b).all() and np.isnan(term.a).all() for term in sent.trained.values())
    with pytest.raises(BadUpdate, match="NaN"):
        aggregate([*honest, sent], {})


@pytest.mark.parametrize("name", COMMON)
def test_an_attack_refuses_updates_from_different_starts(name: str, rng: np.random.Generator):
    honest = [*honest_updates(rng, 2), *honest_updates(rng, 2)]

    with pytest.raises(BadUpdate, match="4 honest updates of ranks"):
        ATTACKS[name]()(honest, 1, rng)


@pytest.mark.parametrize("name", COMMON)
def test_an_attack_refuses_other_ranks_than_the_start(name: str, rng: np.random.Generator):
    start = {"w": low_rank(rng, (6, 5), 2)}
    honest = [Update({"w": low_rank(rng, (6, 5), rank)}, start, 1) for rank in (2, 3)]

    with pytest.raises(BadUpdate, match=r"ranks \[2, 3\]"):
        ATTACKS[name]()(honest, 1, rng)


def test_a_module_without_a_start_began_at_zero(rng: np.random.Generator):
    honest = [Update({"w": low_rank(rng, (6, 5), 2, 3.0)}, {}, 1) for _ in range(4)]

    (flipped,) = SignFlip()(honest, 1, rng)
    (little,) = ALittle(z=1.0)(honest, 1, rng)

    np.testing.assert_allclose(dense(flipped), -np.mean([dense(u) for u in honest], axis=0), rtol=0, atol=1e-12)
    b, a = (np.stack([getattr(u.trained["w"], side).astype(float) for u in honest]) for side in ("b", "a"))
    expected = 3.0 * (b.mean(0) + b.std(0, ddof=1)) @ (a.mean(0) + a.std(0, ddof=1))
    np.testing.assert_allclose(dense(little), expected.ravel(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fewest"), [("sign_flip", 1), ("alie", 2), ("min_max", 2), ("scaling", 1), ("copied", 1), ("nan", 1)]
)
def test_too_few_honest_updates_are_refused(name: str, fewest: int, rng: np.random.Generator):
    honest = honest_updates(rng)

    assert len(ATTACKS[name]()(honest[:fewest], 1, rng)) == 1
    with pytest.raises(BadUpdate, match=f"got {fewest - 1} honest updates and needs {fewest}"):
        ATTACKS[name]()(honest[: fewest - 1], 1, rng)


@pytest.mark.parametrize(
    ("name", "setting"), [("ipm", "tau"), ("alie", "z"), ("scaling", "factor"), ("gaussian", "std")]
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_is_positive_and_finite(name: str, setting: str, value: float):
    with pytest.raises(BadSetting, match=f"{name} has {setting}"):
        ATTACKS[name](**{setting: value})
