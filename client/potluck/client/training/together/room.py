"""How many clients a batch may hold."""

from typing import Final

import psutil

from potluck.client.training.together import heads
from potluck.client.training.together.heads import CHUNK
from potluck.client.training.together.resident import Resident

SHARE: Final = 8
"""A batch may take one part in so many of the machine's memory: others live there too."""
BYTES: Final = 2 * 2**30
"""And no more than this, in bytes: larger batches are not faster."""
TOKENS: Final = 2048
"""Nor more tokens than this, unless one client has more: a batch that has left the caches is slower."""
NUMBERS: Final = 6
"""Copies of what a client trains: values, start, gradient, two moments, and one in passing."""


def room(base: Resident, rank: int) -> int:
    """Return how many clients of *rank* may train at once: at least one, the same on every call on this machine.

    An estimate, from above: per token and layer 12 vectors of the model's width, 5 of the feed-forward's and 2 rows of
    attention weights a head; and 3 rows of logits for each token, or for CHUNK of them where the head allows that.
    """
    config, recipe = base.model.config, base.recipe
    tokens = recipe.training.batch * recipe.data.max_tokens
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    row = config.num_attention_heads * recipe.data.max_tokens
    plain = heads.plain(base.model)
    logits = 3 * config.vocab_size * base.dtype.itemsize
    activations = tokens * layers * (12 * width + 5 * inner + 2 * row) * base.model.dtype.itemsize
    factors = NUMBERS * rank * sum(d + k for d, k in recipe.modules().values()) * base.dtype.itemsize
    allowed: int = min(BYTES, psutil.virtual_memory().total // SHARE) - plain * CHUNK * logits
    client = activations + factors + (not plain) * tokens * logits
    return int(max(1, min(allowed // client, TOKENS // tokens)))
