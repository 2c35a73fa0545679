"""Llama by hand: the same numbers as transformers' own, up to rounding, in a third of the passes over memory.

A frozen base needs gradients to its inputs only, so each half of a layer is one step for autograd, whose way back is
written out: norms, rotations and gates make no copies, residuals are added to within products, and the first layer's
input needs no gradient at all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch.nn.functional import silu

from potluck.client.training.batches import IGNORED, Batch
from potluck.client.training.together import heads
from potluck.client.training.together.attention import Turns, attended
from potluck.client.training.together.lines import Line
from potluck.client.training.together.places import Places
from potluck.client.training.together.stack import Part

LINEAR: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
GATED: Final = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """x / √(mean(x²) + ε) · w over the last axis, forward and backward by hand.

    Source: Zhang & Sennrich 2019 (RMSNorm), equation 4, arXiv:1910.07467.
    """

    weight: torch.Tensor
    epsilon: float

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the norm of *x* (tokens, width), and 1 / √(mean(x²) + ε) (tokens, 1)."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        inverse = length.square_().div_(x.shape[1]).add_(self.epsilon).rsqrt_()
        return (x * inverse).mul_(self.weight), inverse

    def backward(self, slope: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        """Return the gradient to x, i·(g·w) − x·i³·mean(g·w·x), with i the inverse; *slope* g is used up."""
        slope.mul_(self.weight)
        mean = torch.linalg.vecdot(slope, x)[:, None].mul_(inverse.pow(3)).div_(x.shape[1])
        return slope.mul_(inverse).addcmul_(x, mean, value=-1.0)


def understood(model: Any, modules: Iterable[str]) -> bool:  # noqa: ANN401 - transformers is untyped
    """Whether *model* is a Llama of the plain kind in float32 or float64, with adapters in its layers only."""
    config = model.config
    if config.model_type != "llama" or not heads.plain(model) or model.dtype not in {torch.float32, torch.float64}:
        return False
    known = {f"model.layers.{i}.{name}" for i in range(config.num_hidden_layers) for name in (*LINEAR, *GATED)}
    biased = config.attention_bias or config.mlp_bias
    if config.hidden_act != "silu" or biased or config.attention_dropout or not set(modules) <= known:
        return False
    return all(type(_inner(model.get_submodule(name))) is torch.nn.Linear for name in known)  # and not a quantized one


@final
class Llama:
    """A Network for the models that `understood` accepts."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - transformers is untyped
        """*model* is left as it is; its weights are shared.  Adapters that PEFT put on it count only as parts."""
        self._model = model
        self._epsilon = float(model.config.rms_norm_eps)

    def losses(self, batch: Batch, parts: Mapping[str, Part]) -> torch.Tensor:
        """Return the loss of each row, as Network says."""
        model = self._model.model
        places = Places.of(batch, max((part.clients for part in parts.values()), default=1))
        turns = Turns.of(self._model, places)
        x = model.embed_tokens(places.ids)
        for i, layer in enumerate(model.layers):
            lines = {
                name: Line.of(weight_of(layer.get_submodule(name)), parts.get(f"model.layers.{i}.{name}"))
                for name in (*LINEAR, *GATED)
            }
            seen = self._seen(x, layer, lines, turns, places)
            if i + 1 == len(model.layers):
                x, seen = places.at_labels(x), places.at_labels(seen)
            x = _Onto.apply(x, seen, lines[LINEAR[-1]], *lines[LINEAR[-1]].factors)
            x = _fed(x, self._norm(layer.post_attention_layernorm), [lines[name] for name in GATED])
        hidden = _Norm.apply(x, self._norm(model.norm))
        weight, wanted = self._model.get_output_embeddings().weight, places.labels != IGNORED
        each = heads.from_hidden(hidden[wanted], weight, places.labels[wanted])
        return torch.zeros(len(batch.ids), dtype=each.dtype, device=each.device).index_add(0, places.rows[wanted], each)

    def _norm(self, module: Any) -> Norm:  # noqa: ANN401
        return Norm(module.weight, self._epsilon)

    def _seen(
        self,
        x: torch.Tensor,
        layer: Any,  # noqa: ANN401
        lines: Mapping[str, Line],
        turns: Turns,
        places: Places,
    ) -> torch.Tensor:
        """Return what attention makes of *x* (n, width), before its last product."""
        query, key, value, _ = (lines[name] for name in LINEAR)
        three = _Asked.apply(
            x,
            self._norm(layer.input_layernorm),
            turns,
            layer.self_attn.head_dim,
            (query, key, value),
            *query.factors,
            *key.factors,
            *value.factors,
        )
        return attended(three, places.grids)


def weight_of(module: Any) -> torch.Tensor:  # noqa: ANN401 - transformers and PEFT are untyped
    """Return the frozen weight of a linear module, also if PEFT has wrapped it."""
    weight: torch.Tensor = _inner(module).weight
    return weight


def _inner(module: Any) -> Any:  # noqa: ANN401
    """Return what PEFT has wrapped."""
    return getattr(module, "base_layer", module)


def _fed(x: torch.Tensor, norm: Norm, lines: list[Line]) -> torch.Tensor:
    """Return *x* (tokens, width) plus what the gated feed-forward adds."""
    gate, up, down = lines
    result: torch.Tensor = _Fed.apply(x, norm, (gate, up, down), *gate.factors, *up.factors, *down.factors)
    return result


@final
class _Norm(torch.autograd.Function):
    """The norm alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, norm: Norm) -> torch.Tensor:  # noqa: ANN401
        y, inverse = norm.forward(x)
        ctx.save_for_backward(x, inverse)
        ctx.norm = norm
        return y

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        x, inverse = ctx.saved_tensors
        return ctx.norm.backward(slope.clone(), x, inverse), None


@final
class _Asked(torch.autograd.Function):
    """Norm, then queries, keys and values (n, heads, head), the first two turned."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: torch.Tensor,
        norm: Norm,
        turns: Turns,
        head: int,
        lines: tuple[Line, ...],
        *_: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, ...]:
        y, inverse = norm.forward(x)
        outputs, inners = zip(*(line.forward(y) for line in lines), strict=True)
        ctx.save_for_backward(x, y, inverse, *inners)
        ctx.norm, ctx.turns, ctx.lines = norm, turns, lines
        q, k, v = (one.view(len(x), -1, head) for one in outputs)
        return turns.apply(q), turns.apply(k), v

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x, y, inverse, *inners = ctx.saved_tensors
        q, k = (ctx.turns.apply(slope.contiguous(), back=True) for slope in slopes[:2])
        flat = [one.reshape(len(x), -1) for one in (q, k, slopes[2])]
        results: list[torch.Tensor | None] = []
        back = None
        for line, slope, inner in zip(ctx.lines, flat, inners, strict=True):
            if ctx.needs_input_grad[0]:
                back, found = line.backward(slope, y, inner, back)
            else:
                found, _ = line.slopes(slope, y, inner)
            results += found
        first = None if back is None else ctx.norm.backward(back, x, inverse)
        return first, None, None, None, None, *results


@final
class _Onto(torch.autograd.Function):
    """A line added to a residual."""

    @staticmethod
    def forward(ctx: Any, residual: torch.Tensor, x: torch.Tensor, line: Line, *_: Any) -> torch.Tensor:  # noqa: ANN401
        y, inner = line.forward(x, residual)
        ctx.save_for_backward(x, inner)
        ctx.line = line
        return y

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x, inner = ctx.saved_tensors
        back, found = ctx.line.backward(slope, x, inner)
        return slope, back, None, *found


@final
class _Fed(torch.autograd.Function):
    """x + (silu(n·Gᵀ) ∘ (n·Uᵀ))·Dᵀ with n the norm of x.

    Source: Shazeer 2020 (SwiGLU), equation 6, arXiv:2002.05202.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, norm: Norm, lines: tuple[Line, ...], *_: Any) -> torch.Tensor:  # noqa: ANN401
        gate, up, down = lines
        n, inverse = norm.forward(x)
        g, inner_g = gate.forward(n)
        u, inner_u = up.forward(n)
        open_ = silu(g)
        z = open_ * u
        y, inner_d = down.forward(z, x)
        plain = down.part is None  # then z is not needed on the way back
        ctx.save_for_backward(x, n, inverse, g, u, open_, None if plain else z, inner_g, inner_u, inner_d)
        ctx.norm, ctx.lines = norm, lines
        return y

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x, n, inverse, g, u, open_, z, inner_g, inner_u, inner_d = ctx.saved_tensors
        gate, up, down = ctx.lines
        to_z, found_d = down.backward(slope, u if z is None else z, inner_d)
        to_g = torch.ops.aten.silu_backward(to_z * u, g)
        back, found_u = up.backward(to_z.mul_(open_), n, inner_u)
        back, found_g = gate.backward(to_g, n, inner_g, back)
        return ctx.norm.backward(back, x, inverse).add_(slope), None, None, *found_g, *found_u, *found_d
