"""T9: what a coordinator decodes of masked updates is their sum, and times the public factor the exact innovation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation import BadSetting, BadTensor, LowRank, Pipeline, Update, aggregate
from potluck.aggregation.fixedpoint import from_whole, to_whole


@given(seed=st.integers(0, 2**32 - 1), clients=st.integers(1, 30), scale=st.sampled_from([2.0**-6, 1.0, 3.7]))
def test_masked_sums_decode_to_the_exact_innovation(seed: int, clients: int, scale: float):
    """FFA: Σ wᵢBᵢ within n·2⁻¹⁷ of the scale, and its product with A beside the rule's."""
    rng = np.random.default_rng(seed)
    public = rng.normal(size=(3, 7))
    trained = [rng.normal(size=(5, 3)) for _ in range(clients)]
    shares = rng.dirichlet(np.ones(clients))
    masks = rng.integers(0, 2**32, (clients, 5, 3), dtype=np.uint32)
    masks[-1] = (0 - masks[:-1].sum(axis=0, dtype=np.uint32)).astype(np.uint32)

    sent = [
        to_whole(w * b, scale=scale, clients=clients) + mask for w, b, mask in zip(shares, trained, masks, strict=True)
    ]
    total = from_whole(np.sum(sent, axis=0, dtype=np.uint32), scale=scale)

    exact = sum(w * b for w, b in zip(shares, trained, strict=True))
    assert np.abs(total - exact).max() <= clients * scale * 2.0**-17
    start = LowRank(np.zeros((5, 3)), public)
    updates = [Update({"w": LowRank(b, public)}, {"w": start}, examples=1) for b in trained]
    if clients > 1:
        assert not np.array_equal(sent[0], to_whole(shares[0] * trained[0], scale=scale, clients=clients))
    even = [to_whole(b / clients, scale=scale, clients=clients) for b in trained]
    product = from_whole(np.sum(even, axis=0, dtype=np.uint32), scale=scale) @ public
    master = aggregate(updates, {}, Pipeline(rule="ffa", weights=())).master["w"].dense()
    bound = clients * scale * 2.0**-17 * np.abs(public).sum(axis=0).max()
    assert np.abs(product - master).max() <= bound * (1 + 1e-9)


def test_known_whole_numbers():
    """T9 by hand: one, minus one and a half step of 2⁻¹⁶, rounded to even."""
    values = np.array([1.0, -1.0, 1.5 * 2.0**-16, 2.5 * 2.0**-16, -(2.0**-16)])

    assert to_whole(values, clients=1).tolist() == [65536, 2**32 - 65536, 2, 2, 2**32 - 1]
    np.testing.assert_array_equal(from_whole(to_whole(values[:2], clients=2)), [1, -1])
    assert from_whole(np.array([2**31, 2**31 - 1], np.uint32)).tolist() == [-32768.0, 32768.0 - 2.0**-16]


def test_a_sum_that_could_wrap_is_refused():
    """Wrapped, it would decode to something small with the wrong sign."""
    values = np.array([3.0, -100.0])

    assert to_whole(values, clients=327).shape == (2,)
    with pytest.raises(BadTensor, match="6553600 steps times 328") as caught:
        to_whole(values, clients=328)
    assert "99.9" in caught.value.__notes__[0]
    to_whole(np.array([32768.0 - 2.0**-16]), clients=1)
    with pytest.raises(BadTensor, match="wrap"):
        to_whole(np.array([32768.0]), clients=1)


def test_nothing_and_zeros_are_sent_as_they_are():
    """No value needs a step, so nothing can wrap around, however many clients send it."""
    assert to_whole(np.empty((0, 3)), clients=5).shape == (0, 3)
    assert to_whole(np.zeros(2), clients=2**31).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("values", "options", "error"),
    [
        ([np.nan], {"clients": 1}, BadTensor),
        ([1.0], {"clients": 0}, BadSetting),
        ([1.0], {"clients": 1, "scale": 0.0}, BadSetting),
        ([1.0], {"clients": 1, "scale": np.inf}, BadSetting),
    ],
)
def test_what_cannot_be_masked_is_refused(values, options, error):
    with pytest.raises(error):
        to_whole(np.array(values), **options)
