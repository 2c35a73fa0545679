"""Correlated noise: the known numbers, the sensitivity against brute force, and that it undoes itself."""

import itertools

import numpy as np
import pytest

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.private.banded import (
    Schedule,
    best_bands,
    coefficients,
    correlated,
    prefix_error,
    responses,
    sensitivity,
)


def square_root(rounds: int, bands: int) -> np.ndarray:
    """Return the lower-triangular banded Toeplitz matrix S."""
    c = np.zeros(rounds)
    c[: min(bands, rounds)] = coefficients(min(bands, rounds))
    return np.array([[c[i - j] if i >= j else 0.0 for j in range(rounds)] for i in range(rounds)])


def test_coefficients_are_those_of_the_square_root():
    assert coefficients(6) == pytest.approx([1, 0.5, 0.375, 0.3125, 0.2734375, 0.24609375])
    full = square_root(12, 12)
    assert full @ full == pytest.approx(np.tril(np.ones((12, 12))))


def test_an_impulse_is_taken_back_as_known():
    known = [1, -0.5, -0.125, -0.0625, 0.234375, -0.0546875]

    assert correlated(np.eye(6)[0][:, None], 4).ravel() == pytest.approx(known)
    assert responses(6, 4) == pytest.approx(known)


def test_correlated_noise_solves_s_v_is_w():
    draws = np.random.default_rng(3).standard_normal((20, 5))

    for bands in (1, 2, 7, 20):
        assert square_root(20, bands) @ correlated(draws, bands) == pytest.approx(draws)


@pytest.mark.parametrize(
    ("rounds", "separation", "participations", "bands", "known"),
    [(32, 8, 4, 4, 2.4399), (32, 8, 4, 8, 2.6217), (64, 16, 4, 16, 2.7885), (128, 32, 4, 32, 2.9441)],
)
def test_sensitivity_is_the_known_one(rounds: int, separation: int, participations: int, bands: int, known: float):
    assert sensitivity(Schedule(rounds, separation, participations), bands) == pytest.approx(known, abs=5e-5)


@pytest.mark.parametrize(("rounds", "separation", "participations"), [(9, 3, 3), (10, 3, 2), (11, 4, 3), (7, 7, 1)])
def test_no_way_to_take_part_moves_the_sums_further(rounds: int, separation: int, participations: int):
    schedule = Schedule(rounds, separation, participations)

    for bands in range(1, separation + 1):
        s = square_root(rounds, bands)
        worst = 0.0
        for count in range(1, participations + 1):
            for times in itertools.combinations(range(rounds), count):
                if all(b - a >= separation for a, b in itertools.pairwise(times)):
                    # Entries of S are not negative, so contributions of one direction are the worst.
                    worst = max(worst, float(np.linalg.norm(s[:, list(times)].sum(axis=1))))
        assert sensitivity(schedule, bands) == pytest.approx(worst)


@pytest.mark.parametrize(
    ("rounds", "separation", "participations", "independent", "banded"),
    [(64, 16, 4, 11.40, 4.72), (128, 32, 4, 16.06, 5.16), (32, 8, 4, 8.12, 4.29)],
)
def test_bands_cost_less_than_independent_noise(
    rounds: int, separation: int, participations: int, independent: float, banded: float
):
    schedule = Schedule(rounds, separation, participations)

    assert prefix_error(schedule, 1) == pytest.approx(independent, abs=5e-3)
    assert prefix_error(schedule, 1) == pytest.approx((participations * (rounds + 1) / 2) ** 0.5)
    assert prefix_error(schedule, best_bands(schedule)) == pytest.approx(banded, abs=5e-3)


def test_once_in_twenty_rounds_is_cheaper_still():
    schedule = Schedule(20, 20, 1)

    assert prefix_error(schedule, 10) == pytest.approx(1.86, abs=5e-3)
    assert prefix_error(schedule, best_bands(schedule)) <= prefix_error(schedule, 10)


def test_the_error_is_that_of_the_noise_itself():
    schedule, bands = Schedule(8, 4, 2), 3
    factor = np.tril(np.ones((8, 8))) @ np.linalg.inv(square_root(8, bands))
    rms = np.sqrt((factor**2).sum() / 8)

    assert prefix_error(schedule, bands) == pytest.approx(rms * sensitivity(schedule, bands))


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (10, 5, 3), (10, 3, 5), (100_001, 1, 1)])
def test_a_schedule_that_cannot_be_is_refused(numbers: tuple[int, int, int]):
    with pytest.raises(BadSetting):
        Schedule(*numbers)


def test_the_longest_schedule_is_taken():
    assert Schedule(100_000, 1, 1).rounds == 100_000


def test_bands_beyond_the_separation_are_refused():
    with pytest.raises(BadSetting, match="9 bands with a separation of 8"):
        sensitivity(Schedule(32, 8, 4), 9)
