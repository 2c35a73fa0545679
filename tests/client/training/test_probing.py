"""New versions are measured as volunteers measure: the same code, the same rows, the base as it was afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from potluck.aggregation import LowRank, encode, to_tensors
from potluck.client import data
from potluck.client.training.adapters import detach, mount
from potluck.client.training.bases import Base, load, pick_device, pick_dtype
from potluck.client.training.completing import completed
from potluck.client.training.errors import BadAdapter
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.probing import Probe, answers, chosen
from potluck.coordinator.blobs import BlobFolder
from potluck.coordinator.evaluation import CannotMeasure, EvaluationProcess
from potluck.wire.recipe import Recipe
from tiny import random_adapter

TEXT = "\n\n".join(f"{word.capitalize()} sat on the mat and ate the {word}. " * 9 for word in ("cat", "dog", "hen"))
TERMS = {
    "run": {"name": "tiny"},
    "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "down_proj"]},
    "data": {"max_tokens": 48},
}


@pytest.fixture(scope="module")
def recipe(base: Base) -> Recipe:
    written = Recipe.parse(json.dumps(TERMS | {"model": {"base": str(base.folder)}}))
    return completed(written, base.folder.parent / "cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "animals.md").write_text(TEXT, "utf-8")
    return folder


@pytest.fixture(scope="module")
def probe(recipe: Recipe, text: Path, base: Base) -> Probe:
    return Probe.open(recipe, text, base.folder.parent / "cache")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> BlobFolder:
    made = BlobFolder(tmp_path_factory.mktemp("blobs"))
    made.prepare()
    return made


def stored(blobs: BlobFolder, adapter: dict[str, LowRank]) -> Path:
    return blobs.path(blobs.put(encode(to_tensors(adapter), "fp32")))


def test_an_adapter_is_measured_as_a_volunteer_would(probe: Probe, recipe: Recipe, base: Base, blobs: BlobFolder):
    adapter = random_adapter(recipe.modules(), 3, seed=1)
    device = pick_device()
    model, tokenizer = load(base, device, pick_dtype(device))

    measured = probe.measure(stored(blobs, adapter))

    mounted = mount(model, adapter)
    assert measured == held_out_loss(mounted, tokenizer, probe.samples, 48)
    detach(mounted)
    assert probe.measure(None) == held_out_loss(model, tokenizer, probe.samples, 48)
    assert measured[0] != probe.measure(None)[0]


def test_an_adapter_of_zero_is_the_base_model(probe: Probe, recipe: Recipe, blobs: BlobFolder):
    nothing = {name: LowRank(0 * term.b, term.a) for name, term in random_adapter(recipe.modules(), 2, seed=1).items()}

    assert probe.measure(stored(blobs, nothing)) == probe.measure(None)


def test_an_adapter_of_nonsense_is_answered_and_the_next_is_measured(
    probe: Probe, recipe: Recipe, text: Path, base: Base, blobs: BlobFolder
):
    good = random_adapter(recipe.modules(), 2, seed=2)
    bad = good | {name: LowRank(1e30 * term.b, 1e30 * term.a) for name, term in list(good.items())[:1]}
    asked = [
        {"recipe": recipe.to_json(), "text": str(text), "cache": str(base.folder.parent / "cache")},
        {"adapter": str(stored(blobs, bad))},
        {"adapter": str(stored(blobs, good))},
    ]

    opened, nonsense, sense = answers(map(json.dumps, asked))

    assert opened == {"digest": probe.digest, "tokens": probe.measure(None)[1]}
    assert nonsense == {"loss": None, "tokens": sense["tokens"]}
    assert sense["loss"] == probe.measure(stored(blobs, good))[0]


def test_an_adapter_of_another_model_is_an_answer_too(probe: Probe, blobs: BlobFolder):
    other = random_adapter({"model.layers.0.self_attn.q_proj": (8, 8)}, 2, seed=2)

    with pytest.raises(BadAdapter):
        probe.measure(stored(blobs, other))


def test_the_digest_follows_the_text_and_not_its_place(recipe: Recipe, base: Base, probe: Probe, tmp_path: Path):
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.txt").write_text(TEXT.replace("cat", "owl"), "utf-8")
    cache = base.folder.parent / "cache"

    assert Probe.open(recipe, tmp_path / "a.txt", cache).digest == probe.digest
    assert Probe.open(recipe, tmp_path / "b", cache).digest != probe.digest


def test_a_large_text_is_measured_in_part_from_all_over_it():
    """A million characters are too many; the first hundred thousand would be one author of many."""
    samples = tuple(data.Sample((data.Part("", f"{n} " + "x" * 990, trained=True),)) for n in range(1_000))

    taken = chosen(samples)

    assert 131 <= len(taken) <= 133
    assert chosen(samples[::-1]) == taken
    assert max(samples.index(one) for one in taken) > 900


def test_the_real_process_measures_and_says_what_is_wrong(recipe: Recipe, text: Path, base: Base, probe: Probe):
    command = [sys.executable, "-m", "potluck.client.training.probing"]
    terms = {"recipe": recipe.to_json(), "text": str(text), "cache": str(base.folder.parent / "cache")}
    judge = EvaluationProcess(command, terms)
    try:
        assert judge.open() == probe.measure(None)[1]
        assert judge.measure(None).loss == pytest.approx(probe.measure(None)[0], rel=1e-6)
        assert judge.digest == probe.digest
    finally:
        judge.close()

    with pytest.raises(CannotMeasure, match="does not exist"):
        EvaluationProcess(command, terms | {"text": str(text / "nowhere")}).open()


def test_it_needs_nothing_of_a_volunteer_but_the_training():
    """[evaluation] installs less than [client]: no sensors."""
    code = "import sys; sys.modules['psutil'] = None; import potluck.client.training.probing"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
