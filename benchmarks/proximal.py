"""What the pull back to the start costs: the proximal term on products, beside the step of local training it joins.

    OMP_NUM_THREADS=1 python benchmarks/proximal.py --dtypes float32 bfloat16

The model has the shape of SmolLM2-135M and random weights, on which no time here depends.  A step is the forward and
backward pass of 4 × 256 tokens; the optimiser is left out, so the shares are upper bounds.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potluck.aggregation import LowRank
from potluck.client.training.adapters import attach, detach
from potluck.client.training.batches import Batch
from potluck.client.training.losses import loss_sum
from potluck.client.training.proximal import Proximal
from potluck.wire.recipe import Adapter

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTERS = {8: ATTENTION, 16: (*ATTENTION, "gate_proj", "up_proj", "down_proj")}
ROWS, TOKENS, VOCABULARY = 4, 256, 49_152
STEPS, TERMS = 2, 20  # the best of so many counts


@dataclass(frozen=True, slots=True)
class Measured:
    """One adapter on one type of base."""

    dtype: str
    rank: int
    modules: int
    step_cpu_s: float
    term_cpu_s: float
    share: float


def base(dtype: str) -> LlamaForCausalLM:
    """Return the frozen base model."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(requires_grad=False)


def adapter(model: LlamaForCausalLM, settings: Adapter) -> dict[str, LowRank]:
    """Return random factors for every module of *settings*."""
    rng = np.random.default_rng(0)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {
        name: LowRank(
            rng.normal(size=(module.out_features, settings.rank), scale=0.1).astype(np.float32),
            rng.normal(size=(settings.rank, module.in_features), scale=0.1).astype(np.float32),
            settings.scale,
        )
        for name, module in linear.items()
        if name.rsplit(".", 1)[-1] in settings.targets
    }


def cpu_s(call: Callable[[], None], times: int) -> float:
    """Return the CPU-seconds of the cheapest of so many calls."""
    best = float("inf")
    for _ in range(times):
        begun = time.process_time()
        call()
        best = min(best, time.process_time() - begun)
    return best


def measured(model: LlamaForCausalLM, dtype: str, rank: int) -> Measured:
    """Time the step and the term of one adapter that has moved from its start."""
    settings = Adapter(rank=rank, alpha=2.0 * rank, targets=ADAPTERS[rank])
    begun = adapter(model, settings)
    adapted = attach(model, begun, {}, settings).train()
    term = Proximal.at(adapted, mu=0.1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.01)
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, ids.roll(-1, 1), torch.arange(TOKENS).expand(ROWS, TOKENS))

    def backward(loss: torch.Tensor) -> None:
        loss.backward()
        adapted.zero_grad(set_to_none=True)

    step = cpu_s(lambda: backward(loss_sum(adapted, batch) / batch.trained_tokens), STEPS)
    alone = cpu_s(lambda: backward(term.added_to(torch.zeros(()))), TERMS)
    detach(adapted)
    return Measured(dtype, rank, len(begun), step, alone, alone / step)


def main() -> None:
    """Print one line of JSON for the machine, and one for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    options = parser.parse_args()
    facts = {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(facts))
    for dtype in options.dtypes:
        model = base(dtype)
        for rank in ADAPTERS:
            print(json.dumps(asdict(measured(model, dtype, rank))), flush=True)


if __name__ == "__main__":
    main()
