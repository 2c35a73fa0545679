"""Screening names what looks wrong and nobody else; the trust report says who counted less, and why."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballots import factored, facts
from potluck.aggregation import BadUpdate, gram
from potluck.aggregation.screening import CHECKS, Bounds, others_cosines, screen
from potluck.aggregation.sketch import ProductSketch, gram_of_sketches
from potluck.aggregation.weights.median import geometric_median

SEEDS = st.integers(0, 2**32 - 1)


def honest(rng: np.random.Generator, n: int, *, shared: float = 1.0, spread: float = 0.4, p: int = 400):
    """Return n rows: *shared* parts in common, one of each client's own, and norms that differ by *spread*."""
    common, own = rng.normal(size=p), rng.normal(size=(n, p))
    return (shared * common + own) * np.exp(rng.normal(size=(n, 1)) * spread)


def found(rows, check=None, **how):
    """Return the places that screening names, of one check or of any."""
    findings = screen(facts(len(rows)), rows @ rows.T, **how)
    return [finding.place for finding in findings if check in {None, finding.check}]


@settings(max_examples=200)
@given(SEEDS, st.integers(1, 24), st.sampled_from([0.0, 0.3, 1.0, 5.0, 50.0]), st.sampled_from([0.0, 0.4]))
def test_honest_clients_raise_no_alarm(seed: int, n: int, shared: float, spread: float):
    """From nothing in common to nearly parallel, with norms that differ by half or not at all."""
    rows = honest(np.random.default_rng(seed), n, shared=shared, spread=spread)

    assert screen(facts(n), rows @ rows.T) == ()


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([0.3, 1.0, 5.0]))
def test_honest_clients_raise_no_alarm_in_a_sketch_either(seed: int, shared: float):
    """The sketch of 64² numbers errs by a few per cent; that is no reason to call anyone a copy."""
    rows = honest(np.random.default_rng(seed), 20, shared=shared)

    assert screen(facts(20), sketched(rows, seed), error=0.03) == ()


def sketched(rows: np.ndarray, seed: int):
    """Return the Gram of the sketches of *rows*, as products of factors of a gauge each its own."""
    sketch = ProductSketch(len(rows), seed=seed)
    for place, row in enumerate(rows):
        for name, term in factored(row, place).items():
            left, right = sketch.maps(name, term.shape, np.dtype(np.float64))
            sketch.values[place] += left @ term.dense() @ right
    return gram_of_sketches(sketch.values)


@settings(max_examples=50)
@given(SEEDS, st.integers(5, 24), st.sampled_from([1.0, 1e3, 1e6]))
def test_a_client_far_longer_than_the_others_is_named(seed: int, n: int, factor: float):
    """T10: also among five, where a mean and a deviation never could: z ≤ (n − 1)/√n."""
    rows = honest(np.random.default_rng(seed), n, spread=0.2)
    rows[n // 2] *= factor

    assert found(rows, "norm") == ([n // 2] if factor > 1 else [])


def test_a_million_among_five_is_missed_by_deviations_from_the_mean():
    """T10: why the check is not the usual z-score."""
    norms = np.array([1.0, 1.1, 0.9, 1.05, 1e6])
    scores = np.abs(norms - norms.mean()) / norms.std(ddof=1)
    assert scores.max() <= 4 / np.sqrt(5) + 1e-12 < 3

    (finding,) = screen(facts(5), np.diag(norms**2))

    assert (finding.place, finding.check, finding.bound) == (4, "norm", 6.0)
    assert finding.measured == pytest.approx(np.log(1e6 / 1.05) / 0.25)
    assert finding.sentence == "is 9.52e+05 times as long as the median update"


def test_the_bound_on_norms_is_six_deviations_of_at_least_a_quarter():
    """Where the others differ more, it takes more: here the median distance of the logs is 1."""
    rest = [0.0, 0.0, 0.0, 0.0, 0.0]
    for last, named in ((1.499, []), (1.501, [5])):
        assert found(np.diag(np.exp([*rest, last])), "norm") == named

    wide = [-2.0, -1.0, 0.0, 1.0, 2.0, -1.0]  # the middle of seven is 0, the middle distance from it 1
    for last, named in ((6 / 0.6745 - 0.01, []), (6 / 0.6745 + 0.01, [6])):
        assert found(np.diag(np.exp([*wide, last])), "norm") == named


def test_a_sketch_widens_the_bound_on_norms_by_its_error():
    rows = np.diag(np.exp([0, 0, 0, 0, 0, 1.6]))

    assert found(rows, "norm", error=0.0) == [5]
    assert found(rows, "norm", error=0.02) == []


@settings(max_examples=50)
@given(SEEDS, st.integers(3, 24), st.sampled_from([1.0, 0.5, -1.0, 30.0]), st.booleans())
def test_copies_are_named_at_any_scale_and_sign(seed: int, n: int, factor: float, in_a_sketch: bool):  # noqa: FBT001
    """A client that sends another's update again, made longer or turned about, is named, and so is the other."""
    rows = honest(np.random.default_rng(seed), n)
    rows[n - 1] = factor * rows[0]
    products = sketched(rows, seed) if in_a_sketch else rows @ rows.T

    copies = [f for f in screen(facts(n), products, error=0.03 * in_a_sketch) if f.check == "duplicate"]

    assert [(f.place, f.others) for f in copies] == [(0, (n - 1,)), (n - 1, (0,))]
    assert copies[1].sentence == f"is {factor:.3g} times another update: one of them is a copy"
    assert copies[1].measured > copies[1].bound > 0.9998


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([0.0, 0.005]))
def test_a_copy_with_a_little_noise_is_one_still(seed: int, noise: float):
    """Half a per cent, which is what an int8 codec does to it."""
    rng = np.random.default_rng(seed)
    rows = honest(rng, 10)
    rows[7] = rows[2] + noise * np.linalg.norm(rows[2]) / 20 * rng.normal(size=400)

    assert found(rows, "duplicate") == [2, 7]


def test_copies_are_told_by_an_angle_of_a_ten_thousandth():
    """1 − |cos| of 10⁻⁴; where all are nearly parallel, a tenth of the median."""

    def with_pair(angle: float):
        rows = np.eye(6)
        rows[1] = [np.cos(angle), np.sin(angle), 0, 0, 0, 0]
        return rows

    for distance, named in ((1.01e-4, []), (0.99e-4, [0, 1])):
        assert found(with_pair(np.arccos(1 - distance)), "duplicate") == named
    for distance, named in ((1.07e-4, []), (1.05e-4, [0, 1])):
        assert found(with_pair(np.arccos(1 - distance)), "duplicate", error=0.03) == named

    near = np.ones((5, 5)) * 10
    near += np.eye(5)  # all pairs apart by the same few 10⁻³
    apart = 1 - near[0] @ near[1] / (near[0] @ near[0])
    assert 1e-3 < apart < 3e-3
    assert found(near, "duplicate", bounds=Bounds(copy_distance=1.0)) == []
    assert found(near, "duplicate", bounds=Bounds(copy_distance=1.0, copy_share=1.01)) == [0, 1, 2, 3, 4]


def test_where_all_are_nearly_parallel_a_copy_is_ten_times_nearer_than_usual():
    """Seven updates 10⁻³ apart and one more: near the first of them, by a share of that."""
    for share, named in ((0.103, []), (0.097, [0, 7])):
        rows = np.hstack([np.full((8, 1), np.sqrt(999)), np.eye(8)])
        turn = np.arccos(1 - share)  # in the plane of what is the first one's own
        rows[7, 1:] = 0
        rows[7, [1, 8]] = np.cos(turn), np.sin(turn)
        apart = 1 - rows @ rows.T / 1000
        assert (apart[0, 1], apart[0, 7]) == pytest.approx((1e-3, share * 1e-3))

        assert found(rows, "duplicate", bounds=Bounds(copy_distance=1.0)) == named
        beside_nothing = np.vstack([rows, np.zeros((30, 9))])  # zeros are nobody's usual distance
        assert found(beside_nothing, "duplicate", bounds=Bounds(copy_distance=1.0)) == named


def test_two_updates_are_enough_for_a_copy():
    assert found(np.array([[1.0, 2.0], [-2.0, -4.0]]), "duplicate") == [0, 1]
    assert found(np.array([[1.0, 2.0]]), "duplicate") == []
    assert found(np.array([[1.0, 2.0], [0.0, 0.0]]), "duplicate") == []


def test_three_copies_name_each_other():
    rows = honest(np.random.default_rng(0), 9)
    rows[4], rows[6] = 2 * rows[1], rows[1]

    copies = {f.place: f.others for f in screen(facts(9), rows @ rows.T) if f.check == "duplicate"}

    assert copies == {1: (4, 6), 4: (1, 6), 6: (1, 4)}


@settings(max_examples=50)
@given(SEEDS, st.integers(5, 24), st.sampled_from(["flip", "own", "ipm"]))
def test_updates_against_the_others_are_named(seed: int, n: int, attack: str):
    """Sign flip of the mean or of the own update, and a small inner-product attack: a fifth of the round."""
    rows = honest(np.random.default_rng(seed), n)
    hostile = n // 5
    mean = rows[hostile:].mean(axis=0)
    noise = 0.05 * np.random.default_rng(seed + 1).normal(size=(hostile, 400))  # not copies of each other
    rows[:hostile] = {"flip": -mean + noise, "own": -rows[:hostile], "ipm": -0.1 * mean + 0.1 * noise}[attack]

    assert found(rows, "cosine") == list(range(hostile))


@settings(max_examples=30)
@given(SEEDS, st.integers(2, 9))
def test_an_update_has_no_share_in_the_direction_it_is_held_against(seed: int, n: int):
    units = np.random.default_rng(seed).normal(size=(n, 5)) + 0.5
    units /= np.linalg.norm(units, axis=1)[:, None]
    shares = geometric_median(units @ units.T, np.ones(n)).coefficients

    for place, cosine in enumerate(others_cosines(units @ units.T)):
        others = np.delete(shares, place) @ np.delete(units, place, axis=0)
        if np.linalg.norm(others) > 1e-6:
            assert cosine == pytest.approx(units[place] @ others / np.linalg.norm(others), abs=1e-6)


def test_nobody_is_against_the_others_where_nobody_agrees():
    """Two clients that pull apart, or four: no side is the others."""
    assert found(np.array([[1.0, 0.1], [-1.0, 0.1]]), "cosine") == []
    assert found(np.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]]), "cosine") == []


def test_the_bound_on_cosines_is_a_quarter_and_four_deviations():
    def with_one(cosine: float):
        return np.array([[1.0, 0]] * 4 + [[cosine, np.sqrt(1 - cosine**2)]])

    for cosine, named in ((-0.249, []), (-0.251, [4])):
        assert found(with_one(cosine), "cosine") == named
    for cosine, named in ((-0.29, []), (-0.31, [4])):
        assert found(with_one(cosine), "cosine", error=0.05) == named
    (finding,) = [f for f in screen(facts(5), with_one(-0.6) @ with_one(-0.6).T) if f.check == "cosine"]
    assert (finding.measured, finding.bound) == pytest.approx((-0.6, -0.25), abs=1e-6)
    assert finding.sentence == "points against the others, at a cosine of -0.600"

    loose = Bounds(against=0.9)  # the median is 1 and the believed deviation 0.05, so the bound is 0.8
    for cosine, named in ((0.81, []), (0.79, [4])):
        assert found(with_one(cosine), "cosine", bounds=loose) == named
    assert found(np.vstack([with_one(0.79), np.zeros((9, 2))]), "cosine", bounds=loose) == [4]  # zeros do not vote
    for cosine, named in ((0.61, []), (0.59, [4])):
        assert found(with_one(cosine), "cosine", bounds=loose, error=0.05) == named


def test_free_riders_are_named():
    """Nothing sent, or a thousandth of what is usual: it is no training whatever it claims."""
    rows = honest(np.random.default_rng(1), 8, spread=0.0)
    usual = np.median(np.linalg.norm(rows, axis=1))
    rows[2] = 0
    rows[5] *= 0.0009 * usual / np.linalg.norm(rows[5])
    rows[6] *= 0.0012 * usual / np.linalg.norm(rows[6])

    findings = screen(facts(8, steps=[7] * 8), rows @ rows.T)

    assert [(f.place, f.check) for f in findings] == [(2, "zero"), (5, "zero")]
    assert findings[0].sentence == "states 1 examples and 7 steps and moved the adapter by 0"


def test_one_that_sends_nothing_does_not_hide_one_that_sends_too_much():
    rows = honest(np.random.default_rng(1), 8, spread=0.0)
    rows[2], rows[3] = 0, 100 * rows[3]

    assert [(f.place, f.check) for f in screen(facts(8), rows @ rows.T)] == [(2, "zero"), (3, "norm")]


def test_what_is_usual_is_what_those_who_moved_are_usually():
    """Three that sent nothing: half a thousandth of the others' norm is still next to nothing."""
    rows = np.diag([0.0, 0.0, 0.0, 1.0, 1.0, 0.0005])

    assert found(rows, "zero") == [0, 1, 2, 5]


def test_what_is_usual_among_pairs_is_not_how_far_one_is_from_itself():
    """Of three pairs, one 0.09 apart and two at right angles: a tenth of the middle one is 0.1."""
    turn = np.arccos(1 - 0.09)
    rows = np.array([[1.0, 0, 0], [np.cos(turn), np.sin(turn), 0], [0, 0, 1.0]])

    assert found(rows, "duplicate", bounds=Bounds(copy_distance=1.0)) == [0, 1]


def test_cosines_to_the_others_are_within_one():
    """Copies, and one that is turned about: rounding is no angle."""
    for n in range(2, 40):
        row = np.random.default_rng(n).normal(size=7)
        units = np.outer(np.append(np.ones(n), -1.0), row / np.linalg.norm(row))
        towards = others_cosines(units @ units.T)
        assert towards.min() >= -1.0
        assert towards.max() <= 1.0
        assert towards[:n] == pytest.approx(1.0)
        assert towards[n] == pytest.approx(-1.0)


def test_a_round_of_nothing_is_named_as_that():
    findings = screen(facts(3), np.zeros((3, 3)))

    assert [(f.place, f.check) for f in findings] == [(0, "zero"), (1, "zero"), (2, "zero")]
    assert [(f.measured, f.bound) for f in findings] == [(0.0, 0.0)] * 3


def test_screening_does_not_see_factors():
    rows = honest(np.random.default_rng(3), 8, p=16)
    rows[3] *= 1000
    rows[5] = rows[6]
    one, other = (gram([factored(row, i + turn) for i, row in enumerate(rows)]) for turn in (0, 50))

    first, second = screen(facts(8), one), screen(facts(8), other)

    assert [(f.place, f.check, f.others) for f in first] == [(f.place, f.check, f.others) for f in second]
    assert {f.place for f in first} == {3, 5, 6}


def test_what_is_not_finite_is_not_screened():
    products = np.eye(3)
    products[1, 1] = np.inf

    with pytest.raises(BadUpdate, match=r"^3 updates cannot be screened by .* \(3, 3\) of which 1 are not finite"):
        screen(facts(3), products)
    with pytest.raises(BadUpdate, match=r"^4 updates cannot"):
        screen(facts(4), np.eye(3))


def test_the_checks_are_those_that_findings_name():
    assert list(CHECKS) == ["zero", "norm", "duplicate", "cosine"]
