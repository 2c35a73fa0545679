"""A real causal language model of 0.1 million parameters, made in milliseconds: token = byte + 3, random weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from potluck.aggregation import LowRank

CHAT = (
    "{% if messages and messages[0].role != 'system' %}[system]be kind\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""A template with the two habits that make chats hard: a system turn nobody wrote, and no generation marks."""


def tiny_base(target: Path, *, seed: int = 0, hidden: int = 64, layers: int = 2, chat: bool = False) -> Path:
    """Write the model and its tokenizer to *target*, as any Hugging Face folder, and return it."""
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    tokenizer = ByT5Tokenizer(extra_ids=0)
    if chat:
        tokenizer.chat_template = CHAT
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def random_adapter(
    shapes: Mapping[str, tuple[int, int]], rank: int | Mapping[str, int], *, seed: int, scale: float = 1.0
) -> dict[str, LowRank]:
    """Return float32 factors for every module of *shapes*, large enough to change what the model says."""
    rng = np.random.default_rng(seed)
    ranks = {name: rank if isinstance(rank, int) else rank[name] for name in shapes}
    return {
        name: LowRank(
            rng.normal(size=(d, ranks[name]), scale=0.3).astype(np.float32),
            rng.normal(size=(ranks[name], k), scale=0.3).astype(np.float32),
            scale,
        )
        for name, (d, k) in shapes.items()
    }
