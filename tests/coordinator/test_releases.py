"""Every version is a PEFT folder that PEFT opens and that computes what was combined."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from coordinators import hosting
from judges import ScriptedJudge
from potluck.coordinator.checkpoints import published
from potluck.coordinator.model_card import model_card
from potluck.coordinator.probe import Probe
from potluck.coordinator.releases import publish, publish_missing, release_folder
from potluck.coordinator.store.records import Version
from potluck.wire.audit import verify_log
from potluck.wire.recipe import Recipe
from potluck.wire.releases import verify_release
from scripted import recipe

HIDDEN, INNER = 16, 12
MODULES = {
    "model.layers.0.self_attn.q_proj": [16, 16],
    "model.layers.1.self_attn.q_proj": [16, 16],
    "model.layers.0.mlp.down_proj": [16, 12],
}


def llama_recipe(base: str = "nobody/nothing") -> Recipe:
    return recipe(
        model={"modules": MODULES, "base": base},
        aggregation={"cohort": 2},
        adapter={"targets": ["q_proj", "down_proj"]},
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder after two versions."""
    folder = tmp_path_factory.mktemp("released") / "run"
    with hosting(folder, llama_recipe()) as hosted:
        volunteers = hosted.cohort(2)
        for version in (1, 2):
            for volunteer in volunteers:
                volunteer.contribute()
            assert hosted.coordinator.wait_for_version(version, 10)
    return folder


def test_peft_opens_a_release_and_computes_the_shared_adapter(released: Path):
    """The outside reference: the weights that PEFT merges are base + B·A of the adapter that clients downloaded."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    base = LlamaForCausalLM(config)
    before = {name: value.detach().clone().numpy() for name, value in base.state_dict().items()}
    adapter_digest = verify_release(released / "releases" / "v0002").adapter_digest
    adapter = published((released / "blobs" / adapter_digest).read_bytes())

    merged = PeftModel.from_pretrained(base, str(released / "releases" / "v0002")).merge_and_unload()

    changed = set()
    for name, value in merged.state_dict().items():
        module = name.removesuffix(".weight")
        expected = before[name] + (adapter[module].dense() if module in adapter else 0)
        np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-6)
        if module in adapter:
            changed.add(module)
            assert np.abs(value.detach().numpy() - before[name]).max() > 1e-3
    assert changed == set(MODULES)


def test_the_configuration_is_what_peft_itself_would_read(released: Path):
    """Rank 6: the tail of version 1, 2 columns, and two updates of 2 columns that went on from its head."""
    config = json.loads((released / "releases" / "v0002" / "adapter_config.json").read_text())

    assert (config["peft_type"], config["task_type"], config["bias"]) == ("LORA", "CAUSAL_LM", "none")
    assert config["r"] == config["lora_alpha"] == 6
    assert config["target_modules"] == sorted(MODULES)
    assert config["base_model_name_or_path"] == "nobody/nothing"


def test_a_release_is_signed_and_points_into_the_log(released: Path):
    summaries = [verify_release(released / "releases" / f"v000{n}") for n in (1, 2)]

    log = verify_log(released, seen=summaries[1].log_hash)
    assert log.coordinator_id == summaries[0].coordinator_id == summaries[1].coordinator_id
    assert [summary.version for summary in summaries] == [1, 2]
    assert [(s.contributors, s.examples, s.base_digest) for s in summaries] == [(2, 16, "ab" * 32)] * 2


def test_the_model_card_says_where_it_comes_from(released: Path):
    card = (released / "releases" / "v0002" / "README.md").read_text()

    for words in (
        "small, version 2",
        "to be tested",
        "ab" * 32,
        "| contributors to this version | 2 |",
        "| training examples in this version | 16 |",
        "2.0000 before, 1.5000 after",
        "PeftModel.from_pretrained",
        verify_release(released / "releases" / "v0002").log_hash.hex(),
    ):
        assert words in card


def test_the_card_says_how_the_version_did_on_the_probe(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 1}), probe=Probe(ScriptedJudge())) as hosted:
        hosted.volunteer().contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        card = (release_folder(hosted.coordinator.desk.site, 1) / "README.md").read_text("utf-8")

    assert "| loss on the coordinator's own text | 2.0000 before, 2.0000 after |" in card


def test_a_hostile_purpose_cannot_break_out_of_the_front_matter():
    version = Version(1, 0, 1, None, b"", b"", 0, 0, 1, 8, 0.0, 0.0, 0.0, 0, 0.0)
    facts = {"run_id": "r", "coordinator_id": "c", "rank": 8, "recipe_digest": "d", "log_index": 0, "log_hash": "h"}
    facts |= {"updates": 0, "weighted_down": 0, "probe": None}

    card = model_card(
        recipe(model={"base": 'x"\nlicense: "none'}, run={"purpose": "good\n---\n# Another title\n| a | b |"}),
        version,
        facts,
    )

    _, front, body = card.split("---\n", 2)
    assert front.count("\nlicense:") == 1
    assert "good --- # Another title" in body
    assert sum(line.startswith("# ") for line in body.splitlines()) == 1
    assert "none reported" in card


def test_a_release_is_written_once_and_the_same_each_time(tmp_path: Path):
    with hosting(tmp_path / "run", llama_recipe()) as hosted:
        for volunteer in hosted.cohort(2):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        site = hosted.coordinator.desk.site
        folder = release_folder(site, 1)
        first = {path.name: path.read_bytes() for path in folder.iterdir()}

        assert publish_missing(site) == []
        for path in folder.iterdir():
            path.unlink()
        publish(site, hosted.coordinator.status().versions[0])

        assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
        assert [path.name for path in folder.parent.iterdir()] == ["v0001"]
