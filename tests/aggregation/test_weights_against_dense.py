"""Every weight step, over the inner products of random rounds, against its paper's equations on the plain vectors."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dense_weights as dense
from ballots import ballot_of, cast, facts

SEEDS = st.integers(0, 2**32 - 1)


def round_of(seed: int, n: int, *, f: int = 0):
    """Return *n* rows about a common direction, f of them far away, their weights, and a generator."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 16)) + 0.7 * rng.normal(size=16)
    rows[:f] *= rng.uniform(-8, 8, (f, 1))
    weights = rng.uniform(1, 1.2, n)
    return rows, weights / weights.sum(), rng


def result(rows, weights, names, f=0, **options):
    """Return what comes out of the steps called *names*."""
    known = facts(len(rows), f=f, steps=options.pop("taken", None))
    reference = options.pop("reference", None)
    ballot = cast(ballot_of(rows, known, weights=weights, reference=reference), names, options)
    return ballot.coefficients @ rows


def same(actual, expected, tolerance=1e-9):
    assert actual == pytest.approx(expected, abs=tolerance, rel=tolerance)


@given(SEEDS, st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 2]))
def test_krum_is_the_papers(seed: int, f: int, more: int, margin: int):
    rows, weights, _ = round_of(seed, 2 * f + 3 + more, f=f)

    same(result(rows, weights, ["krum"], f, krum_margin=margin), dense.krum(rows, f, margin))


@given(SEEDS, st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 2]))
def test_multikrum_is_the_papers(seed: int, f: int, more: int, margin: int):
    rows, weights, _ = round_of(seed, 2 * f + 3 + more, f=f)

    same(result(rows, weights, ["multikrum"], f, krum_margin=margin), dense.multikrum(rows, weights, f, margin))
    same(result(rows, weights, ["multikrum"], f, krum_keep=2), dense.multikrum(rows, weights, f, keep=2))


@given(SEEDS, st.integers(0, 2), st.integers(0, 3), st.sampled_from([1, 2]))
def test_the_selection_of_bulyan_is_krum_again_and_again(seed: int, f: int, more: int, margin: int):
    rows, weights, _ = round_of(seed, 4 * f + 3 + more, f=f)
    expected = dense.bulyan_selection(rows, weights, f, margin)

    same(result(rows, weights, ["bulyan_selection"], f, krum_margin=margin), expected)


@given(SEEDS, st.integers(0, 3), st.integers(0, 3))
def test_mda_is_the_subset_of_least_diameter(seed: int, f: int, more: int):
    rows, weights, _ = round_of(seed, 2 * f + 1 + more, f=f)

    same(result(rows, weights, ["mda"], f), dense.mda(rows, weights, f))


@given(SEEDS, st.integers(0, 3), st.integers(0, 3))
def test_mixing_is_the_mean_of_the_nearest(seed: int, f: int, more: int):
    rows, weights, _ = round_of(seed, 2 * f + 1 + more, f=f)
    ballot = cast(ballot_of(rows, facts(len(rows), f=f), weights=weights), ["nnm"])

    same(ballot.mix @ rows, dense.nnm(rows, f))
    assert np.array_equal(ballot.weights, weights / weights.sum())


@given(SEEDS, st.integers(0, 3), st.integers(0, 3))
def test_adaptive_clipping_is_the_papers(seed: int, f: int, more: int):
    rows, weights, _ = round_of(seed, 2 * f + 1 + more, f=f)
    ballot = cast(ballot_of(rows, facts(len(rows), f=f), weights=weights), ["arc"])

    same(ballot.mix @ rows, dense.arc(rows, f))


@given(SEEDS, st.integers(1, 8))
def test_the_norm_bound_is_the_median_norm(seed: int, n: int):
    rows, weights, _ = round_of(seed, n)
    bound = float(np.median(np.linalg.norm(rows, axis=1)))
    ballot = cast(ballot_of(rows, weights=weights), ["norm_bound"])

    same(ballot.mix @ rows, dense.clipped(rows, bound))
    same(ballot.coefficients @ rows, dense.weighted_mean(dense.clipped(rows, bound), weights))


@given(SEEDS, st.integers(2, 8), st.integers(1, 12), st.booleans(), st.sampled_from([None, 0.5, 3.0]))
def test_centered_clipping_is_the_papers(seed: int, n: int, iterations: int, from_mean: bool, radius: float | None):  # noqa: FBT001
    rows, weights, _ = round_of(seed, n)
    chosen = {"clip_iterations": iterations, "clip_from_mean": from_mean, "clip_radius": radius}
    expected = dense.centered_clip(rows, weights, iterations, radius, from_mean=from_mean)

    same(result(rows, weights, ["centered_clip"], **chosen), expected, 1e-9)


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 3), st.integers(0, 4))
def test_no_point_has_a_smaller_sum_of_distances_than_the_geometric_median(seed: int, f: int, more: int):
    rows, weights, rng = round_of(seed, 2 * f + 3 + more, f=f)

    def cost(point):
        return weights @ np.linalg.norm(rows - point, axis=1)

    found = result(rows, weights, ["geomedian"], f)

    same(found, dense.geomedian(rows, weights), 1e-5)
    assert cost(found) <= cost(dense.geomedian(rows, weights)) * (1 + 1e-9)
    assert all(cost(found) <= cost(found + 1e-3 * rng.normal(size=16)) for _ in range(20))


@given(SEEDS, st.integers(0, 3), st.integers(0, 3), st.sampled_from([(1.0, 1), (0.5, 2), (1.5, 1)]))
def test_dnc_drops_along_the_top_singular_vector(seed: int, f: int, more: int, how: tuple[float, int]):
    rows, weights, _ = round_of(seed, 3 * f + 3 + more, f=f)
    expected = dense.dnc(rows, weights, f, *how)

    same(result(rows, weights, ["dnc"], f, dnc_factor=how[0], dnc_rounds=how[1]), expected)


@settings(max_examples=40)
@given(SEEDS, st.integers(3, 9), st.sampled_from([-0.3, 0.0, 0.2]))
def test_the_cosine_filter_keeps_what_points_the_robust_way(seed: int, n: int, bound: float):
    rows, weights, _ = round_of(seed, n)

    same(result(rows, weights, ["cosine"], min_cosine=bound), dense.cosine(rows, weights, bound))


@given(SEEDS, st.integers(2, 9))
def test_fltrust_is_the_papers(seed: int, n: int):
    rows, weights, rng = round_of(seed, n)
    trusted = rows[0] + rng.normal(size=16)

    same(result(rows, weights, ["fltrust"], reference=trusted), dense.fltrust(rows, weights, trusted))


@given(SEEDS, st.integers(2, 9), st.integers(0, 2))
def test_foolsgold_is_its_authors_program(seed: int, n: int, copies: int):
    rows, weights, _ = round_of(seed, n + copies)
    rows[n:] = 1.7 * rows[0]

    same(result(rows, weights, ["foolsgold"]), dense.foolsgold(rows, weights))


@given(SEEDS, st.integers(1, 9))
def test_fednova_is_equation_nine(seed: int, n: int):
    rows, weights, rng = round_of(seed, n)
    taken = rng.integers(1, 50, n)

    same(result(rows, weights, ["fednova"], taken=taken), dense.fednova(rows, weights, taken))


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 2))
@example(213, 1).via("the median lies a thousandth beside a mixed vector")
@example(357, 2)
def test_a_chain_is_its_steps_one_after_another(seed: int, f: int):
    """Clip, mix, median: each sees what the one before it made, not the innovations."""
    rows, weights, _ = round_of(seed, 2 * f + 5, f=f)
    clipped = dense.clipped(rows, float(np.median(np.linalg.norm(rows, axis=1))))
    expected = dense.geomedian(dense.nnm(clipped, f), weights)

    same(result(rows, weights, ["norm_bound", "nnm", "geomedian"], f), expected, 1e-5)
