"""The loss that is trained on and measured: summed cross-entropy of what a batch's labels ask for."""

from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from potluck.client.training.batches import IGNORED, Batch
from potluck.client.training.together import heads
from potluck.client.training.together.alone import by_hand


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:  # noqa: ANN401 - transformers is untyped
    """Return the summed cross-entropy, in nats and float32, of every label of *batch* that is not IGNORED.

    *model* may carry adapters.  Logits are computed at those positions only, heads.CHUNK at a time where the model's
    head is a plain frozen matrix; other models go through their own head.
    """
    known = by_hand(model)
    if known is not None:
        network, parts = known
        return network.losses(batch, parts).sum()
    return loss_through(model, batch)


def loss_through(model: Any, batch: Batch) -> torch.Tensor:  # noqa: ANN401
    """Return the same by way of the model's own layers, which a hook on one of them sees."""
    inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}  # a cache would hide packing
    wanted = batch.labels != IGNORED
    labels = batch.labels[wanted]
    causal = model.get_base_model() if isinstance(model, PeftModel) else model  # the adapters stay in its layers
    if not heads.plain(causal):
        return cross_entropy(model(**inputs).logits[wanted].float(), labels, reduction="sum")
    hidden = getattr(causal, causal.base_model_prefix)(**inputs).last_hidden_state
    return heads.from_hidden(hidden[wanted], causal.get_output_embeddings().weight, labels).sum()
