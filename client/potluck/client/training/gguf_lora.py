"""The shared adapter as a GGUF LoRA, which llama.cpp, Ollama and their kind put on their own copy of a base."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import gguf
import numpy as np

from potluck.aggregation import LowRank
from potluck.client.training.bases import Base
from potluck.client.training.errors import BadAdapter, BadBase

ARCHITECTURES: Final[Mapping[str, gguf.MODEL_ARCH]] = MappingProxyType(
    {
        "llama": gguf.MODEL_ARCH.LLAMA,
        "mistral": gguf.MODEL_ARCH.LLAMA,
        "qwen2": gguf.MODEL_ARCH.QWEN2,
        "qwen3": gguf.MODEL_ARCH.QWEN3,
    }
)
"""Hugging Face's model types by what llama.cpp calls them."""


def write_gguf(base: Base, adapter: Mapping[str, LowRank], path: Path) -> None:
    """Write *adapter*, made for *base*, to *path*: per module lora_a (R, k) and lora_b (d, R) in float32.

    llama.cpp scales a product by alpha / R, one alpha for all: every module is padded with zeros to the largest rank
    and alpha is that rank, so each product counts once.

    Raises:
        BadAdapter: it is empty, or a module has no name in llama.cpp.
        BadBase: llama.cpp's name for this kind of model is not known here.
    """
    config = json.loads((base.folder / "config.json").read_text("utf-8"))
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise BadBase(
            f"{base.name} is of type {model_type}; a GGUF adapter can be written for {', '.join(ARCHITECTURES)}",
            fix="export as peft or merged, and convert with llama.cpp's own scripts",
        )
    terms = {name: term for name, term in adapter.items() if term.rank}
    if not terms:
        raise BadAdapter("the adapter is empty: no round has been committed", fix="wait for the first version")
    kind = ARCHITECTURES[model_type]
    rank = max(term.rank for term in terms.values())
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for name, term in terms.items():
        theirs = names.get_name(name)
        if theirs is None:
            raise BadAdapter(f"llama.cpp has no name for {name}", fix="export as peft or merged")
        rows = term.b * term.scale
        if kind is gguf.MODEL_ARCH.LLAMA:
            rows = permuted(rows, name, config)
        spare = rank - term.rank
        writer.add_tensor(f"{theirs}.weight.lora_a", np.pad(term.a, ((0, spare), (0, 0))).astype(np.float32))
        writer.add_tensor(f"{theirs}.weight.lora_b", np.pad(rows, ((0, 0), (0, spare))).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permuted(rows: np.ndarray[Any, Any], name: str, config: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return the *rows* of a query or key matrix in llama.cpp's order; those of any other module as they are.

    Hugging Face rotates the two halves of a head against each other, llama.cpp neighbours: row (half, i) of every head
    becomes row (i, half).
    """
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config.get("num_key_value_heads") or config["num_attention_heads"],
    }.get(name.rsplit(".", 1)[-1])
    if heads is None:
        return rows
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
