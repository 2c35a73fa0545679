"""A frozen base that computes for many clients at once, whatever its architecture."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, final

import torch

from potluck.client.training.batches import IGNORED, Batch
from potluck.client.training.together import heads
from potluck.client.training.together.stack import Part


class Network(Protocol):
    """A frozen base model, and on it the adapters of K clients."""

    def losses(self, batch: Batch, parts: Mapping[str, Part]) -> torch.Tensor:
        """Return the summed loss in nats of each row of *batch*, (rows,) float32, differentiable in *parts*.

        The rows belong to the K clients in turn, the same number each: row i is client i // (rows / K)'s.
        """


@final
class Hooked:
    """Any transformers model: hooks add to its linear modules' outputs, autograd finds the gradients."""

    def __init__(self, model: Any, modules: Iterable[str]) -> None:  # noqa: ANN401 - transformers is untyped
        """Put hooks on *modules* of *model*; without parts they add nothing."""
        self._model = model
        self._parts: Mapping[str, Part] = {}
        for name in modules:
            model.get_submodule(name).register_forward_hook(self._hook(name))

    def losses(self, batch: Batch, parts: Mapping[str, Part]) -> torch.Tensor:
        """Return the loss of each row, as Network says."""
        wanted = batch.labels != IGNORED
        labels = batch.labels[wanted]
        inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}
        self._parts = parts
        try:
            if heads.plain(self._model):
                hidden = getattr(self._model, self._model.base_model_prefix)(**inputs).last_hidden_state
                each = heads.from_hidden(hidden[wanted], self._model.get_output_embeddings().weight, labels)
            else:
                each = heads.from_logits(self._model(**inputs).logits[wanted], labels)
        finally:
            self._parts = {}
        return by_row(each, wanted)

    def _hook(self, name: str) -> Any:  # noqa: ANN401
        def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            part = self._parts.get(name)
            if part is None:
                return output
            (x,) = inputs
            clients = 1 if part.a is None else len(part.a)
            more = part.added(x.reshape(clients, -1, x.shape[-1]))
            return output if more is None else (output + more.reshape(output.shape)).to(output.dtype)

        return add


def by_row(each: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the sum over each row of *wanted* (rows, length), where *each* holds the values at its true places."""
    rows = wanted.nonzero()[:, 0]
    return torch.zeros(len(wanted), dtype=each.dtype, device=each.device).index_add(0, rows, each)
