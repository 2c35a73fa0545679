"""The closed form of one Gaussian mechanism, against the note's numbers and against dp-accounting."""

import math

import pytest

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.private.gaussian import epsilon_of, noise_of

get_epsilon = pytest.importorskip("dp_accounting.gaussian_mechanism").get_epsilon_gaussian


@pytest.mark.parametrize(("noise", "epsilon"), [(1.0, 4.3771781), (4.0 / math.sqrt(10), 3.3414095)])
def test_epsilon_is_the_exact_one(noise: float, epsilon: float):
    assert epsilon_of(noise, 1e-5) == pytest.approx(epsilon, abs=1e-7)


@pytest.mark.parametrize("delta", [1e-4, 1e-5, 1e-6, 1e-9])
@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0, 3.0, 20.0])
def test_epsilon_is_dp_accountings(noise: float, delta: float):
    assert epsilon_of(noise, delta) == pytest.approx(get_epsilon(noise, delta), rel=1e-9)


@pytest.mark.parametrize(
    ("delta", "epsilon", "noise"),
    [
        (1e-6, 1.0, 4.225),
        (1e-6, 2.0, 2.230),
        (1e-6, 4.0, 1.194),
        (1e-6, 8.0, 0.653),
        (1e-5, 1.0, 3.731),
        (1e-5, 2.0, 1.994),
        (1e-5, 4.0, 1.081),
        (1e-5, 8.0, 0.600),
    ],
)
def test_noise_is_the_known_one_and_is_enough(delta: float, epsilon: float, noise: float):
    found = noise_of(epsilon, delta)

    assert found == pytest.approx(noise, abs=5e-4)
    assert epsilon_of(found, delta) <= epsilon * (1 + 1e-12)
    assert epsilon_of(found * 0.9999, delta) > epsilon


def test_the_largest_epsilon_has_a_noise():
    assert epsilon_of(noise_of(500.0, 1e-5), 1e-5) == pytest.approx(500.0, rel=1e-9)


def test_next_to_no_noise_protects_nothing():
    assert epsilon_of(0.01, 1e-5) == math.inf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: epsilon_of(0.0, 1e-5), "noise multiplier is 0.0"),
        (lambda: epsilon_of(1.0, 0.0), "delta is 0.0"),
        (lambda: epsilon_of(1.0, 1.0), "delta is 1.0"),
        (lambda: noise_of(0.0, 1e-5), "epsilon is 0.0"),
        (lambda: noise_of(501.0, 1e-5), "epsilon is 501.0"),
        (lambda: noise_of(1.0, 2.0), "delta is 2.0"),
    ],
)
def test_what_is_no_budget_is_refused(call, words: str):
    with pytest.raises(BadSetting, match=words):
        call()
