"""One frozen linear module with K clients' factors, forward and backward by hand.

The weight is frozen, so nothing is saved for its gradient; what a residual holds is added to within the product, and
so are the gradients of modules that read the same input.

What is narrow lies down: (r, tokens) instead of (tokens, r), and gradients to B are made as Bᵀ.  Products whose long
side comes last take half the time on a CPU.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self, final

import torch

from potluck.client.training.together.stack import Part, shared_by_all


class Slopes(NamedTuple):
    """Gradients to b and a, (K, d, r) and (K, r, k); None of what does not move."""

    b: torch.Tensor | None = None
    a: torch.Tensor | None = None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ for x (tokens, k), whose tokens belong to K clients in turn."""

    weight: torch.Tensor
    """(d, k), with the tail that all clients share in it."""
    part: Part | None

    @classmethod
    def of(cls, weight: torch.Tensor, part: Part | None) -> Self:
        """Return the line of a module with this frozen *weight*; a shared tail is added to a copy of it."""
        if part is None or part.tail is None or not shared_by_all(part.tail):
            return cls(weight, part)
        return cls(torch.addmm(weight, *part.tail), Part(part.b, part.a, part.scale, None))

    @property
    def factors(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """B and A, of which autograd is to know."""
        return (None, None) if self.part is None else (self.part.b, self.part.a)

    def forward(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return y, plus *onto* if there is one, and s·A·xᵀ (K, r, tokens / K) for the way back."""
        y = x @ self.weight.T if onto is None else torch.addmm(onto, x, self.weight.T)
        part = self.part
        if part is None:
            return y, None
        each, wide = x.view(part.clients, -1, x.shape[1]), y.view(part.clients, -1, y.shape[1])
        if part.tail is not None:
            b, a = part.tail
            wide.baddbmm_((a @ each.mT).mT, b.mT)
        if part.b is None or part.a is None:
            return y, None
        inner = (part.a @ each.mT).mul_(part.scale)
        wide.baddbmm_(inner.mT, part.b.mT)
        return y, inner

    def backward(
        self, slope: torch.Tensor, x: torch.Tensor, inner: torch.Tensor | None, onto: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Slopes]:
        """Return the gradient to x, plus *onto* (which is used up) if there is one, and those to the factors.

        *slope* (tokens, d) is the gradient to y, *x* and *inner* are of the way there.
        """
        back = slope @ self.weight if onto is None else onto.addmm_(slope, self.weight)
        part = self.part
        if part is None:
            return back, Slopes()
        each = back.view(part.clients, -1, back.shape[1])
        if part.tail is not None:
            b, a = part.tail
            each.baddbmm_((b.mT @ slope.view(len(b), -1, slope.shape[1]).mT).mT, a)
        if part.a is None or inner is None:
            return back, Slopes()
        slopes, narrow = self.slopes(slope, x, inner)
        each.baddbmm_(narrow.mT, part.a)
        return back, slopes

    def slopes(self, slope: torch.Tensor, x: torch.Tensor, inner: torch.Tensor) -> tuple[Slopes, torch.Tensor]:
        """Return the gradients to the factors, and that to A·xᵀ (K, r, tokens / K)."""
        part = self.part
        if part is None or part.b is None or part.a is None:
            return Slopes(), inner
        each, wide = x.view(len(part.a), -1, x.shape[1]), slope.view(len(part.a), -1, slope.shape[1])
        narrow = (part.b.mT @ wide.mT).mul_(part.scale)
        to_b = (inner @ wide).mT if part.b.requires_grad else None
        to_a = narrow @ each if part.a.requires_grad else None
        return Slopes(to_b, to_a), narrow
