"""Lengths, distances and angles from inner products, beside those of the vectors themselves."""

import numpy as np
import pytest

from potluck.aggregation.weights.distances import (
    about,
    centre,
    cosines,
    distances_from,
    norms,
    squared_distances,
    typical_norm,
)

ROWS = np.random.default_rng(0).normal(size=(7, 5)) + np.array([3, 0, 0, 0, 0])
GRAM = ROWS @ ROWS.T


def test_inner_products_hold_the_lengths_and_distances():
    pairs = np.array([[np.sum((a - b) ** 2) for b in ROWS] for a in ROWS])
    mixture = np.array([0.5, 0.2, -0.1, 0.0, 0.3, 0.0, 1.0])

    assert norms(GRAM) == pytest.approx(np.linalg.norm(ROWS, axis=1))
    assert squared_distances(GRAM) == pytest.approx(pairs)
    assert distances_from(GRAM, mixture) == pytest.approx(np.linalg.norm(ROWS - mixture @ ROWS, axis=1))
    assert about(GRAM, 2) == pytest.approx((ROWS - ROWS[2]) @ (ROWS - ROWS[2]).T, abs=1e-12)


def test_rounding_makes_no_square_negative():
    """Copies at 10⁸: the squares cancel to noise of either sign, and roots of that are NaN."""
    rows = 1e8 * np.random.default_rng(1).normal(size=(1, 9)) * np.ones((6, 1)) * (1 + 1e-15 * np.arange(6))[:, None]
    gram = rows @ rows.T
    noise = np.diag(gram)[:, None] + np.diag(gram)[None, :] - 2 * gram
    assert (noise < 0).any()

    assert (squared_distances(gram) >= 0).all()
    assert (np.diag(squared_distances(gram)) == 0).all()
    assert np.isfinite(distances_from(gram, np.full(6, 1 / 6))).all()
    assert np.isfinite(norms(-gram)).all()


def test_the_centre_is_the_vector_with_the_nearest_half():
    rows = np.array([[0.0], [10], [11], [12.5], [13], [1e6], [-1e6]])

    assert centre(rows @ rows.T) == 2  # the fourth nearest is 2 away, itself counted; from 12.5 it is 2.5
    assert centre(np.zeros((4, 4))) == 0


def test_what_all_have_in_common_is_taken_out_about_a_vector_and_not_about_the_mean():
    """One client a million times as long: the honest keep twelve digits among themselves, about the mean four."""
    rows = np.random.default_rng(2).normal(size=(9, 30))
    rows[8] *= 1e6
    gram = rows @ rows.T
    honest = (rows - rows[centre(gram)])[:8]
    exact = honest @ honest.T

    centred = about(gram, centre(gram))[:8, :8]
    doubly = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    about_mean = doubly - doubly[centre(gram)][:, None] - doubly[centre(gram)] + doubly[centre(gram), centre(gram)]

    assert np.abs(centred - exact).max() < 1e-12
    assert np.abs(about_mean[:8, :8] - exact).max() > 1e-6


def test_a_round_always_has_a_scale():
    assert typical_norm(np.diag([1.0, 4.0, 9.0])) == 2.0
    assert typical_norm(np.diag([0.0, 0.0, 9.0])) == 3.0
    assert typical_norm(np.zeros((3, 3))) == 1.0


def test_cosines_are_within_one_and_zero_for_nothing():
    rows = np.array([[3.0, 4.0], [6.0, 8.0], [-3.0, -4.0], [4.0, -3.0], [0.0, 0.0]])
    pairs = cosines(1.0000001 * rows @ rows.T)

    assert pairs[0] == pytest.approx([1, 1, -1, 0, 0])
    assert pairs[4].tolist() == [0, 0, 0, 0, 0]
    gram = np.array([[1.0, 1.1], [1.1, 1.0]])  # what a poor estimate looks like
    assert cosines(gram).max() == 1.0
    assert cosines(-gram + 2 * np.eye(2)).min() == -1.0
