"""Adapters as other programs know them: a PEFT folder, or a whole model with the adapter in its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from potluck.aggregation import LowRank, scaling
from potluck.client.training.adapters import mount, product_config
from potluck.client.training.bases import Base, load
from potluck.client.training.errors import BadAdapter

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
PREFIX: Final = "base_model.model."
ODD: Final = (
    "use_dora",
    "bias",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "lora_bias",
)
"""Settings of a PEFT adapter that make it more than a product B·A for each module."""


def write_peft(adapter: Mapping[str, LowRank], folder: Path, *, base: str, revision: str | None = None) -> None:
    """Write *adapter* as a PEFT folder: PeftModel.from_pretrained(model, folder) gives base + scale·b·a.

    Factors are float32, with the scale multiplied into B; modules of rank 0 are left out.

    Raises:
        BadAdapter: every module has rank 0.
    """
    terms = {name: term for name, term in adapter.items() if term.rank}
    if not terms:
        raise BadAdapter("the adapter is empty: no round has been committed", fix="wait for the first version")
    config = product_config({name: term.rank for name, term in terms.items()})
    config.base_model_name_or_path = base
    config.revision = revision
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tensors = {}
    for name, term in terms.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(term.a, np.float32)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(term.b * term.scale, np.float32)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_peft(folder: Path) -> dict[str, LowRank]:
    """Return the adapter in a PEFT *folder* by full module name, every factor float32, at its scale.

    Raises:
        BadAdapter: it is no plain LoRA adapter, is damaged, or holds a value that is not finite.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise BadAdapter(f"{folder} is no PEFT adapter: {error}", fix=f"it needs {CONFIG} and {WEIGHTS}") from None
    odd = [key for key in ODD if config.get(key) not in (None, False, "none", [], {})]
    if config.get("peft_type") != "LORA" or odd:
        kind = ", ".join(odd) or config.get("peft_type")
        raise BadAdapter(f"{folder} is not a plain LoRA adapter: {kind}", fix="use one that is only products B·A")
    names = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    expected = {f"{name}.lora_{side}.weight" for name in names for side in "AB"}
    if expected != set(tensors) or not all(np.isfinite(value).all() for value in tensors.values()):
        raise BadAdapter(f"{folder / WEIGHTS} is damaged: a factor is missing, or not finite", fix="get it again")
    result = {}
    for full in names:
        name = full.removeprefix(PREFIX)
        b, a = (tensors[f"{full}.lora_{side}.weight"].astype(np.float32) for side in "BA")
        result[name] = LowRank(b, a, _scale(config, name, a.shape[0]))
    return result


def write_merged(base: Base, adapter: Mapping[str, LowRank], folder: Path) -> None:
    """Write base + *adapter* as a Hugging Face folder in float32, to be used and not trained on.

    Adding to float32 weights loses what lies below their last bit, which is why training never does it.

    Raises:
        BadAdapter: the adapter is empty or does not fit.
    """
    model, tokenizer = load(base, torch.device("cpu"), torch.float32)
    merged = mount(model, adapter).merge_and_unload(safe_merge=True)
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """Return the scale of module *name*: alpha over rank, or over √rank; alpha_pattern may say otherwise for it."""
    own = config.get("alpha_pattern") or {}
    alpha = own.get(get_pattern_key(own, name), config.get("lora_alpha", 8))
    return scaling(float(alpha), rank, rslora=bool(config.get("use_rslora")))
