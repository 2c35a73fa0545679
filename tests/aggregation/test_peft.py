"""PEFT as the outside reference for what alpha, rank and rank-stabilised scaling mean."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from adapters import low_rank
from potluck.aggregation import LowRank, Update, aggregate, broadcast, scaling, start

D, K = 12, 9


class Model(torch.nn.Module):
    """One linear layer, (d, k) = (12, 9), in float64."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.q = torch.nn.Linear(K, D, bias=False, dtype=torch.float64)
        self.q.weight = torch.nn.Parameter(torch.from_numpy(weight))


def merged(weight: np.ndarray, term: LowRank, *, alpha: float, rslora: bool = False) -> np.ndarray:
    """Return the weight that PEFT computes for an adapter with the factors of *term*."""
    config = LoraConfig(r=term.rank, lora_alpha=alpha, use_rslora=rslora, target_modules=["q"])
    model = get_peft_model(Model(weight.copy()), config, autocast_adapter_dtype=False)
    layer = model.base_model.model.q
    layer.lora_A["default"].weight = torch.nn.Parameter(torch.from_numpy(term.a.astype(float)))
    layer.lora_B["default"].weight = torch.nn.Parameter(torch.from_numpy(term.b.astype(float)))
    return model.merge_and_unload().q.weight.detach().numpy()


@pytest.mark.parametrize(("rslora", "scales"), [(False, (4.0, 1.0)), (True, (8.0, 4.0))])
def test_the_mean_of_two_adapters_is_the_mean_of_what_peft_merges(rslora, scales):
    """T3: ranks 4 and 16, alpha 16: W₀ + G = ½·merged₁ + ½·merged₂; and PEFT merges G itself to the same."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(D, K))
    terms = [low_rank(rng, (D, K), r, scaling(16, r, rslora=rslora)) for r in (4, 16)]

    master = aggregate([Update({"q": term}, {}, 1) for term in terms], {}).master["q"]

    both = [merged(weight, term, alpha=16, rslora=rslora) for term in terms]
    expected = (both[0] + both[1]) / 2
    assert tuple(term.scale for term in terms) == scales
    np.testing.assert_allclose(weight + master.dense(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(merged(weight, master, alpha=master.rank), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", ["continue", "orthonormal", "fresh"])
def test_peft_computes_base_plus_master_from_a_start(init: str):
    """The trainable part at the client's alpha and the tail at scale 1, merged one after the other."""
    rng = np.random.default_rng(5)
    weight, master = rng.normal(size=(D, K)), low_rank(rng, (D, K), 6)

    one = start(broadcast({"q": master}, init), {"q": (D, K)}, init=init, rank=4, scale=scaling(16, 4), seed=0)

    tail = one.tail["q"]
    actual = merged(merged(weight, one.trainable["q"], alpha=16), tail, alpha=tail.rank)
    np.testing.assert_allclose(actual, weight + master.dense(), rtol=0, atol=1e-5)
