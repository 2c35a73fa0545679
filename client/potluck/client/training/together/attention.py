"""Attention by places: queries and keys turned by their positions, and sequences of like length side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch.nn.functional import scaled_dot_product_attention

from potluck.client.training.together.places import Grids, Places


@final
@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """The rotation of every place by the angles of its position."""

    cos: torch.Tensor
    """(places or fewer that come again and again, 1, head / 2)"""
    sin: torch.Tensor

    @classmethod
    def of(cls, model: Any, places: Places) -> Self:  # noqa: ANN401
        """Return those of *places*."""
        _, length = places.grids.shapes[0]
        shown = places.positions[:length] if places.grids.taken is None else places.positions
        cos, sin = model.model.rotary_emb(model.model.embed_tokens.weight, shown[None])
        half = cos.shape[-1] // 2
        return cls(cos[0, :, None, :half], sin[0, :, None, :half])

    def apply(self, x: torch.Tensor, *, back: bool = False) -> torch.Tensor:
        """Return *x* (n, heads, head) turned by the places' positions, or turned back."""
        half, sign = x.shape[-1] // 2, -1.0 if back else 1.0
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        (first, last), (one, other) = (
            each.view(-1, len(self.cos), *x.shape[1:]).split(half, dim=-1) for each in (x, y)
        )
        torch.mul(first, self.cos, out=one).addcmul_(last, self.sin, value=-sign)
        torch.mul(last, self.cos, out=other).addcmul_(first, self.sin, value=sign)
        return y


def attended(three: Sequence[torch.Tensor], grids: Grids) -> torch.Tensor:
    """Return what the queries of *three* (n, heads, head) see of its keys and values, (n, heads · head)."""
    cells = [rows * length for rows, length in grids.shapes]
    split = (_Spread.apply(one, grids).split(cells) for one in three)
    pieces = []
    for shape, *one in zip(grids.shapes, *split, strict=True):
        q, k, v = (each.unflatten(0, shape).transpose(1, 2) for each in one)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        pieces.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
    result: torch.Tensor = _Gathered.apply(pieces[0] if len(pieces) == 1 else torch.cat(pieces), grids)
    return result


@final
class _Spread(torch.autograd.Function):
    """Places (n, …) to the cells of grids (c, …)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, grids: Grids) -> torch.Tensor:  # noqa: ANN401
        ctx.grids = grids
        return grids.spread(x)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        return ctx.grids.gathered(slope), None


@final
class _Gathered(torch.autograd.Function):
    """Cells of grids (c, …) to places (n, …)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, grids: Grids) -> torch.Tensor:  # noqa: ANN401
        ctx.grids = grids
        return grids.gathered(x)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        return ctx.grids.back(slope), None
