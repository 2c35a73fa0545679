"""One client's model as PEFT made it, computed by hand where that is faster: the same numbers up to rounding."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from transformers import PreTrainedModel

from potluck.client.training.together.llama import Llama, understood, weight_of
from potluck.client.training.together.stack import Part

HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def by_hand(model: Any) -> tuple[Llama, Mapping[str, Part]] | None:  # noqa: ANN401 - transformers is untyped
    """Return the network of *model*, which may carry adapters, and what they add; None: transformers has to compute.

    By hand goes a Llama in float32 or float64 on the CPU that nobody watches by hooks, with plain adapters in its
    layers, of which each module trains one at the most.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(causal, PreTrainedModel) or causal.device.type != "cpu" or _watched(causal):
        return None
    parts: dict[str, Part] = {}
    for name, module in causal.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        if type(module) is not Linear or not _plain(module, weight_of(module).dtype):
            return None
        if not module.disable_adapters:
            parts[name] = _part(module)
    return (Llama(causal), parts) if understood(causal, parts) else None


def _watched(causal: Any) -> bool:  # noqa: ANN401
    """Whether somebody looks at, or changes, what goes through a module."""
    return any(getattr(module, kind) for module in causal.modules() for kind in HOOKS)


def _plain(module: Any, dtype: torch.dtype) -> bool:  # noqa: ANN401 - PEFT is untyped
    """Whether the active adapters of *module* add s·B·A·x each and nothing else, and at most one of them is trained."""
    if module.merged or module.lora_variant:
        return False
    active = [name for name in module.active_adapters if name in module.lora_A]
    sides = [side for name in active for side in (module.lora_A[name], module.lora_B[name])]
    dropped = any(getattr(module.lora_dropout[name], "p", 0.0) for name in active)
    fitting = all(side.weight.dtype == dtype and side.bias is None for side in sides)
    return fitting and not dropped and sum(_trained(module, name) for name in active) <= 1


def _trained(module: Any, adapter: str) -> bool:  # noqa: ANN401
    return bool(module.lora_A[adapter].weight.requires_grad or module.lora_B[adapter].weight.requires_grad)


def _part(module: Any) -> Part:  # noqa: ANN401
    """Return what the active adapters of *module* add: the trained one, and the frozen ones as one tail."""
    b = a = scale = None
    tails: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name in module.active_adapters:
        if name not in module.lora_A:
            continue
        one, other, factor = module.lora_B[name].weight, module.lora_A[name].weight, float(module.scaling[name])
        if _trained(module, name):
            b, a, scale = one[None], other[None], one.new_full((1, 1, 1), factor)
        else:
            tails.append((one if factor == 1.0 else one * factor, other))
    if not tails:
        return Part(b, a, scale, None)
    columns, rows = zip(*tails, strict=True)
    tail = tails[0] if len(tails) == 1 else (torch.cat(columns, dim=1), torch.cat(rows))
    return Part(b, a, scale, (tail[0][None], tail[1][None]))
