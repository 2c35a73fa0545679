"""A trainable LoRA adapter and the frozen rest of the shared one, side by side on a frozen base model.

With T the trainable start and the tail the rest, the model computes base + T + tail = base + shared adapter, so no
start adds noise.  Factors are float32, also where the base is bfloat16: a step of 1e-4 on a weight of 1 is nothing in
bfloat16.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from potluck.aggregation import LowRank
from potluck.aggregation.tensors import Moves
from potluck.client.training.errors import BadAdapter
from potluck.wire.recipe import Adapter

TRAINED: Final = "trained"
TAIL: Final = "tail"


def attach(
    model: Any,  # noqa: ANN401
    trainable: Mapping[str, LowRank],
    tail: Mapping[str, LowRank],
    settings: Adapter,
    moves: Moves = "both",
) -> PeftModel:
    """Put *trainable* and the frozen *tail* on *model*, which changes in place; detach undoes it.

    Both map full module names to factors: b is (d, r), a is (r, k).  *trainable* has the recipe's rank and scale in
    every module; the *tail* may have any rank in each, also 0, and scale 1.  With *moves* "b" or "a" the other factor
    of *trainable* is frozen as well.

    Raises:
        BadAdapter: a module is not in the model, a factor has another shape, or a rank or scale is not as it must be.
    """
    for name, term in trainable.items():
        if term.rank != settings.rank or not np.isclose(term.scale, settings.scale, rtol=1e-6):
            raise BadAdapter(
                f"{name} has rank {term.rank} and scale {term.scale:g}, "
                f"the recipe says {settings.rank} and {settings.scale:g}",
                fix="start from the adapter of the same run",
            )
    _fitting(model, trainable)
    _fitting(model, tail)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        target_modules=sorted(trainable),
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config, adapter_name=TRAINED)
    _fill(adapted, TRAINED, trainable)
    rest = {name: term for name, term in tail.items() if term.rank}
    if rest:
        adapted.add_adapter(TAIL, product_config({name: term.rank for name, term in rest.items()}))
        _fill(adapted, TAIL, {name: LowRank(term.b * term.scale, term.a) for name, term in rest.items()})
    adapted.base_model.set_adapter([TRAINED, TAIL] if rest else [TRAINED])
    adapted.requires_grad_(requires_grad=False)  # set_adapter makes the tail trainable too
    for b, a, _ in trained_factors(adapted):
        b.requires_grad_(moves != "a")
        a.requires_grad_(moves != "b")
    return adapted


def mount(model: Any, adapter: Mapping[str, LowRank]) -> PeftModel:  # noqa: ANN401
    """Put *adapter* on *model*, to be used and not trained; detach undoes it.

    Raises:
        BadAdapter: it is empty, or does not fit the model.
    """
    terms = {name: LowRank(term.b * term.scale, term.a) for name, term in adapter.items() if term.rank}
    if not terms:
        raise BadAdapter("the adapter is empty: no round has been committed", fix="wait for the first version")
    _fitting(model, terms)
    config = product_config({name: term.rank for name, term in terms.items()})
    adapted = get_peft_model(model, config, adapter_name=TAIL)
    _fill(adapted, TAIL, terms)
    return adapted.requires_grad_(requires_grad=False).eval()


def detach(adapted: PeftModel) -> Any:  # noqa: ANN401
    """Take the adapters off and return the base model, bit for bit as it was before attach."""
    return adapted.unload()


def factors(adapted: PeftModel, settings: Adapter) -> dict[str, LowRank]:
    """Copy the trained factors out: float32 on the CPU, by full module name, at the recipe's scale."""
    result = {}
    for name, module in adapted_modules(adapted, TRAINED):
        b, a = (side[TRAINED].weight.detach().float().cpu().numpy().copy() for side in (module.lora_B, module.lora_A))
        result[name] = LowRank(b, a, settings.scale)
    return result


def product_config(ranks: Mapping[str, int]) -> LoraConfig:
    """Return a config for an adapter whose product counts once (scale 1) in every module, whatever its rank."""
    common = max(ranks.values())
    own = {name: rank for name, rank in ranks.items() if rank != common}
    return LoraConfig(
        r=common,
        lora_alpha=common,
        rank_pattern=own,
        alpha_pattern=dict(own),
        target_modules=sorted(ranks),
        bias="none",
        task_type="CAUSAL_LM",
    )


def trained_factors(adapted: PeftModel) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter, float]]:
    """Return B (d, r), A (r, k) and the scale of every module that attach put a trainable part on, also if frozen."""
    modules = (module for _, module in adapted_modules(adapted, TRAINED))
    return [(one.lora_B[TRAINED].weight, one.lora_A[TRAINED].weight, float(one.scaling[TRAINED])) for one in modules]


def trained_parameters(adapted: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that training changes, by name, in one fixed order."""
    return {name: parameter for name, parameter in sorted(adapted.named_parameters()) if parameter.requires_grad}


def adapted_modules(adapted: PeftModel, adapter: str) -> list[tuple[str, Any]]:
    """Return every module that carries *adapter*, TRAINED or TAIL, with its full name."""
    modules = adapted.base_model.model.named_modules()
    return [(name, module) for name, module in modules if adapter in getattr(module, "lora_A", {})]


def _fill(adapted: PeftModel, adapter: str, terms: Mapping[str, LowRank]) -> None:
    """Overwrite the factors that peft drew for *adapter* by those in *terms*."""
    with torch.no_grad():
        for name, module in adapted_modules(adapted, adapter):
            for side, value in ((module.lora_B, terms[name].b), (module.lora_A, terms[name].a)):
                side[adapter].weight.copy_(torch.from_numpy(np.ascontiguousarray(value, np.float32)))


def _fitting(model: Any, terms: Mapping[str, LowRank]) -> None:  # noqa: ANN401
    modules = dict(model.named_modules())
    for name, term in terms.items():
        module = modules.get(name)
        if not isinstance(module, torch.nn.Linear):
            raise BadAdapter(f"the model has no linear module {name}", fix="use the base model that the run names")
        if (module.out_features, module.in_features) != term.shape:
            raise BadAdapter(
                f"{name} is {(module.out_features, module.in_features)}, its adapter is {term.shape}",
                fix="use the base model that the run names",
            )
