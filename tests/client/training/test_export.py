"""Exports open in the programs people know, and compute what we say they compute."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from potluck.client.training.bases import load, shapes
from potluck.client.training.errors import BadAdapter
from potluck.client.training.export import CONFIG, WEIGHTS, read_peft, write_merged, write_peft
from tiny import random_adapter

TARGETS = ("q_proj", "k_proj", "down_proj")


@pytest.fixture
def adapter(base):
    """Ranks 0 to 3 and a scale that is not 1."""
    sides = shapes(base.folder, TARGETS)
    return random_adapter(sides, {name: i % 4 for i, name in enumerate(sides)}, seed=4, scale=0.5)


@pytest.fixture
def ids():
    return torch.randint(3, 259, (2, 13), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def expected(loaded, adapter, ids):
    """Logits of base + scale·b·a, by dense arithmetic in float64."""
    model = loaded[0].double()
    with torch.no_grad():
        for name, term in adapter.items():
            model.get_submodule(name).weight += torch.from_numpy(
                term.scale * term.b.astype(float) @ term.a.astype(float)
            )
        return model(ids).logits


def test_peft_opens_the_folder_and_gets_base_plus_product(base, adapter, ids, expected, tmp_path: Path):
    write_peft(adapter, tmp_path / "release", base="somebody/base", revision="main")

    opened = PeftModel.from_pretrained(load(base, torch.device("cpu"), torch.float32)[0], tmp_path / "release")

    torch.testing.assert_close(opened(ids).logits.double(), expected, atol=2e-5, rtol=2e-5)
    config = json.loads((tmp_path / "release" / CONFIG).read_text("utf-8"))
    assert config["base_model_name_or_path"] == "somebody/base"
    assert not any(parameter.requires_grad for parameter in opened.parameters())


def test_a_merged_model_opens_without_us(base, adapter, ids, expected, tmp_path: Path):
    write_merged(base, adapter, tmp_path / "merged")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")

    torch.testing.assert_close(model(ids).logits.double(), expected, atol=2e-5, rtol=2e-5)
    assert tokenizer.decode(tokenizer("text")["input_ids"]) == "text</s>"


def test_what_was_written_reads_back(adapter, tmp_path: Path):
    write_peft(adapter, tmp_path, base="b")

    back = read_peft(tmp_path)

    assert set(back) == {name for name, term in adapter.items() if term.rank}
    for name, term in back.items():
        np.testing.assert_allclose(term.dense(), adapter[name].dense(), rtol=1e-6, atol=1e-7)


def test_an_adapter_of_other_programs_keeps_its_scale(base, ids, tmp_path: Path):
    """alpha, rank-stabilised scaling and patterns: ours must agree with peft's reading of the same folder."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    model, _ = load(base, torch.device("cpu"), torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=["q_proj", "v_proj"],
        alpha_pattern={r"layers\.0.*v_proj": 3},
        init_lora_weights=False,
    )
    theirs = get_peft_model(model, config)
    expected = theirs(ids).logits.double()
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)

    ours = read_peft(tmp_path)

    dense = load(base, torch.device("cpu"), torch.float32)[0].double()
    with torch.no_grad():
        for name, term in ours.items():
            dense.get_submodule(name).weight += torch.from_numpy(np.asarray(term.dense(), float))
        torch.testing.assert_close(dense(ids).logits, expected, atol=2e-5, rtol=2e-5)
    assert {round(term.scale, 6) for term in ours.values()} == {3.0, 1.5}


@pytest.mark.parametrize("harm", ["config", "kind", "dora", "cut", "factor", "nan"])
def test_a_folder_that_is_no_plain_adapter_is_refused(adapter, tmp_path: Path, harm):
    write_peft(adapter, tmp_path, base="b")
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    tensors = load_file(tmp_path / WEIGHTS)
    first = next(iter(tensors))
    match harm:
        case "config":
            (tmp_path / CONFIG).unlink()
        case "kind":
            (tmp_path / CONFIG).write_text(json.dumps(config | {"peft_type": "LOHA"}))
        case "dora":
            (tmp_path / CONFIG).write_text(json.dumps(config | {"use_dora": True}))
        case "cut":
            (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-3])
        case "factor":
            save_file({name: value for name, value in tensors.items() if name != first}, tmp_path / WEIGHTS)
        case "nan":
            save_file(tensors | {first: np.full_like(tensors[first], np.nan)}, tmp_path / WEIGHTS)

    with pytest.raises(BadAdapter):
        read_peft(tmp_path)


def test_an_empty_adapter_is_not_written(base, tmp_path: Path):
    with pytest.raises(BadAdapter, match="the adapter is empty"):
        write_peft(random_adapter(shapes(base.folder, TARGETS), 0, seed=0), tmp_path, base="b")
