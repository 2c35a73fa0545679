"""One round's release: clipping, noise of the claimed size, a fixed divisor; and what the gate makes of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation.errors import BadTensor
from potluck.aggregation.private.banded import Schedule, correlated, sensitivity
from potluck.aggregation.private.gaussian import noise_of
from potluck.aggregation.private.learnable import prospect
from potluck.aggregation.private.release import Release, clipped, norm

RELEASE = Release(Schedule(8, 4, 2), clip=2.0, noise=0.7, clients=10)


def test_without_noise_the_sum_is_divided_by_the_fixed_number():
    total = np.arange(4.0)

    assert RELEASE(total, lambda _: np.zeros(4), 2) == pytest.approx(total / 10)


def test_noise_is_the_correlated_one_of_the_claimed_size():
    draws = np.random.default_rng(11).standard_normal((8, 20_000))
    wanted = correlated(draws, RELEASE.bands) * RELEASE.scale / 10

    for t in range(8):
        assert RELEASE(np.zeros(20_000), lambda s: draws[s], t) == pytest.approx(wanted[t])
    assert wanted[0].std() == pytest.approx(RELEASE.scale / 10, rel=0.03)
    assert (wanted.std(axis=1) >= RELEASE.scale / 10 * 0.97).all()  # v_t is w_t and more
    assert RELEASE.scale == pytest.approx(0.7 * 2.0 * sensitivity(RELEASE.schedule, RELEASE.bands))


def test_the_noise_of_all_rounds_together_is_less_than_of_independent_rounds():
    draws = np.random.default_rng(5).standard_normal((8, 20_000))

    total = sum(RELEASE(np.zeros(20_000), lambda s: draws[s], t) for t in range(8))

    assert total.std() < RELEASE.scale / 10 * math.sqrt(8) * 0.8


def test_a_round_beyond_the_schedule_or_noise_of_another_width_is_refused():
    with pytest.raises(BadTensor, match="round 9 of a run whose guarantee counts 8 rounds"):
        RELEASE(np.zeros(3), lambda _: np.zeros(3), 8)
    with pytest.raises(BadTensor, match="noise of shape"):
        RELEASE(np.zeros(3), lambda _: np.zeros(4), 0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_a_clipped_update_is_never_longer_than_the_clip(values: list[float], clip: float):
    tensors = {"a": np.array(values), "b": np.array(values[:1], np.float32)}

    shrunk = clipped(tensors, clip)

    assert norm(shrunk) <= clip * (1 + 1e-9)
    if norm(tensors) <= clip / 2:
        assert all(shrunk[name] == pytest.approx(tensors[name], rel=1e-6) for name in tensors)


def test_what_is_believed_of_a_noised_sum_is_known():
    """Ten clients of clip 2 and half of it for rounding, and noise of 100 + 8 deviations: w_0 alone is in round 0."""
    release = Release(Schedule(8, 4, 2), clip=2.0, noise=0.7, clients=10, rounding=0.5)

    assert release.most(10_000, 0) == pytest.approx(25.0 + release.scale * 108.0)


def test_an_update_within_the_clip_stays_and_a_longer_one_gets_its_length():
    small, long = {"w": np.array([0.3, 0.4])}, {"v": np.array([3.0]), "w": np.array([4.0])}

    assert clipped(small, 0.6)["w"].tolist() == [0.3, 0.4]
    assert norm(clipped(long, 2.0)) == pytest.approx(2.0, rel=1e-9)


def test_a_norm_is_taken_in_double_precision():
    assert norm({"w": np.array([1e30, 0.0], np.float32)}) == pytest.approx(1e30, rel=1e-6)


def test_what_is_not_finite_is_not_clipped_but_refused():
    with pytest.raises(BadTensor, match="not finite"):
        clipped({"a": np.array([1.0, np.nan])}, 1.0)


@pytest.mark.parametrize(
    ("epsilon", "participations", "clients", "numbers"),
    [(8, 1, 20, 3_800), (8, 1, 100, 94_000), (8, 1, 1000, 9.4e6), (4, 1, 50, 7_000), (8, 4, 100, 23_000)],
)
def test_the_gate_knows_the_largest_adapter_that_learns(
    epsilon: float, participations: int, clients: int, numbers: float
):
    """Numbers of a table of independent noise: rounds one after the other have nothing to take back."""
    found = prospect((epsilon, 1e-6), Schedule(participations, 1, participations), 1_000, clients)

    assert found.most_numbers == pytest.approx(numbers, rel=0.03)
    assert found.noise == pytest.approx(noise_of(epsilon, 1e-6))
    assert not prospect(
        (epsilon, 1e-6), Schedule(participations, 1, participations), int(numbers * 0.9), clients
    ).hopeless
    assert prospect((epsilon, 1e-6), Schedule(participations, 1, participations), int(numbers * 1.1), clients).hopeless


def test_what_the_gate_asks_for_is_enough():
    schedule = Schedule(64, 16, 4)
    hopeless = prospect((2.0, 1e-6), schedule, 5_000_000, 100)
    enough = prospect((2.0, 1e-6), schedule, 5_000_000, hopeless.least_clients)

    assert hopeless.hopeless
    assert not enough.hopeless
    assert enough.ratio == pytest.approx(2.0, rel=0.01)
