"""The input gate of a personal adapter: how much of it a token gets, learned from the owner's text.

A module with a gate computes W·x + shared(x) + g(x)·s·B·A·x with g(x) = 2·σ(w·x + c), one number a token between 0
and 2.  At w = 0 and c = 0 it is 1: a gate begins as if there were none.

Source: the input-dependent mixer of FedALT (Bian et al. 2025, arXiv:2503.11880) weighs a client's own adapter and
everybody else's by a softmax of a linear map of x, which for two of them is σ and 1 − σ.  Here the shared adapter
always counts in full, and only the personal one is weighed.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from potluck.client.training.adapters import TRAINED, adapted_modules
from potluck.client.training.batches import Batch
from potluck.client.training.errors import BadAdapter
from potluck.client.training.losses import loss_sum

MOST: Final = 2.0
"""What a gate goes up to."""
Gates = Mapping[str, NDArray[np.float32]]


@final
class Gate(torch.nn.Module):
    """g(x) = 2·σ(w·x + c): x is (…, k), what comes out (…, 1)."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(width, device=device))
        self.c = torch.nn.Parameter(torch.zeros(1, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return how much of the adapter each token gets."""
        weighed: torch.Tensor = MOST * torch.sigmoid(x @ self.w + self.c)
        return weighed[..., None]


def add_gates(adapted: PeftModel, values: Gates | None = None) -> None:
    """Put a gate on the trainable part of every module of *adapted*, as *values* say, or open at 1.

    The gate hangs on A, so that B sees g·A·x: r numbers a token are weighed, not d.

    Raises:
        BadAdapter: *values* lack a module, or one has another width.
    """
    for name, module in adapted_modules(adapted, TRAINED):
        a = module.lora_A[TRAINED]
        gate = Gate(a.in_features, a.weight.device)
        if values is not None:
            value = values.get(name)
            if value is None or value.shape != (a.in_features + 1,):
                raise BadAdapter(f"the personal adapter has no gate that fits {name}", fix="personalize again")
            with torch.no_grad():
                gate.w.copy_(torch.from_numpy(value[:-1]))
                gate.c.copy_(torch.from_numpy(value[-1:]))
        a.add_module("gate", gate)
        a.register_forward_hook(_weighed)


def gates(adapted: PeftModel) -> dict[str, NDArray[np.float32]]:
    """Copy the gates out: (k + 1,) a module, w and then c; none where there are none."""
    result = {}
    for name, module in adapted_modules(adapted, TRAINED):
        gate = getattr(module.lora_A[TRAINED], "gate", None)
        if gate is not None:
            result[name] = torch.cat([gate.w, gate.c]).detach().float().cpu().numpy().copy()
    return result


def constants(adapted: PeftModel, batches: Iterable[Batch]) -> dict[str, float]:
    """Return, for every gated module, the one number that stands in best for its gate on *batches*.

    Of all constants c, Σ g‖B·A·x‖² / Σ ‖B·A·x‖² brings c·B·A·x closest to g(x)·B·A·x in least squares.  1 where the
    adapter does nothing.
    """
    sums: dict[str, torch.Tensor] = {}
    device = next(adapted.parameters()).device
    with torch.inference_mode(), _watched(adapted, sums):
        for batch in batches:
            loss_sum(adapted, batch.to(device))
    return {name: float(total[0] / total[1]) if float(total[1]) else 1.0 for name, total in sums.items()}


@contextlib.contextmanager
def _watched(adapted: PeftModel, sums: dict[str, torch.Tensor]) -> Iterator[None]:
    """Add what goes through each gate to *sums* while the block runs."""
    hooks = []
    for name, module in adapted_modules(adapted, TRAINED):
        a, b = module.lora_A[TRAINED], module.lora_B[TRAINED].weight.detach()
        if not hasattr(a, "gate"):
            continue
        sums[name] = torch.zeros(2, dtype=torch.float64)
        gram = (b.T @ b).float()  # ‖B·u‖² = uᵀ(BᵀB)u: nothing of width d is made

        def note(
            linear: Any,  # noqa: ANN401
            inputs: tuple[torch.Tensor, ...],
            _out: torch.Tensor,
            into: torch.Tensor = sums[name],
            gram: torch.Tensor = gram,
        ) -> None:
            u = inputs[0].float() @ linear.weight.float().T
            energy = ((u @ gram) * u).sum(-1, keepdim=True)
            into += torch.stack([(linear.gate(inputs[0]) * energy).sum(), energy.sum()]).double().cpu()

        hooks.append(a.register_forward_hook(note))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _weighed(linear: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Weigh what A made of a token."""
    return out * linear.gate(inputs[0])
