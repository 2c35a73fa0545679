"""Gradients of one example at a time, exactly: two engines, checked against each other before they are used.

Each example's loss is the mean over its own tokens; the mean over a batch's tokens, which libraries give, would let one
example move another one's share.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, Protocol, final

import torch
from peft import PeftModel

from potluck.client.training.adapters import trained_parameters
from potluck.client.training.batches import IGNORED, Batch
from potluck.client.training.errors import BadGradients
from potluck.client.training.losses import loss_sum, loss_through

_LOG = logging.getLogger(__name__)

TOLERANCE: Final = 1e-4
"""Largest difference between two engines, as a share of the gradient's norm.  On SmolLM2 in float32 it is 1e-5; in
bfloat16, where the length of a row changes how its numbers are rounded, 6e-2: there examples are taken one by one."""

Gradients = Mapping[str, torch.Tensor]
"""By parameter, (examples, *shape), float32."""


class Engine(Protocol):
    """A way to the gradients of single examples."""

    def __call__(self, model: PeftModel, batch: Batch) -> tuple[Gradients, float]:
        """Return every example's gradient of its own mean loss, and the loss summed over all tokens, in nats.

        A row of *batch* is an example.  Gradients that the model held before are gone afterwards.
        """


@final
class Loop:
    """One forward and one backward pass for each example: right for any model that autograd is right for."""

    def __call__(self, model: PeftModel, batch: Batch) -> tuple[Gradients, float]:
        """Go through the rows, one by one."""
        parameters = trained_parameters(model)
        rows: list[list[torch.Tensor]] = []
        total = 0.0
        for i in range(len(batch.ids)):
            one = _alone(batch, i)
            model.zero_grad(set_to_none=True)
            loss = loss_sum(model, one)
            (loss / one.trained_tokens).backward()
            rows.append([_gradient_of(name, parameter) for name, parameter in parameters.items()])
            total += float(loss.detach())
        model.zero_grad(set_to_none=True)
        stacked = (torch.stack(column) for column in zip(*rows, strict=True))
        return dict(zip(parameters, stacked, strict=True)), total


@final
class Hooks:
    """One pass for all: a linear layer's gradient of example i is gᵢᵀ·xᵢ, of what came back and what went in.

    Source: Goodfellow 2015, section 3, arXiv:1510.01799, with a sum over places.
    """

    def __call__(self, model: PeftModel, batch: Batch) -> tuple[Gradients, float]:
        """Catch what goes into every trained layer and what comes back; divide by each example's own tokens."""
        tokens = (batch.labels != IGNORED).sum(dim=1)
        found: dict[str, torch.Tensor] = {}
        with _catching(model, found):
            model.zero_grad(set_to_none=True)
            loss = loss_through(model, batch)
            loss.backward()
        names = trained_parameters(model)
        model.zero_grad(set_to_none=True)
        if set(found) != set(names):
            raise BadGradients(
                f"{len(set(names) - set(found))} trained layers gave no gradients of single examples",
                fix="report this bug: the engine 'loop' should have been taken",
            )
        return {name: found[name] / tokens.view(-1, 1, 1) for name in names}, float(loss.detach())


ENGINES: Final[Mapping[str, Engine]] = MappingProxyType({"hooks": Hooks(), "loop": Loop()})
"""The quickest first; "loop" is what the others are measured by."""


def checked_engine(model: PeftModel, batch: Batch) -> Engine:
    """Return the quickest engine whose gradients of *batch* are autograd's, example by example.

    In bfloat16 that is often the slow one, which is no trouble to anybody: so the log has it, and the terminal not.
    """
    wanted, _ = ENGINES["loop"](model, batch)
    for name, engine in ENGINES.items():
        if name == "loop":
            break
        try:
            found, _ = engine(model, batch)
        except BadGradients as error:
            _LOG.info("event=engine_refused engine=%s reason=%s", name, error)
            continue
        worst = float(_distance(found, wanted).max())
        if worst <= TOLERANCE:
            return engine
        _LOG.info("event=engine_refused engine=%s difference=%g", name, worst)
    return ENGINES["loop"]


def norms(gradients: Gradients) -> torch.Tensor:
    """Return every example's norm over all parameters together: (examples,), float64."""
    squares = [value.double().flatten(1).square().sum(dim=1) for value in gradients.values()]
    return torch.stack(squares).sum(dim=0).sqrt()


def _distance(found: Gradients, wanted: Gradients) -> torch.Tensor:
    """Return how far *found* is from *wanted*, as a share of its norm, for every example."""
    gap = norms({name: found[name] - wanted[name] for name in wanted})
    return gap / norms(wanted).clamp(min=1e-12)


def _alone(batch: Batch, i: int) -> Batch:
    """Return row *i* without the padding that its neighbours gave it: nothing after its last label matters."""
    end = int(torch.nonzero(batch.labels[i] != IGNORED)[-1]) + 1
    return Batch(batch.ids[i : i + 1, :end], batch.labels[i : i + 1, :end], batch.positions[i : i + 1, :end])


def _gradient_of(name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        raise BadGradients(f"{name} got no gradient", fix="report this bug: a frozen part is trained")
    return parameter.grad.detach().float().clone()


@contextmanager
def _catching(model: PeftModel, found: dict[str, torch.Tensor]) -> Iterator[None]:
    """Put into *found*, by parameter, the gradient of every example's summed loss, while the block runs."""
    trained = {id(parameter): name for name, parameter in trained_parameters(model).items()}
    layers = [module for module in model.modules() if id(getattr(module, "weight", None)) in trained]
    hooks = [
        layer.register_forward_hook(_catcher(trained[id(layer.weight)], found))
        for layer in layers
        if isinstance(layer, torch.nn.Linear) and layer.bias is None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _catcher(name: str, found: dict[str, torch.Tensor]) -> Callable[..., None]:
    """Return a forward hook that has the layer's gradient caught on the way back."""

    def forward(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ANN401 - a module
        entered = inputs[0].detach()

        def backward(gradient: torch.Tensor) -> None:
            each = torch.einsum("bto,bti->boi", gradient.float(), entered.float())
            found[name] = found[name] + each if name in found else each

        output.register_hook(backward)

    return forward
