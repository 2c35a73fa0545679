"""One optimiser step of K clients at once, each as if it were alone."""

from dataclasses import dataclass
from typing import Final, Self, final

import torch

from potluck.aggregation.tensors import LORA_A, LORA_B
from potluck.client.training.together.stack import Stack
from potluck.wire.recipe import Training

BETA1: Final = 0.9
BETA2: Final = 0.999
EPSILON: Final = 1e-8
CLIP_EPSILON: Final = 1e-6  # as torch.nn.utils.clip_grad_norm_ adds to the norm


@final
@dataclass(frozen=True, slots=True, eq=False)
class Stepping:
    """AdamW with a row of moments for each client of *stack*; all have taken the same number of steps.

    Source: Loshchilov & Hutter 2019, Algorithm 2, arXiv:1711.05101, with the defaults of torch.optim.AdamW.
    """

    stack: Stack
    training: Training
    first: torch.Tensor
    second: torch.Tensor

    @classmethod
    def of(cls, stack: Stack, training: Training) -> Self:
        """Return the state before the first step."""
        return cls(stack, training, torch.zeros_like(stack.values), torch.zeros_like(stack.values))

    def step(self, gradient: torch.Tensor, done: int) -> None:
        """Move the first n clients by *gradient* (n, numbers), which is used up, after *done* steps of theirs."""
        training, clients = self.training, len(gradient)
        values, first, second = (rows[:clients] for rows in (self.stack.values, self.first, self.second))
        if training.proximal:
            pull(self.stack, gradient, training.proximal)
        if training.clip_grad_norm:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((training.clip_grad_norm / (norm + CLIP_EPSILON)).clamp_(max=1.0))
        rate = training.learning_rate * min(1.0, (done + 1) / (training.warmup_steps + 1))
        if training.weight_decay:
            values.mul_(1 - rate * training.weight_decay)
        first.lerp_(gradient, 1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = torch.sqrt(second, out=gradient).div_((1 - BETA2 ** (done + 1)) ** 0.5).add_(EPSILON)
        values.addcdiv_(first, spread, value=-rate / (1 - BETA1 ** (done + 1)))


def pull(stack: Stack, gradient: torch.Tensor, mu: float) -> None:
    """Add the gradient of µ/2·Σ‖s·B·A − s·B₀·A₀‖_F² to the first n clients' *gradient* (n, numbers).

    With X = B − B₀ and Y = A − A₀ the difference is D = s·(X·A + B₀·Y); the gradients are µ·s·D·Aᵀ and µ·s·Bᵀ·D, of
    which no (d, k) array is made.  The factors are subtracted, where that is exact near the start.

    Source: as potluck.client.training.proximal.
    """
    clients = len(gradient)
    now, before, into = (
        {slot.module + slot.suffix: slot.of(rows[:clients]) for slot in stack.slots}
        for rows in (stack.values, stack.start, gradient)
    )
    weight = mu * stack.scales[:clients] ** 2
    for module in dict.fromkeys(slot.module for slot in stack.slots):
        names = (module + LORA_B, module + LORA_A)
        b, a = (now[name] if name in now else stack.frozen[name][:clients] for name in names)
        b0, a0 = (before.get(name, value) for name, value in zip(names, (b, a), strict=True))
        x, y = b - b0, a - a0
        if names[0] in into:
            into[names[0]] += weight * (x @ (a @ a.mT) + b0 @ (y @ a.mT))
        if names[1] in into:
            into[names[1]] += weight * ((b.mT @ x) @ a + (b.mT @ b0) @ y)
