"""What a round says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from potluck.aggregation.screening import Finding, Verdict


@final
@dataclass(frozen=True, slots=True)
class Truncation:
    """What the cut to the master's rank cost."""

    norm: float
    """Frobenius norm of the new master before the cut."""
    discarded: float
    """Frobenius norm of what was cut off."""

    @property
    def relative_error(self) -> float:
        """Discarded over norm; 0 for a master of zero."""
        return self.discarded / self.norm if self.norm else 0.0


@final
@dataclass(frozen=True, slots=True)
class Report:
    """What happened in a round.  Tuples over updates are in the order in which the updates were given."""

    weights: tuple[float, ...]
    """cᵢ, as the rule used them: the result is Σ cᵢ·Δᵢ for rules that are linear in the products."""
    norms: tuple[float, ...]
    """‖Δᵢ‖ over all modules: how far each client moved the product.  Over exact_up_to updates an estimate: from the
    sketched products where there are any, else from a smaller sketch of each module, or for a coordinate-wise rule
    from one row in 16, which cannot see a change that is all in others."""
    modules: Mapping[str, Truncation]
    total: Truncation
    """All modules together."""
    products: str = "none"
    """How inner products of the innovations were had: "exact", "sketch", or "none" where nothing read them."""
    products_error: float = 0.0
    """Largest relative error of a sketched norm, measured on a few updates; 0 where nothing was sketched."""
    sum_error: float = 0.0
    """Frobenius norm of what sketched sums missed, over the norm of the new master; 0 where sums were exact."""
    findings: tuple[Finding, ...] = ()
    """What screening found; places are those in which the updates were given.  Empty where there were no products."""
    verdicts: tuple[Verdict, ...] = ()
    """For each update: its share, its coefficient, and who took weight from it; empty for a single pass."""
