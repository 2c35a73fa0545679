"""Cross-entropy without the logits of the whole batch: rows × length × vocabulary is what fills a volunteer's memory.

4 × 256 tokens of a vocabulary of 49,152 are 192 MiB of logits in float32, and as much again in each of the copies that
the usual loss and its backward pass make.  Every prediction has a loss of its own, so that clients are never mixed.
"""

from typing import Any, Final, final

import torch
from torch.nn.functional import cross_entropy

PLAIN_HEADS: Final = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "olmo2"})
"""Model types whose logits are the output embedding times the last hidden state and nothing else."""

CHUNK: Final = 256  # predictions whose logits exist at one time


def plain(causal: Any) -> bool:  # noqa: ANN401 - transformers is untyped
    """Whether the logits of *causal* are a frozen matrix times its last hidden state, and nothing else."""
    head = causal.get_output_embeddings()
    return causal.config.model_type in PLAIN_HEADS and head.bias is None and not head.weight.requires_grad


def from_hidden(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return −log softmax(h·Wᵀ)[label], float32, for hidden states (n, width), frozen W and labels (n,)."""
    losses: torch.Tensor = _FrozenHead.apply(hidden, weight, labels)
    return losses


def from_logits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return −log softmax(logits)[label], float32, for logits (n, vocabulary) and labels (n,)."""
    return cross_entropy(logits.float(), labels, reduction="none")


@final
class _FrozenHead(torch.autograd.Function):
    """−log softmax(h·Wᵀ)[label], whose gradient to h, (softmax − onehot)·W, is made along the way.

    W is frozen, so nothing needs the logits once the gradient to h is there: no recomputation, one chunk at a time.
    PyTorch's linear_cross_entropy does the same but returns the loss in bfloat16: 11.50 for 11.5143.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        losses = torch.empty(len(labels), device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            piece = slice(start, start + CHUNK)
            logits = (hidden[piece] @ weight.T).float()  # (CHUNK, vocabulary)
            label = labels[piece, None]
            norm = logits.logsumexp(1, keepdim=True)
            losses[piece] = (norm - logits.gather(1, label)).squeeze(1)
            if gradient is not None:
                logits.sub_(norm).exp_()
                logits.scatter_add_(1, label, torch.full_like(norm, -1.0))
                torch.mm(logits.to(weight.dtype), weight, out=gradient[piece])
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output.to(gradient.dtype)[:, None], None, None
