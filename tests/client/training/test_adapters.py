"""base + trainable + tail on a real model, against dense arithmetic."""

import copy

import numpy as np
import pytest
import torch

from potluck.aggregation import LowRank
from potluck.client.training.adapters import attach, detach, factors, trained_parameters
from potluck.client.training.bases import load, shapes
from potluck.client.training.errors import BadAdapter
from potluck.wire.recipe import Adapter
from tiny import random_adapter

SETTINGS = Adapter(rank=3, alpha=6.0, targets=("q_proj", "v_proj", "down_proj"))
CPU = torch.device("cpu")


@pytest.fixture
def sides(base) -> dict[str, tuple[int, int]]:
    return shapes(base.folder, SETTINGS.targets)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 259, (2, 17), generator=torch.Generator().manual_seed(5))


def dense(model, *adapters) -> torch.nn.Module:
    """Return a copy of *model* with every product added to its weight."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        for adapter in adapters:
            for name, term in adapter.items():
                product = term.scale * term.b.astype(np.float64) @ term.a.astype(np.float64)
                model.get_submodule(name).weight += torch.from_numpy(product)
    return model


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("ranks", ["none", "same", "different"])
def test_the_model_computes_base_plus_trainable_plus_tail(loaded, sides, ids, rslora, ranks):
    """Also where the tail's rank differs from module to module, or is 0 in some or all."""
    settings = SETTINGS.model_copy(update={"rslora": rslora})
    trainable = random_adapter(sides, 3, seed=1, scale=settings.scale)
    rank = {"none": 0, "same": 5, "different": {name: i % 4 for i, name in enumerate(sides)}}[ranks]
    tail = random_adapter(sides, rank, seed=2)
    expected = dense(loaded[0], trainable, tail)(ids).logits

    adapted = attach(loaded[0], trainable, tail, settings)

    torch.testing.assert_close(adapted(ids).logits.double(), expected, atol=2e-5, rtol=2e-5)
    assert ("tail" in adapted.peft_config) == (ranks != "none")


def test_gradients_reach_only_the_trainable_adapter(loaded, sides, ids):
    """Neither the base nor the tail may move: the coordinator subtracts them as they were sent."""
    adapted = attach(loaded[0], random_adapter(sides, 3, seed=1, scale=2.0), random_adapter(sides, 4, seed=2), SETTINGS)

    adapted(ids).logits.square().sum().backward()

    reached = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert reached == set(trained_parameters(adapted))
    assert len(reached) == 2 * len(sides)
    assert all(".trained." in name for name in reached)


def test_factors_come_back_as_they_went_in(loaded, sides):
    trainable = random_adapter(sides, 3, seed=1, scale=2.0)

    back = factors(attach(loaded[0], trainable, random_adapter(sides, 4, seed=2), SETTINGS), SETTINGS)

    assert set(back) == set(sides)
    for name, term in trainable.items():
        np.testing.assert_array_equal(back[name].b, term.b)
        np.testing.assert_array_equal(back[name].a, term.a)
        assert back[name].scale == 2.0
        assert back[name].b.dtype == np.float32


def test_factors_stay_float32_over_a_bfloat16_base(base, sides):
    """A step of 1e-4 on a weight of 1 is nothing in bfloat16."""
    model, _ = load(base, CPU, torch.bfloat16)

    adapted = attach(model, random_adapter(sides, 3, seed=1, scale=2.0), random_adapter(sides, 2, seed=2), SETTINGS)

    lora = {parameter.dtype for name, parameter in adapted.named_parameters() if "lora_" in name}
    rest = {parameter.dtype for name, parameter in adapted.named_parameters() if "lora_" not in name}
    assert lora == {torch.float32}
    assert rest == {torch.bfloat16}


def test_detaching_leaves_the_base_as_it_was(loaded, sides, ids):
    """One model serves round after round; a fold into the weights would not come out again."""
    model = loaded[0]
    before = model(ids).logits
    tail = random_adapter(sides, 2, seed=9)
    for seed in range(3):
        adapted = attach(model, random_adapter(sides, 3, seed=seed, scale=2.0), tail, SETTINGS)
        assert not torch.equal(adapted(ids).logits, before)
        model = detach(adapted)

    torch.testing.assert_close(model(ids).logits, before, atol=0, rtol=0)


def test_an_adapter_that_does_not_fit_is_refused(loaded, sides):
    model = loaded[0]
    name, (d, k) = next(iter(sides.items()))
    good = random_adapter(sides, 3, seed=1, scale=2.0)
    zero = LowRank(np.zeros((d, 3), np.float32), np.zeros((3, k), np.float32), 2.0)

    with pytest.raises(BadAdapter, match="no linear module elsewhere"):
        attach(model, {"elsewhere": zero}, {}, SETTINGS)
    with pytest.raises(BadAdapter, match=r"rank 3 and scale 1, the recipe says 3 and 2"):
        attach(model, {name: LowRank(zero.b, zero.a)}, {}, SETTINGS)
    with pytest.raises(BadAdapter, match="its adapter is"):
        attach(model, good, {name: LowRank(zero.b[1:], zero.a)}, SETTINGS)
