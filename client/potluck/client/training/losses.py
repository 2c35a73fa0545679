"""Cross-entropy without the logits of the whole batch: rows × length × vocabulary is what fills a volunteer's memory.

4 × 256 tokens of a vocabulary of 49,152 are 192 MiB of logits in float32, and as much again in each of the copies that
the usual loss and its backward pass make.
"""

from typing import Any, Final, final

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from potluck.client.training.batches import IGNORED, Batch

PLAIN_HEADS: Final = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "olmo2"})
"""Model types whose logits are the output embedding times the last hidden state and nothing else."""

CHUNK: Final = 256  # predictions whose logits exist at one time


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:  # noqa: ANN401 - transformers is untyped
    """Return the summed cross-entropy, in nats and float32, of every label of *batch* that is not IGNORED.

    *model* may carry adapters.  Logits are computed at those positions only, CHUNK at a time where the model's head
    is a plain frozen matrix; other models go through their own head.
    """
    inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}  # a cache would hide packing
    wanted = batch.labels != IGNORED
    labels = batch.labels[wanted]
    causal = model.get_base_model() if isinstance(model, PeftModel) else model  # the adapters stay in its layers
    head = causal.get_output_embeddings()
    if causal.config.model_type not in PLAIN_HEADS or head.bias is not None or head.weight.requires_grad:
        return cross_entropy(model(**inputs).logits[wanted].float(), labels, reduction="sum")
    hidden = getattr(causal, causal.base_model_prefix)(**inputs).last_hidden_state
    total: torch.Tensor = _FrozenHead.apply(hidden[wanted], head.weight, labels)
    return total


@final
class _FrozenHead(torch.autograd.Function):
    """Σ −log softmax(h·Wᵀ)[label], whose gradient to h, (softmax − onehot)·W, is made along the way.

    W is frozen, so nothing needs the logits once the gradient to h is there: no recomputation, one chunk at a time.
    PyTorch's linear_cross_entropy does the same but returns the loss in bfloat16: 11.50 for 11.5143.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            piece = slice(start, start + CHUNK)
            logits = (hidden[piece] @ weight.T).float()  # (CHUNK, vocabulary)
            label = labels[piece, None]
            norm = logits.logsumexp(1, keepdim=True)
            total += (norm - logits.gather(1, label)).sum()
            if gradient is not None:
                logits.sub_(norm).exp_()
                logits.scatter_add_(1, label, torch.full_like(norm, -1.0))
                gradient[piece] = logits.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output.to(gradient.dtype), None, None
