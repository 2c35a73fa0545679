"""How well a model predicts text that nobody trained on."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import torch
from peft import PeftModel

from potluck.client.readers import Sample
from potluck.client.training.batches import collate, laid_out, pack, tokenize
from potluck.client.training.errors import NoBatches
from potluck.client.training.losses import loss_sum

ROWS: Final = 4  # at a time


def held_out_loss(
    model: Any,  # noqa: ANN401 - transformers is untyped
    tokenizer: Any,  # noqa: ANN401
    samples: Sequence[Sample],
    max_tokens: int,
    *,
    max_rows: int | None = None,
    adapters: bool = True,
) -> tuple[float, int]:
    """Return (nats per token, tokens) of *samples*, in rows of *max_tokens*, at most *max_rows* of them.

    Only what would be trained on counts: of a chat, what the assistant wrote.  With *adapters* false the base model
    answers, whatever adapter is on it.

    Raises:
        NoBatches: there is not one token to predict.
    """
    rows = pack([tokenize(sample, tokenizer) for sample in samples], max_tokens, rest=True)[:max_rows]
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    model.eval()
    with torch.inference_mode(), only_base(model) if not adapters else contextlib.nullcontext():
        for start in range(0, len(rows), ROWS):
            batch = collate(laid_out(rows[start : start + ROWS]), pad_id=0).to(device)
            total += float(loss_sum(model, batch))
            tokens += batch.trained_tokens
    if not tokens:
        raise NoBatches(f"{len(samples)} held-out samples hold no token to predict", fix="add longer text")
    return total / tokens, tokens


def only_base(model: Any) -> contextlib.AbstractContextManager[Any]:  # noqa: ANN401
    """Return a context in which *model* computes as if it carried no adapter."""
    return model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()
