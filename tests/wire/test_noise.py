"""Secret randomness: repeats with its seed, differs by label, and has the distribution that it claims."""

import hashlib

import numpy as np
import pytest

from potluck.aggregation.errors import BadSetting
from potluck.wire.noise import CHUNK, SecretNoise, new_seed

stats = pytest.importorskip("scipy.stats")
SEED = bytes(range(32))
LIKELY = 1e-4  # a p-value below this is no chance; the seeds here are fixed, so nothing is flaky


def test_the_same_seed_and_label_repeat_and_others_do_not():
    one = SecretNoise(SEED).gaussian("step/3", 100)

    assert (SecretNoise(SEED).gaussian("step/3", 100) == one).all()
    assert not (SecretNoise(SEED).gaussian("step/4", 100) == one).any()
    assert not (SecretNoise(bytes(32)).gaussian("step/3", 100) == one).any()


def test_gaussian_numbers_are_standard_normal():
    draws = SecretNoise(SEED).gaussian("a", 200_000)

    assert stats.kstest(draws, "norm").pvalue > LIKELY
    assert draws.std() == pytest.approx(1.0, abs=0.005)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01
    for lag in (2, 3, 4, CHUNK // 2):
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 0.02


def test_coins_are_even_on_the_unit_interval():
    coins = SecretNoise(SEED).uniform("a", 200_000)

    assert stats.kstest(coins, "uniform").pvalue > LIKELY
    assert coins.min() >= 0
    assert coins.max() < 1


@pytest.mark.parametrize("count", [0, 1, 2, 5, CHUNK - 1, CHUNK, CHUNK + 1])
def test_any_number_can_be_asked_for(count: int):
    draws = SecretNoise(SEED).gaussian("a", count)

    assert draws.shape == (count,)
    assert np.isfinite(draws).all()


def test_seeds_are_secret_new_and_whole():
    assert len({new_seed() for _ in range(100)}) == 100
    assert SEED.hex() not in repr(SecretNoise(SEED))
    with pytest.raises(BadSetting, match="a seed has 32 bytes, this one 31"):
        SecretNoise(bytes(31))


def test_a_seeds_digest_names_it_and_is_no_stream_of_it():
    one, other = SecretNoise(bytes(32)), SecretNoise(bytes([1]) * 32)

    assert one.digest == SecretNoise(bytes(32)).digest != other.digest
    assert one.digest == hashlib.sha256(b"potluck/noise seed\0" + bytes(32)).hexdigest()


def test_noise_for_one_purpose_is_other_noise_than_for_another():
    whole, one, other = SecretNoise(SEED), bytes(32), bytes([1]) * 32
    drawn = [noise.gaussian("x", 2_000) for noise in (whole, whole.bound(one), whole.bound(other))]

    assert (whole.bound(one).gaussian("x", 2_000) == drawn[1]).all()
    assert np.abs(np.corrcoef(drawn)[np.triu_indices(3, 1)]).max() < 0.1
    assert len({whole.digest, whole.bound(one).digest, whole.bound(other).digest}) == 3
