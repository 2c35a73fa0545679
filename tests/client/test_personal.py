"""A personal adapter as values: kept to the last bit, put beside the shared one exactly."""

import dataclasses

import numpy as np
import pytest

from potluck.aggregation import LowRank
from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.client.personal import About, Losses, Personal, Wish
from tiny import random_adapter

SHAPES = {"model.layers.0.q_proj": (6, 4), "model.layers.1.q_proj": (6, 4)}
LOSSES = Losses(5.0, 4.0, 4.5, 3.5, 3.6)


def personal(*, gated: bool = True) -> Personal:
    rng = np.random.default_rng(3)
    about = About("run-1", "a run", 7, "ab", "cd", "/home/ann/notes", Wish(rank=2, gated=gated), LOSSES)
    products = random_adapter(SHAPES, 2, seed=1, scale=2.0)
    if not gated:
        return Personal(about, products)
    gates = {name: rng.normal(size=k + 1).astype(np.float32) for name, (_, k) in SHAPES.items()}
    return Personal(about, products, gates, dict(zip(SHAPES, (0.25, 1.75), strict=True)))


@pytest.mark.parametrize("gated", [True, False])
def test_bytes_hold_all_of_it(gated: bool):  # noqa: FBT001
    made = personal(gated=gated)

    read = Personal.of_bytes(made.to_bytes())

    assert read.about == made.about
    assert read.constants == made.constants
    assert set(read.gates) == set(made.gates)
    for name, term in made.products.items():
        assert read.products[name].scale == 2.0
        np.testing.assert_array_equal(read.products[name].b, term.b)
        np.testing.assert_array_equal(read.products[name].a, term.a)
    for name, gate in made.gates.items():
        np.testing.assert_array_equal(read.gates[name], gate)


def test_losses_before_a_rebase_are_kept_too():
    about = dataclasses.replace(personal().about, before=Losses(5.0, 4.2, 4.6, 3.9, 3.9))
    made = dataclasses.replace(personal(), about=about)

    assert Personal.of_bytes(made.to_bytes()).about.before == about.before


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x02{}", b"\xff" * 40, b"\0\0\0\x04null"])
def test_other_bytes_are_refused(data: bytes):
    with pytest.raises(BadTensor):
        Personal.of_bytes(data)


def test_beside_the_shared_one_the_products_add_up_exactly():
    """By ranks, with the stand-in for each gate; where there is no gate, the personal product counts once."""
    shared = random_adapter(SHAPES, {"model.layers.0.q_proj": 3, "model.layers.1.q_proj": 0}, seed=9)

    for made in (personal(), personal(gated=False)):
        both = made.beside(shared)

        for name, term in both.items():
            expected = shared[name].dense() + made.constants.get(name, 1.0) * made.products[name].dense()
            np.testing.assert_allclose(term.dense(), expected, rtol=1e-6, atol=1e-6)
            assert term.rank == shared[name].rank + 2
        alone = made.alone()
        np.testing.assert_allclose(both["model.layers.1.q_proj"].dense(), alone["model.layers.1.q_proj"].dense(), 1e-6)


def test_a_shared_adapter_of_other_shapes_is_refused():
    shared = {"model.layers.0.q_proj": LowRank(np.zeros((5, 2)), np.zeros((2, 4)))}

    with pytest.raises(BadTensor, match="another shape"):
        personal().beside(shared)


@pytest.mark.parametrize(
    "wrong", [{"rank": 1}, {"rank": 9}, {"steps": -1}, {"learning_rate": 0.0}, {"proximal": -0.5}], ids=str
)
def test_a_wish_out_of_range_is_refused(wrong: dict[str, float]):
    with pytest.raises(BadSetting, match="personal adapter's") as caught:
        Wish(**wrong)
    assert caught.value.__notes__
