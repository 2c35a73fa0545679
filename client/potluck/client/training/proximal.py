"""A pull back to the start, on the products: heterogeneous clients drift less between two rounds.

FedProx pulls the parameters themselves.  Of LoRA that would be the factors, and (B·M, M⁻¹·A), which is the same
matrix, would be pulled elsewhere.  Here the pull is on s·B·A, and no d × k array is ever made.
"""

from dataclasses import dataclass
from typing import Self, final

import torch
from peft import PeftModel

from potluck.client.training.adapters import trained_factors


@final
@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """One module's trainable factors, b (d, r) and a (r, k), beside what they were when training began."""

    b: torch.Tensor
    a: torch.Tensor
    b_start: torch.Tensor
    a_start: torch.Tensor
    scale: float

    def squared_distance(self) -> torch.Tensor:
        """Return ‖s·B·A − T‖_F² with T = s·B₀·A₀, differentiable in B and A, in O((d + k)·r²).

        s·B·A − T = s·X·Y with X = [B − B₀, B₀] and Y = [A; A − A₀], and ‖X·Y‖² = ⟨XᵀX, YYᵀ⟩.  The factors are
        subtracted, where that is exact near the start; from the norms of two products nothing would be left there.
        The half of X and Y that belongs to a frozen factor is zero, and left out.
        """
        columns, rows = [], []
        if self.b.requires_grad:
            columns.append(self.b - self.b_start)
            rows.append(self.a)
        if self.a.requires_grad:
            columns.append(self.b_start)
            rows.append(self.a - self.a_start)
        x, y = torch.cat(columns, dim=1), torch.cat(rows, dim=0)  # (d, r or 2r), (r or 2r, k)
        return self.scale**2 * ((x.T @ x) * (y @ y.T)).sum()


@final
@dataclass(frozen=True, slots=True, eq=False)
class Proximal:
    """µ/2 · Σ ‖s·B·A − T‖_F² over all modules, from the start that the adapter had when this was made.

    Source: the proximal term of Li et al. 2020, Algorithm 2, arXiv:1812.06127, on products instead of parameters.
    """

    mu: float
    anchors: tuple[Anchor, ...]

    @classmethod
    def at(cls, model: PeftModel, mu: float) -> Self:
        """Return the term for the adapter of *model* as it is now; with *mu* 0 it costs nothing."""
        pairs = trained_factors(model) if mu else ()
        return cls(mu, tuple(Anchor(b, a, b.detach().clone(), a.detach().clone(), scale) for b, a, scale in pairs))

    @classmethod
    def to_zero(cls, model: PeftModel, mu: float) -> Self:
        """Return µ/2 · Σ ‖s·B·A‖_F²: a pull to what the model is without this adapter, wherever training starts.

        Source: Ditto, Li et al. 2021, equation 1, arXiv:2012.04221, on products; the shared adapter is its w*.
        """
        pairs = trained_factors(model) if mu else ()
        return cls(mu, tuple(Anchor(b, a, torch.zeros_like(b), a.detach().clone(), scale) for b, a, scale in pairs))

    def added_to(self, loss: torch.Tensor) -> torch.Tensor:
        """Return *loss* plus the term; *loss* itself where the term is off."""
        if not self.anchors:
            return loss
        return loss + self.mu / 2 * torch.stack([anchor.squared_distance() for anchor in self.anchors]).sum()
