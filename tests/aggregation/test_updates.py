"""The innovation of an update: exact for any rank and scale, and exact for the smallest step."""

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import low_rank, random_update, regauged
from potluck.aggregation import BadUpdate, LowRank, Update
from potluck.aggregation.updates import first_bad_value, same_factors


@given(
    seed=st.integers(0, 2**32 - 1),
    ranks=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    scales=st.tuples(st.sampled_from([2.0, 1.0, -0.3]), st.sampled_from([2.0, 1.0])),
)
def test_the_innovation_is_trained_minus_start(seed: int, ranks, scales):
    """Trained and start may differ in rank and scale, and either may be zero."""
    rng = np.random.default_rng(seed)
    trained, start = (low_rank(rng, (9, 6), r, s) for r, s in zip(ranks, scales, strict=True))

    delta = Update({"q": trained}, {"q": start}, 1).innovation()["q"]

    np.testing.assert_allclose(delta.dense(), trained.dense() - start.dense(), atol=1e-12)
    assert delta.rank <= sum(ranks) + abs(ranks[0] - ranks[1])


def test_an_innovation_by_hand():
    """3·(1, 2)ᵀ·(1, 0, 2) − (−2)·(0, 1)ᵀ·(5, 0, 0), and 3·((1, 2) − (0, 1))ᵀ·(…) where the scale is shared."""
    trained = LowRank(np.array([[1.0], [2]]), np.array([[1.0, 0, 2]]), 3.0)
    start = LowRank(np.array([[0.0], [1]]), np.array([[5.0, 0, 0]]), -2.0)
    same = LowRank(start.b, start.a, 3.0)

    apart, shared = (Update({"q": trained}, {"q": begun}, 1).innovation()["q"] for begun in (start, same))

    assert apart.dense().tolist() == [[3, 0, 6], [16, 0, 12]]
    assert shared.dense().tolist() == [[3, 0, 6], [-9, 0, 12]]
    assert (apart.scale, shared.scale) == (1.0, 3.0)


def test_an_update_may_be_of_nothing():
    """A client without examples says so; weights decide what that counts."""
    term = LowRank(np.ones((2, 1)), np.ones((1, 3)))

    assert (Update({"q": term}, {}, 0, 0, 0).steps, Update({"q": term}, {}, 0).steps) == (0, 1)
    assert Update({}, {}, 0).innovation() == {}


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-8, 1e-12])
def test_a_tiny_step_keeps_all_its_digits(step: float):
    """Subtracting the products would lose −log₁₀(step) digits: at 1e-8 nothing would be left of ‖Δ‖²."""
    rng = np.random.default_rng(1)
    b, a = rng.normal(size=(50, 4)), rng.normal(size=(4, 40))
    grown = b + step * rng.normal(size=b.shape)
    step_b = grown - b  # what was really added, after rounding

    delta = Update({"q": LowRank(grown, a, 3.0)}, {"q": LowRank(b, a, 3.0)}, 1).innovation()["q"]

    expected = 3.0 * np.linalg.norm(step_b @ a)
    assert abs(delta.norm() - expected) <= 1e-14 * expected
    np.testing.assert_allclose(delta.dense(), 3.0 * step_b @ a, rtol=0, atol=1e-14 * expected)


def test_a_frozen_factor_costs_no_columns():
    """With one factor trained the innovation has rank r, and with neither it is zero."""
    rng = np.random.default_rng(2)
    start = low_rank(rng, (8, 8), 3)
    only_b = LowRank(start.b + np.float32(1), start.a)

    assert Update({"q": only_b}, {"q": start}, 1).innovation()["q"].rank == 3
    assert Update({"q": start}, {"q": start}, 1).innovation()["q"].rank == 0
    assert Update({"q": start}, {}, 1).innovation()["q"].rank == 3


@given(st.integers(0, 2**32 - 1))
def test_no_gauge_changes_the_innovation(seed: int):
    """Trained and start are matrices; which factors say so is the client's affair."""
    rng = np.random.default_rng(seed)
    update = random_update(rng)
    turned = Update(
        {name: regauged(rng, term) for name, term in update.trained.items()},
        {name: regauged(rng, term) for name, term in update.start.items()},
        update.examples,
    )

    for name, delta in update.innovation().items():
        np.testing.assert_allclose(turned.innovation()[name].dense(), delta.dense(), atol=1e-10)


def test_the_digest_is_of_the_contents():
    """Equal contents in another memory order have one digest; any change has another."""
    rng = np.random.default_rng(3)
    update = random_update(rng)
    fortran = {n: LowRank(np.asfortranarray(t.b), np.asfortranarray(t.a), t.scale) for n, t in update.trained.items()}
    same = Update(fortran, update.start, update.examples, update.steps, update.staleness)
    others = [
        Update(update.trained, update.start, update.examples + 1, update.steps, update.staleness),
        Update(update.start, update.trained, update.examples, update.steps, update.staleness),
        Update({n: t.times(2) for n, t in update.trained.items()}, update.start, update.examples),
    ]

    assert same.digest() == update.digest()
    assert len({one.digest() for one in (update, *others)}) == 4


def test_a_digest_can_be_redone_with_any_sha256():
    """The order of reading and the seeds of sketches follow from it, so that others can check a round."""
    b, a = np.array([[1.0], [2]]), np.array([[3.0, 4, 5]], np.float32)
    facts = repr(("q", 2.0, (2, 3), 1, "<f8", "<f4")).encode() + b.tobytes() + a.tobytes()
    update = Update({"q": LowRank(b, a, 2.0)}, {"q": LowRank(b, a, 2.0)}, 5, 2, 1)
    known = Update(update.trained, {}, 5, 2, 1, key=b"key")

    assert update.digest() == hashlib.sha256(b"(5, 2, 1)" + facts + b"|" + facts + b"|").digest()
    assert known.digest() == hashlib.sha256(b"(5, 2, 1)key").digest()


def test_starts_are_one_if_their_factors_are_entry_by_entry():
    """Not if their products are: entries of factors in two bases must not be added.  Two of rank 0 are always one."""
    term = LowRank(np.array([[1.0], [2]]), np.array([[3.0, 4, 5]]), 2.0)
    none = LowRank(np.zeros((2, 0)), np.zeros((0, 3)), 2.0)

    assert same_factors(term, term)
    assert same_factors(term, LowRank(term.b.copy(), term.a.copy(), 2.0))
    assert not same_factors(term, LowRank(term.b.copy(), term.a.copy(), 3.0))
    assert not same_factors(term, LowRank(term.b.copy(), -term.a, 2.0))
    assert not same_factors(term, LowRank(-term.b, term.a.copy(), 2.0))
    assert same_factors(none, LowRank(none.b.copy(), none.a.copy(), 3.0))
    assert not same_factors(none, term)
    assert not same_factors(term, none)


def test_a_bad_value_is_named_by_its_factor_and_place():
    """As PEFT names the factors."""
    good = LowRank(np.ones((3, 2)), np.ones((2, 4)))
    b, a = good.b.copy(), good.a.copy()
    b[2, 1], a[1, 3] = np.nan, -np.inf

    assert first_bad_value(good) == ""
    assert first_bad_value(LowRank(b, good.a)) == "lora_B[2, 1]"
    assert first_bad_value(LowRank(good.b, a)) == "lora_A[1, 3]"
    assert first_bad_value(LowRank(b, a)) == "lora_B[2, 1]"


def test_an_update_survives_the_trip_between_processes():
    """Simulations send updates between workers."""
    update = random_update(np.random.default_rng(4))

    assert pickle.loads(pickle.dumps(update)).digest() == update.digest()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda t: Update({"q": t}, {}, -1), "-1 examples"),
        (lambda t: Update({"q": t}, {}, 1, steps=-2), "-2 steps"),
        (lambda t: Update({"q": t}, {}, 1, staleness=-3), "staleness -3"),
        (lambda t: Update({}, {"q": t}, 1), "such as q"),
        (
            lambda t: Update({"q": t}, {"q": LowRank(t.a.T, t.b.T)}, 1).innovation(),
            r"started as \(4, 3\) and trained as \(3, 4\)",
        ),
    ],
)
def test_an_impossible_update_is_refused(make, says):
    """A transposed module is the likely mistake."""
    with pytest.raises(BadUpdate, match=says):
        make(LowRank(np.ones((3, 2)), np.ones((2, 4))))


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ([3e38, 3e38, -1.0], ""),
        ([1.0, np.inf, -np.inf], "[1, 0]"),
        ([1.0, 2.0, -np.inf], "[2, 0]"),
        ([np.nan, np.inf, 2.0], "[0, 0]"),
    ],
)
def test_the_first_value_that_is_not_finite_is_found_without_a_warning(values: list[float], place: str):
    """A sum that overflows says nothing about its terms."""
    column, row = np.array(values, np.float32)[:, None], np.ones((1, 3), np.float32)

    assert first_bad_value(LowRank(column, row)) == (place and f"lora_B{place}")
    turned = place and f"lora_A[0, {place[1]}]"
    assert first_bad_value(LowRank(row.T, column.T)) == turned
